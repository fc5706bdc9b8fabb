/** Cloud State: launch orders, with the caller's own uuids. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import { DomainError } from '../../domain/errors.ts'
import { acceptCloudStateOrder, listCloudStateInstances } from '../../store/cloud-state.ts'
import { cloudsForOrders } from '../../store/clouds.ts'
import { answered, changeOnce, within } from '../../store/idempotency.ts'
import { listOrders, type ShownOrder, showOrder } from '../../store/order-list.ts'
import { type AcceptedOrder, endOrder } from '../../store/orders.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { ORDER_STATES } from '../native/order-view.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import { BlockerOut, beforeId, body, Id, iso, json, MomentOut, Next, nextCursor, page } from '../schemas.ts'
import { checkOrder, InstanceOut, OrderInput, renderInstance } from './schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const OrderOut = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    name: z.string(),
    state: z.enum(ORDER_STATES),
    partial: z.boolean(),
    policy: z.union([z.enum(['any', 'all']), z.strictObject({ at_least: z.int() })]),
    count: z.int(),
    counts: z.record(z.string(), z.int()).openapi({ description: 'Items by state.' }),
    clouds: z.array(z.string()),
    priority: z.int(),
    blocker: BlockerOut.nullable().openapi({ description: 'What holds it up.' }),
    created_at: MomentOut,
    instances: z.array(InstanceOut).optional().openapi({ description: 'Of a single order; newest first.' }),
  })
  .openapi('CloudStateOrder')
const Envelope = z.strictObject({ launch_order: OrderOut })
const Params = z.strictObject({ order_id: Id })
const ENTRIES_MAX = 1_000

const render = (order: ShownOrder): z.infer<typeof OrderOut> => ({
  id: order.id,
  href: `/api/cloud_state/launch_orders/${order.id}`,
  name: order.name,
  state: order.state,
  partial: order.partial,
  policy: order.policy === 'at_least' ? { at_least: order.at_least! } : order.policy,
  count: order.count,
  counts: order.counts,
  clouds: order.clouds,
  priority: order.priority,
  blocker: order.blocker,
  created_at: iso(order.created_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['Cloud State'] }

const post = createRoute({
  method: 'post',
  path: '/api/cloud_state/launch_orders',
  ...common,
  summary: 'Launch instances: all are accepted, or none',
  ...guardedBody('write'),
  request: { ...writeHeaders, ...body('launch_order', OrderInput) },
  responses: {
    200: json('The same uuids with the same content: the order there is.', Envelope),
    202: json('Accepted: it is on record and will settle.', Envelope),
    ...errors,
  },
})

const list = createRoute({
  method: 'get',
  path: '/api/cloud_state/launch_orders',
  ...common,
  summary: 'List launch orders, newest first',
  ...guarded('read'),
  request: { query: z.object({ ...page, state: z.enum(ORDER_STATES).optional() }) },
  responses: { 200: json('A page.', z.strictObject({ launch_orders: z.array(OrderOut), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/cloud_state/launch_orders/{order_id}',
  ...common,
  summary: 'Read a launch order with its instances',
  ...guarded('read'),
  request: { params: Params },
  responses: { 200: json('The order.', Envelope), ...errors },
})

export const TerminateQuery = z.object({
  terminate: z.enum(['true', 'false', '1', '0']).optional().openapi({ description: 'Also what runs.' }),
})

const remove = createRoute({
  method: 'delete',
  path: '/api/cloud_state/launch_orders/{order_id}',
  ...common,
  summary: 'Cancel what does not run yet; what runs only with `?terminate=true`',
  ...guarded('write'),
  request: { ...changeHeaders, params: Params, query: TerminateQuery },
  responses: { 202: json('It is wished; a repeat changes nothing.', Envelope), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/cloud_state/launch_orders`. */
export function routeCloudStateOrders(app: Api): void {
  app.openapi(post, async (c) => {
    const { order_id, fresh } = await launch(c, c.req.valid('json'))
    const order = await show(c, order_id)
    c.header('Location', order.href)
    return c.json({ launch_order: order }, fresh ? 202 : 200)
  })

  app.openapi(list, async (c) => {
    const { limit, cursor, state } = c.req.valid('query')
    const query = { state, limit: limit + 1, before: beforeId('launch-orders', cursor) }
    const rows = await listOrders(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json(
      { launch_orders: rows.slice(0, limit).map(render), next: nextCursor('launch-orders', rows, limit) },
      200,
    )
  })

  app.openapi(get, async (c) => c.json({ launch_order: await show(c, c.req.valid('param').order_id) }, 200))

  app.openapi(remove, async (c) => {
    const { order_id } = c.req.valid('param')
    const { store } = c.get('deps')
    const caller = callerOf(c)
    const ends = isTrue(c.req.valid('query').terminate)
    const key = await requestKey(c)
    const { state } = await show(c, order_id)
    if (!ends && state === 'running' && !(await answered(store.db, caller.project_id, key)))
      throw new DomainError('conflict', `launch order ${order_id} is running; ?terminate=true ends its instances`)
    const answer = { status: 202, resource_type: 'order', resource_id: order_id }
    await changeOnce(store, caller, key, answer, (trx) =>
      endOrder(within(store, trx), caller, order_id, { if_match: ifMatch(c), keep_running: !ends }),
    )
    return c.json({ launch_order: await show(c, order_id) }, 202)
  })
}

export const isTrue = (flag: string | undefined): boolean => flag === 'true' || flag === '1'

/** Accepts an order; not fresh: it was there already. */
export async function launch(
  c: ApiContext,
  input: z.infer<typeof OrderInput>,
): Promise<{ order_id: string; fresh: boolean }> {
  const deps = c.get('deps')
  const { store, envelope, onAccepted } = deps
  const caller = callerOf(c)
  const granted = await cloudsForOrders(store.db, caller.project_id)
  const order = await checkOrder(input, granted, caller.project_id, deps)
  const answer = { status: 202, resource_type: 'order', resource_id: newId() }
  let accepted: AcceptedOrder | undefined
  const given = await changeOnce(store, caller, await requestKey(c), answer, async (trx) => {
    accepted = await acceptCloudStateOrder(trx, caller, order, envelope)
    return { status: accepted.made ? 202 : 200, resource_id: accepted.order_id }
  })
  if (!given.repeated && accepted?.made) onAccepted?.(accepted)
  return { order_id: given.resource_id, fresh: given.status === 202 }
}

async function show(c: ApiContext, order_id: string): Promise<z.infer<typeof OrderOut>> {
  const { db } = c.get('deps').store
  const { project_id } = c.get('identity')
  const order = await showOrder(db, project_id, order_id)
  if (!order) throw notFound('launch order', order_id)
  tellVersion(c, order.sequence)
  const instances = await listCloudStateInstances(db, project_id, { order_id, limit: ENTRIES_MAX })
  return { ...render(order), instances: instances.map(renderInstance) }
}
