/** Launch orders: asked for, read, ended. */
import { createRoute, z } from '@hono/zod-openapi'
import { beginTrace } from '../../domain/tracing.ts'
import { cloudsForOrders } from '../../store/clouds.ts'
import { changeOnce, within } from '../../store/idempotency.ts'
import { listInstances } from '../../store/instances.ts'
import { listAttempts, listOrders, showOrder } from '../../store/order-list.ts'
import { acceptOrder, endOrder, findOrder } from '../../store/orders.ts'
import { countUnmade, listMade } from '../../store/receipt.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import { beforeId, body, fields, Id, json, Next, nextCursor, page } from '../schemas.ts'
import { chooseCredentials } from './credential-input.ts'
import { Instance, renderInstance } from './instance-view.ts'
import { checkNames, countOf, OrderInput, toEntry } from './order-input.ts'
import { Placement, previewOrder } from './order-preview.ts'
import { Receipt, renderReceipt } from './order-receipt.ts'
import { Attempt, LaunchOrder, ORDER_STATES, renderAttempt, renderOrder } from './order-view.ts'

// Schema ---------------------------------------------------------------------------------------------------------------

const OrderEnvelope = z.strictObject({ launch_order: LaunchOrder })
const OrderParams = z.strictObject({ order_id: Id })

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['launch orders'] }

const post = createRoute({
  method: 'post',
  path: '/api/launch-orders',
  ...common,
  summary: 'Ask for instances',
  ...guardedBody('write'),
  request: {
    ...writeHeaders,
    query: fields({
      dryRun: z.enum(['true', 'false']).optional().openapi({ description: 'Only say where it would go.' }),
    }),
    ...body('launch_order', OrderInput),
  },
  responses: {
    200: json('With `dryRun`: where it would go. Nothing was changed.', z.strictObject({ placement: Placement })),
    202: json('Accepted: it is on record and will settle.', OrderEnvelope),
    ...errors,
  },
})

const list = createRoute({
  method: 'get',
  path: '/api/launch-orders',
  ...common,
  summary: 'List launch orders, newest first',
  ...guarded('read'),
  request: {
    query: fields({
      ...page,
      state: z.enum(ORDER_STATES).optional(),
      deployment_id: Id.optional(),
      lease_id: Id.optional(),
    }),
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

const receipt = createRoute({
  method: 'get',
  path: '/api/launch-orders/{order_id}/receipt',
  ...common,
  summary: 'The receipt of an order: what was made for it, what became of it, what is left and whose it is',
  ...guarded('read'),
  request: { params: OrderParams },
  responses: { 200: json('The receipt.', z.strictObject({ receipt: Receipt })), ...errors },
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
    if (c.req.valid('query').dryRun === 'true') return c.json({ placement: await preview(c, c.req.valid('json')) }, 200)
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
    return c.json({ launch_orders: rows.slice(0, limit).map(renderOrder), next }, 200)
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

  app.openapi(receipt, async (c) => {
    const order = await owned(c, c.req.valid('param').order_id)
    const { db } = c.get('deps').store
    const made = await listMade(db, order.id)
    return c.json({ receipt: renderReceipt(order, made, await countUnmade(db, order.id)) }, 200)
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

/** The checks of an order that is accepted, and its placement on paper. */
async function preview(c: ApiContext, input: z.infer<typeof OrderInput>): Promise<z.infer<typeof Placement>> {
  const deps = c.get('deps')
  const { project_id } = callerOf(c)
  const names = checkNames(input, await cloudsForOrders(deps.store.db, project_id))
  const credentials = await chooseCredentials(input.credentials, names.clouds, project_id, deps)
  return previewOrder(deps, project_id, { ...input, count: countOf(input) }, names, credentials)
}

/** Accepts in two looks at the record besides the token's: the clouds, and the one statement that writes all. */
async function accept(c: ApiContext, input: z.infer<typeof OrderInput>): Promise<z.infer<typeof LaunchOrder>> {
  const { store, envelope, onAccepted } = c.get('deps')
  const caller = callerOf(c)
  const { user_data, clouds: _names, credentials: given, instances, ...order } = input
  const { clouds, cloud_indexes } = checkNames(input, await cloudsForOrders(store.db, caller.project_id))
  const sealed_user_data = user_data === undefined ? null : envelope.seal(user_data, 'user_data')
  const count = countOf(input)
  const entries = instances?.map((entry, i) => toEntry(entry, cloud_indexes[i], envelope))
  const cloud_ids = clouds.map((cloud) => cloud.id)
  const credentials = await chooseCredentials(given, clouds, caller.project_id, c.get('deps'))
  const checked = { ...order, ...credentials, count, cloud_ids, sealed_user_data, ...(entries ? { entries } : {}) }
  const key = await requestKey(c)
  const started_at = new Date()
  const accepted = await acceptOrder(store, caller, checked, key)
  if (!accepted.made) return show(c, accepted.order_id)
  beginTrace(accepted.order_id, 'accept order', started_at)
  onAccepted?.(accepted)
  const { deployment_id, created_at } = accepted.made
  return renderOrder({
    ...order,
    id: accepted.order_id,
    deployment_id,
    deployment: order.deployment ?? accepted.order_id,
    lease_id: null,
    state: 'queued',
    partial: false,
    at_least: order.at_least ?? null,
    count,
    counts: { queued: count },
    clouds: clouds.map((cloud) => cloud.name),
    sealed_user_data,
    extra: order.extra ?? {},
    credentials: credentials.credentials,
    priority: order.priority ?? 0,
    deadline_at: order.deadline_at === undefined ? null : new Date(order.deadline_at),
    hold: order.hold ?? false,
    placement: order.placement ?? 'in_order',
    retry_budget: order.retry_budget ?? {},
    healing: order.healing ?? 'none',
    healing_max: order.healing_max ?? null,
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
  return renderOrder(order)
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
