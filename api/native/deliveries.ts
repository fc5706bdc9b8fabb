/** Deliveries: events on their way to hooks, and the log of their attempts. */
import { createRoute, z } from '@hono/zod-openapi'
import type { Trx } from '../../store/database.ts'
import {
  cancelDelivery,
  type Delivery as DeliveryRow,
  deliveryAttempts,
  getDelivery,
  listDeliveries,
  retryDelivery,
} from '../../store/deliveries.ts'
import { changeOnce } from '../../store/idempotency.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { requestKey } from '../request.ts'
import { errors, guarded, writeHeaders } from '../route.ts'
import {
  decodeCursor,
  fields,
  Id,
  iso,
  isoOrNull,
  json,
  MomentOut,
  Next,
  NUMBER,
  nextCursor,
  page,
} from '../schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const STATES = [
  'pending',
  'in_flight',
  'waiting',
  'parked',
  'delivered',
  'exhausted',
  'aborted',
  'cancelled',
  'expired',
] as const

const Delivery = z
  .strictObject({
    id: z.int(),
    href: z.string(),
    hook_id: z.string(),
    event_id: z.string(),
    event_type: z.string(),
    resource_type: z.string(),
    resource_id: z.string(),
    sequence: z.int(),
    state: z.enum(STATES),
    reason: z.string().nullable().openapi({ description: 'Why it waits.' }),
    attempts: z.int().openapi({ description: 'Those that took a place of the schedule.' }),
    sends: z.int().openapi({ description: 'All of them.' }),
    next_attempt_at: MomentOut.nullable(),
    created_at: MomentOut,
    settled_at: MomentOut.nullable(),
  })
  .openapi('Delivery')

const Attempt = z
  .strictObject({
    number: z.int(),
    trigger: z.string(),
    started_at: MomentOut,
    ended_at: MomentOut,
    outcome: z.string(),
    status: z.int().nullable(),
    response_headers: z.record(z.string(), z.unknown()).nullable(),
    response_body: z.string().nullable(),
    remote_address: z.string().nullable().openapi({ description: 'For operators.' }),
    next_attempt_at: MomentOut.nullable(),
  })
  .openapi('DeliveryAttempt')

const DeliveryEnvelope = z.strictObject({ delivery: Delivery })
const DeliveryParams = z.strictObject({ delivery_id: z.string().regex(NUMBER) })
const EventId = z.string().regex(/^evt_[0-9A-Z]{26}$/, { error: 'is not the id of an event' })

const render = (row: DeliveryRow): z.infer<typeof Delivery> => ({
  id: row.id,
  href: `/api/deliveries/${row.id}`,
  hook_id: row.hook_id,
  event_id: row.event_id,
  event_type: row.event_type,
  resource_type: row.resource_type,
  resource_id: row.resource_id,
  sequence: row.sequence,
  state: row.state,
  reason: row.reason,
  attempts: row.attempts,
  sends: row.sends,
  next_attempt_at: isoOrNull(row.next_attempt_at),
  created_at: iso(row.created_at),
  settled_at: isoOrNull(row.settled_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['deliveries'] }

const list = createRoute({
  method: 'get',
  path: '/api/deliveries',
  ...common,
  summary: 'List deliveries, newest first',
  ...guarded('read'),
  request: {
    query: fields({
      ...page,
      state: z.enum(STATES).optional(),
      hook_id: Id.optional(),
      resource_id: Id.optional(),
      event_id: EventId.optional(),
    }),
  },
  responses: { 200: json('A page.', z.strictObject({ deliveries: z.array(Delivery), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/deliveries/{delivery_id}',
  ...common,
  summary: 'Read a delivery',
  ...guarded('read'),
  request: { params: DeliveryParams },
  responses: { 200: json('The delivery.', DeliveryEnvelope), ...errors },
})

const attempts = createRoute({
  method: 'get',
  path: '/api/deliveries/{delivery_id}/attempts',
  ...common,
  summary: 'Read the log of a delivery, oldest first',
  ...guarded('read'),
  request: { params: DeliveryParams },
  responses: { 200: json('All of them.', z.strictObject({ attempts: z.array(Attempt), next: Next })), ...errors },
})

const acting = {
  method: 'post',
  ...common,
  ...guarded('write'),
  request: { ...writeHeaders, params: DeliveryParams },
} as const
const retry = createRoute({
  path: '/api/deliveries/{delivery_id}/retry',
  summary: 'Send it now; a finished one begins its schedule anew',
  ...acting,
  responses: { 202: json('It is due.', DeliveryEnvelope), ...errors },
})
const cancel = createRoute({
  path: '/api/deliveries/{delivery_id}/cancel',
  summary: 'Give it up, so that the next event of its resource goes on',
  ...acting,
  responses: { 200: json('It is given up.', DeliveryEnvelope), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/deliveries`. */
export function routeDeliveries(app: Api): void {
  app.openapi(list, async (c) => {
    const { limit, cursor, ...filter } = c.req.valid('query')
    const before = cursor === undefined ? {} : { before: Number(decodeCursor('deliveries', NUMBER, cursor)) }
    const query = { ...filter, ...before, limit: limit + 1 }
    const rows = await listDeliveries(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json({ deliveries: rows.slice(0, limit).map(render), next: nextCursor('deliveries', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => c.json({ delivery: render(await owned(c, c.req.valid('param').delivery_id)) }, 200))

  app.openapi(attempts, async (c) => {
    const { id } = await owned(c, c.req.valid('param').delivery_id)
    const { project_id, role } = c.get('identity')
    const rows = await deliveryAttempts(c.get('deps').store.db, project_id, id)
    const shown = rows.map((row) => ({
      ...row,
      started_at: iso(row.started_at),
      ended_at: iso(row.ended_at),
      next_attempt_at: isoOrNull(row.next_attempt_at),
      remote_address: role === 'operator' ? row.remote_address : null,
    }))
    return c.json({ attempts: shown, next: null }, 200)
  })

  app.openapi(retry, async (c) => {
    return c.json({ delivery: await act(c, c.req.valid('param').delivery_id, 202, retryDelivery) }, 202)
  })
  app.openapi(cancel, async (c) => {
    return c.json({ delivery: await act(c, c.req.valid('param').delivery_id, 200, cancelDelivery) }, 200)
  })
}

async function owned(c: ApiContext, delivery_id: string): Promise<DeliveryRow> {
  const delivery = await getDelivery(c.get('deps').store.db, c.get('identity').project_id, Number(delivery_id))
  if (!delivery) throw notFound('delivery', delivery_id)
  return delivery
}

async function act(
  c: ApiContext,
  delivery_id: string,
  status: number,
  change: (trx: Trx, project_id: string, id: number) => Promise<DeliveryRow>,
): Promise<z.infer<typeof Delivery>> {
  const { store } = c.get('deps')
  const { id, hook_id } = await owned(c, delivery_id)
  // Deliveries have numbers, keys keep uuids: the hook's stands for it, the number is part of the hashed address.
  const answer = { status, resource_type: 'delivery_of_hook', resource_id: hook_id }
  await changeOnce(store, callerOf(c), await requestKey(c), answer, async (trx) => {
    await change(trx, c.get('identity').project_id, id)
  })
  return render(await owned(c, delivery_id))
}
