/** Leases: made, moved, ended. */
import { createRoute, z } from '@hono/zod-openapi'
import type { OrderTemplate } from '../../domain/launch-order.ts'
import type { WantedHosts } from '../../store/bookings.ts'
import { type CloudNames, cloudsForOrders } from '../../store/clouds.ts'
import { changeOnce, within } from '../../store/idempotency.ts'
import { createLease, endLease, findLease, type LeaseRow, listLeases, updateLease } from '../../store/leases.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import {
  BlockerOut,
  beforeId,
  body,
  fields,
  Id,
  iso,
  isoOrNull,
  json,
  Moment,
  MomentOut,
  Name,
  Next,
  nextCursor,
  page,
  Word,
} from '../schemas.ts'
import { checkNames, notGranted, orderShape, POLICY_ERROR, policyFits } from './order-input.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const STATES = ['PENDING', 'STARTING', 'ACTIVE', 'TERMINATING', 'TERMINATED', 'ERROR'] as const
const MINUTE_MS = 60_000
const HOSTS_MAX = 100
const NOTICE_MINUTES_MAX = 525_600

const plain = {
  id: z.string(),
  href: z.string(),
  name: z.string(),
  state: z.enum(STATES),
  start_at: MomentOut,
  end_at: MomentOut,
  before_end_at: MomentOut.nullable(),
  order: z.record(z.string(), z.unknown()).nullable().openapi({ description: 'What it launches at its start.' }),
  order_id: z.string().nullable().openapi({ description: 'What it launched.' }),
  wish: z.enum(['run', 'end']),
  blocker: BlockerOut.nullable(),
  sequence: z.int(),
  created_at: MomentOut,
  ended_at: MomentOut.nullable(),
  overstayed_ms: z
    .int()
    .nullable()
    .openapi({ description: 'How long others waited for hosts that it still held, the longest; null: nobody had to.' }),
} as const
const LeaseEvent = z.strictObject({
  type: z.string(),
  time: MomentOut,
  status: z.enum(['UNDONE', 'IN_PROGRESS', 'DONE', 'ERROR']),
  acted_at: MomentOut.nullable(),
  late_ms: z.int().nullable(),
})
const LeaseSummary = z.strictObject(plain).openapi('LeaseSummary')
const LeaseHosts = z.strictObject({
  cloud: z.string(),
  count: z.int(),
  names: z.array(z.string()).openapi({ description: 'Those it has booked, or had.' }),
})
const Lease = z.strictObject({ ...plain, hosts: LeaseHosts.nullable(), events: z.array(LeaseEvent) }).openapi('Lease')
const LeaseEnvelope = z.strictObject({ lease: Lease })
const LeaseParams = z.strictObject({ lease_id: Id })

const LeaseOrder = fields({
  ...orderShape,
  name: Name.optional().openapi({ description: 'Default: the name of the lease.' }),
})
  .refine(policyFits, POLICY_ERROR)
  .openapi('LeaseOrderInput')
const LeaseInput = fields({
  name: Name,
  start_at: z.union([z.literal('now'), Moment]),
  end_at: Moment,
  before_end_at: Moment.optional().openapi({ description: 'When to give notice of the end.' }),
  before_end_minutes: z
    .int()
    .min(0)
    .max(NOTICE_MINUTES_MAX)
    .optional()
    .openapi({ description: 'The same, before the end.' }),
  order: LeaseOrder.optional().openapi({ description: 'A launch order that begins and ends with the lease.' }),
  hosts: fields({ cloud: Word, count: z.int().min(1).max(HOSTS_MAX).default(1) })
    .optional()
    .openapi({
      description: 'Hosts that no other lease has meanwhile; the instances of its order go to them in turn.',
    }),
})
  .refine((lease) => lease.before_end_at === undefined || lease.before_end_minutes === undefined, {
    error: 'stands instead of `before_end_at`, not beside it',
    path: ['before_end_minutes'],
  })
  .openapi('LeaseInput')
const LeaseChange = fields({
  name: Name.optional(),
  start_at: Moment.optional().openapi({ description: 'Only while it has not started.' }),
  end_at: Moment.optional(),
  before_end_at: Moment.nullable().optional().openapi({ description: 'Null: no notice.' }),
}).openapi('LeaseChange')

const renderSummary = (row: LeaseRow): z.infer<typeof LeaseSummary> => ({
  id: row.id,
  href: `/api/leases/${row.id}`,
  name: row.name,
  state: row.state,
  start_at: iso(row.start_at),
  end_at: iso(row.end_at),
  before_end_at: isoOrNull(row.before_end_at),
  order: row.order_template ? { ...row.order_template } : null,
  order_id: row.order_id,
  wish: row.wish,
  blocker: row.blocker,
  sequence: row.sequence,
  created_at: iso(row.created_at),
  ended_at: isoOrNull(row.ended_at),
  overstayed_ms: row.overstayed_ms,
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['leases'] }

const post = createRoute({
  method: 'post',
  path: '/api/leases',
  ...common,
  summary: 'Make a lease',
  ...guardedBody('write'),
  request: { ...writeHeaders, ...body('lease', LeaseInput) },
  responses: { 202: json('Accepted: it is on record and starts in time.', LeaseEnvelope), ...errors },
})

const list = createRoute({
  method: 'get',
  path: '/api/leases',
  ...common,
  summary: 'List leases, newest first',
  ...guarded('read'),
  request: { query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ leases: z.array(LeaseSummary), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/leases/{lease_id}',
  ...common,
  summary: 'Read a lease',
  ...guarded('read'),
  request: { params: LeaseParams },
  responses: { 200: json('The lease.', LeaseEnvelope), ...errors },
})

const changing = {
  path: '/api/leases/{lease_id}',
  ...common,
  ...guardedBody('write'),
  request: { ...changeHeaders, params: LeaseParams, ...body('lease', LeaseChange) },
  responses: { 200: json('Changed; what is left out stays as it is.', LeaseEnvelope), ...errors },
} as const
const patch = createRoute({ method: 'patch', summary: 'Rename, move, extend or shorten a lease', ...changing })
const put = createRoute({ method: 'put', summary: 'The same as PATCH', ...changing })

const remove = createRoute({
  method: 'delete',
  path: '/api/leases/{lease_id}',
  ...common,
  summary: 'End a lease now',
  ...guarded('write'),
  request: { ...changeHeaders, params: LeaseParams },
  responses: { 202: json('It is wished; a repeat changes nothing.', LeaseEnvelope), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/leases`. */
export function routeLeases(app: Api): void {
  app.openapi(post, async (c) => {
    const { store } = c.get('deps')
    const input = c.req.valid('json')
    const caller = callerOf(c)
    const end_at = new Date(input.end_at)
    const granted = input.order || input.hosts ? await cloudsForOrders(store.db, caller.project_id) : []
    const lease = {
      name: input.name,
      start_at: input.start_at === 'now' ? ('now' as const) : new Date(input.start_at),
      end_at,
      before_end_at:
        input.before_end_minutes === undefined
          ? moment(input.before_end_at)
          : new Date(end_at.getTime() - input.before_end_minutes * MINUTE_MS),
      hosts: input.hosts ? wantedHosts(granted, input.hosts) : null,
      order: input.order ? template(granted, input.name, input.order, input.hosts) : null,
    }
    const { lease_id } = await createLease(store, caller, lease, await requestKey(c))
    c.header('Location', `/api/leases/${lease_id}`)
    return c.json({ lease: await show(c, lease_id) }, 202)
  })

  app.openapi(list, async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const query = { limit: limit + 1, before: beforeId('leases', cursor) }
    const rows = await listLeases(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json({ leases: rows.slice(0, limit).map(renderSummary), next: nextCursor('leases', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => c.json({ lease: await show(c, c.req.valid('param').lease_id) }, 200))
  app.openapi(patch, async (c) => c.json({ lease: await change(c, c.req.valid('param'), c.req.valid('json')) }, 200))
  app.openapi(put, async (c) => c.json({ lease: await change(c, c.req.valid('param'), c.req.valid('json')) }, 200))

  app.openapi(remove, async (c) => {
    const { store } = c.get('deps')
    const { lease_id } = c.req.valid('param')
    const answer = { status: 202, resource_type: 'lease', resource_id: lease_id }
    await changeOnce(store, callerOf(c), await requestKey(c), answer, (trx) =>
      endLease(within(store, trx), callerOf(c), lease_id, { if_match: ifMatch(c) }),
    )
    return c.json({ lease: await show(c, lease_id) }, 202)
  })
}

const moment = (text: string | undefined): Date | null => (text === undefined ? null : new Date(text))

type HostsInput = NonNullable<z.infer<typeof LeaseInput>['hosts']>

function wantedHosts(granted: readonly CloudNames[], { cloud: name, count }: HostsInput): WantedHosts {
  const cloud = granted.find((one) => one.name === name)
  if (!cloud) throw invalid([notGranted('body.hosts.cloud', granted)])
  return { cloud_id: cloud.id, count }
}

/** The order of a lease with its names checked; sealed texts have no place in a template. */
function template(
  granted: readonly CloudNames[],
  lease_name: string,
  order: z.infer<typeof LeaseOrder>,
  hosts: HostsInput | undefined,
): OrderTemplate {
  if (order.user_data !== undefined)
    throw invalid([{ path: 'body.order.user_data', reason: "is not supported in a lease's order" }])
  if (hosts && order.clouds?.some((name) => name !== hosts.cloud))
    throw invalid([{ path: 'body.order.clouds', reason: 'names another cloud than that of its hosts' }])
  const named = hosts ? { ...order, clouds: [hosts.cloud] } : order
  const { clouds } = checkNames(named, granted, 'body.order')
  return { ...order, name: order.name ?? lease_name, clouds: clouds.map((cloud) => cloud.name) }
}

async function change(
  c: ApiContext,
  { lease_id }: { lease_id: string },
  input: z.infer<typeof LeaseChange>,
): Promise<z.infer<typeof Lease>> {
  const { store } = c.get('deps')
  const { name, start_at, end_at, before_end_at } = input
  const changes = {
    ...(name === undefined ? {} : { name }),
    ...(start_at === undefined ? {} : { start_at: new Date(start_at) }),
    ...(end_at === undefined ? {} : { end_at: new Date(end_at) }),
    ...(before_end_at === undefined ? {} : { before_end_at: before_end_at === null ? null : new Date(before_end_at) }),
  }
  const answer = { status: 200, resource_type: 'lease', resource_id: lease_id }
  await changeOnce(store, callerOf(c), await requestKey(c), answer, (trx) =>
    updateLease(within(store, trx), callerOf(c), lease_id, changes, { if_match: ifMatch(c) }),
  )
  return show(c, lease_id)
}

async function show(c: ApiContext, lease_id: string): Promise<z.infer<typeof Lease>> {
  const lease = await findLease(c.get('deps').store.db, c.get('identity').project_id, lease_id)
  if (!lease) throw notFound('lease', lease_id)
  tellVersion(c, lease.sequence)
  const events = lease.events.map(({ type, time, status, acted_at, late_ms }) => ({
    type,
    time: iso(time),
    status,
    acted_at: isoOrNull(acted_at),
    late_ms,
  }))
  return { ...renderSummary(lease), hosts: lease.hosts, events }
}
