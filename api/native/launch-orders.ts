/** Launch orders: asked for, read, ended. */
import { createRoute, z } from '@hono/zod-openapi'
import { cloudsForOrders } from '../../store/clouds.ts'
import { changeOnce, within } from '../../store/idempotency.ts'
import { listInstances } from '../../store/instances.ts'
import { listAttempts, listOrders, type ShownOrder, showOrder } from '../../store/order-list.ts'
import { acceptOrder, endOrder, findOrder } from '../../store/orders.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import {
  BlockerOut,
  beforeId,
  body,
  ErrorOut,
  fields,
  Id,
  iso,
  isoOrNull,
  json,
  MomentOut,
  Next,
  nextCursor,
  page,
} from '../schemas.ts'
import { Instance, renderInstance } from './instance-view.ts'
import { checkNames, OrderInput } from './order-input.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const STATES = [
  'queued',
  'launching',
  'settling',
  'running',
  'held',
  'compensating',
  'cancelled',
  'terminating',
  'terminated',
  'failed',
] as const

const LaunchOrder = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    name: z.string(),
    deployment: z.strictObject({ id: z.string(), name: z.string(), href: z.string() }),
    lease_id: z.string().nullable(),
    state: z.enum(STATES),
    partial: z.boolean().openapi({ description: 'It runs, but not with all it was to have.' }),
    policy: z.enum(['all', 'at_least', 'any']),
    at_least: z.int().nullable(),
    count: z.int(),
    counts: z.record(z.string(), z.int()).openapi({ description: 'Items by state.' }),
    clouds: z.array(z.string()),
    size: z.string(),
    image: z.string(),
    user_data: z.boolean().openapi({ description: 'Whether it carries user data, which is never shown.' }),
    extra: z.record(z.string(), z.unknown()),
    priority: z.int(),
    wish: z.enum(['run', 'cancel', 'terminate']),
    blocker: BlockerOut.nullable().openapi({ description: 'What holds it up.' }),
    sequence: z.int(),
    created_at: MomentOut,
    settled_at: MomentOut.nullable(),
  })
  .openapi('LaunchOrder')

const Attempt = z
  .strictObject({
    id: z.string(),
    item: z.int(),
    instance_id: z.string(),
    number: z.int(),
    cloud: z.string(),
    state: z.enum(['open', 'sent', 'won', 'lost', 'unknown', 'surplus']),
    provider_id: z.string().nullable(),
    sends: z.int(),
    sent_at: MomentOut.nullable(),
    answered_at: MomentOut.nullable(),
    settle_at: MomentOut.nullable().openapi({ description: 'From then on silence means it was never carried out.' }),
    error: ErrorOut.nullable(),
    created_at: MomentOut,
    gone_at: MomentOut.nullable(),
  })
  .openapi('LaunchAttempt')

const OrderEnvelope = z.strictObject({ launch_order: LaunchOrder })
const OrderParams = z.strictObject({ order_id: Id })

type Column = Exclude<keyof z.infer<typeof LaunchOrder>, 'href' | 'user_data' | 'deployment'>
type Shown = Pick<ShownOrder, Column | 'deployment' | 'deployment_id' | 'sealed_user_data'>

function render(row: Shown): z.infer<typeof LaunchOrder> {
  const { id, name, state, partial, policy, at_least, count, counts, clouds, size, image, extra, priority, wish } = row
  return {
    id,
    href: `/api/launch-orders/${id}`,
    name,
    deployment: { id: row.deployment_id, name: row.deployment, href: `/api/deployments/${row.deployment_id}` },
    lease_id: row.lease_id,
    state,
    partial,
    policy,
    at_least,
    count,
    counts,
    clouds,
    size,
    image,
    user_data: row.sealed_user_data !== null,
    extra,
    priority,
    wish,
    blocker: row.blocker,
    sequence: row.sequence,
    created_at: iso(row.created_at),
    settled_at: isoOrNull(row.settled_at),
  }
}

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['launch orders'] }

const post = createRoute({
  method: 'post',
  path: '/api/launch-orders',
  ...common,
  summary: 'Ask for instances',
  ...guardedBody('write'),
  request: { ...writeHeaders, ...body('launch_order', OrderInput) },
  responses: { 202: json('Accepted: it is on record and will settle.', OrderEnvelope), ...errors },
})

const list = createRoute({
  method: 'get',
  path: '/api/launch-orders',
  ...common,
  summary: 'List launch orders, newest first',
  ...guarded('read'),
  request: {
    query: fields({ ...page, state: z.enum(STATES).optional(), deployment_id: Id.optional(), lease_id: Id.optional() }),
  },
  responses: { 200: json('A page.', z.strictObject({ launch_orders: z.array(LaunchOrder), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/launch-orders/{order_id}',
  ...common,
  summary: 'Read a launch order',
  ...guarded('read'),
  request: { params: OrderParams },
  responses: { 200: json('The order.', OrderEnvelope), ...errors },
})

const ending = {
  ...common,
  ...guarded('write'),
  request: { ...changeHeaders, params: OrderParams },
  responses: { 202: json('It is wished; a repeat changes nothing.', OrderEnvelope), ...errors },
}
const remove = createRoute({
  method: 'delete',
  path: '/api/launch-orders/{order_id}',
  summary: 'End a launch order: cancel it before it has settled, else terminate its instances',
  ...ending,
})
const cancel = createRoute({
  method: 'post',
  path: '/api/launch-orders/{order_id}/cancel',
  summary: 'The same as DELETE',
  ...ending,
})

const instances = createRoute({
  method: 'get',
  path: '/api/launch-orders/{order_id}/instances',
  ...common,
  summary: 'List the instances of an order, newest first',
  ...guarded('read'),
  request: { params: OrderParams, query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ instances: z.array(Instance), next: Next })), ...errors },
})

const attempts = createRoute({
  method: 'get',
  path: '/api/launch-orders/{order_id}/attempts',
  ...common,
  summary: 'List what was tried at which cloud, newest first',
  ...guarded('read'),
  request: { params: OrderParams, query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ attempts: z.array(Attempt), next: Next })), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/launch-orders`. */
export function routeLaunchOrders(app: Api): void {
  app.openapi(post, async (c) => {
    const order = await accept(c, c.req.valid('json'))
    tellVersion(c, order.sequence)
    c.header('Location', order.href)
    return c.json({ launch_order: order }, 202)
  })

  app.openapi(list, async (c) => {
    const { limit, cursor, ...filter } = c.req.valid('query')
    const query = { ...filter, limit: limit + 1, before: beforeId('launch-orders', cursor) }
    const rows = await listOrders(c.get('deps').store.db, c.get('identity').project_id, query)
    const next = nextCursor('launch-orders', rows, limit)
    return c.json({ launch_orders: rows.slice(0, limit).map(render), next }, 200)
  })

  app.openapi(get, async (c) => c.json({ launch_order: await show(c, c.req.valid('param').order_id) }, 200))
  app.openapi(remove, async (c) => c.json({ launch_order: await end(c, c.req.valid('param').order_id) }, 202))
  app.openapi(cancel, async (c) => c.json({ launch_order: await end(c, c.req.valid('param').order_id) }, 202))

  app.openapi(instances, async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const { order_id } = c.req.valid('param')
    const { project_id } = await owned(c, order_id)
    const query = { order_id, limit: limit + 1, before: beforeId('instances', cursor) }
    const rows = await listInstances(c.get('deps').store.db, project_id, query)
    return c.json(
      { instances: rows.slice(0, limit).map(renderInstance), next: nextCursor('instances', rows, limit) },
      200,
    )
  })

  app.openapi(attempts, async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const { order_id } = c.req.valid('param')
    await owned(c, order_id)
    const query = { limit: limit + 1, before: beforeId('attempts', cursor) }
    const rows = await listAttempts(c.get('deps').store.db, order_id, query)
    const next = nextCursor('attempts', rows, limit)
    return c.json({ attempts: rows.slice(0, limit).map(renderAttempt), next }, 200)
  })
}

/** Accepts in two looks at the record besides the token's: the clouds, and the one statement that writes all. */
async function accept(c: ApiContext, input: z.infer<typeof OrderInput>): Promise<z.infer<typeof LaunchOrder>> {
  const { store, envelope, onAccepted } = c.get('deps')
  const caller = callerOf(c)
  const { user_data, clouds: _names, ...order } = input
  const clouds = checkNames(input, await cloudsForOrders(store.db, caller.project_id))
  const sealed_user_data = user_data === undefined ? null : envelope.seal(user_data, 'user_data')
  const checked = { ...order, cloud_ids: clouds.map((cloud) => cloud.id), sealed_user_data }
  const accepted = await acceptOrder(store, caller, checked, await requestKey(c))
  if (!accepted.made) return show(c, accepted.order_id)
  onAccepted?.(accepted)
  const { deployment_id, created_at } = accepted.made
  return render({
    ...order,
    id: accepted.order_id,
    deployment_id,
    deployment: order.deployment ?? accepted.order_id,
    lease_id: null,
    state: 'queued',
    partial: false,
    at_least: order.at_least ?? null,
    counts: { queued: order.count },
    clouds: clouds.map((cloud) => cloud.name),
    sealed_user_data,
    extra: order.extra ?? {},
    priority: order.priority ?? 0,
    wish: 'run',
    blocker: null,
    sequence: 1,
    created_at,
    settled_at: null,
  })
}

async function show(c: ApiContext, order_id: string): Promise<z.infer<typeof LaunchOrder>> {
  const order = await showOrder(c.get('deps').store.db, c.get('identity').project_id, order_id)
  if (!order) throw notFound('launch order', order_id)
  tellVersion(c, order.sequence)
  return render(order)
}

async function end(c: ApiContext, order_id: string): Promise<z.infer<typeof LaunchOrder>> {
  const { store } = c.get('deps')
  const caller = callerOf(c)
  const answer = { status: 202, resource_type: 'order', resource_id: order_id }
  await changeOnce(store, caller, await requestKey(c), answer, (trx) =>
    endOrder(within(store, trx), caller, order_id, { if_match: ifMatch(c) }),
  )
  return show(c, order_id)
}

async function owned(c: ApiContext, order_id: string) {
  const order = await findOrder(c.get('deps').store.db, c.get('identity').project_id, order_id)
  if (!order) throw notFound('launch order', order_id)
  return order
}

type AttemptRow = Awaited<ReturnType<typeof listAttempts>>[number]
const renderAttempt = (row: AttemptRow): z.infer<typeof Attempt> => ({
  id: row.id,
  item: row.item,
  instance_id: row.instance_id,
  number: row.number,
  cloud: row.cloud,
  state: row.state,
  provider_id: row.provider_id,
  sends: row.sends,
  sent_at: isoOrNull(row.sent_at),
  answered_at: isoOrNull(row.answered_at),
  settle_at: isoOrNull(row.settle_at),
  error: row.error,
  created_at: iso(row.created_at),
  gone_at: isoOrNull(row.gone_at),
})
