/** Cloud State: callbacks, by the id of an instance or the uuid it was launched with. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import {
  findCallback,
  listCallbacks,
  redirectCallback,
  registerCallback,
  removeCallback,
} from '../../store/callbacks.ts'
import { findCloudStateInstance } from '../../store/cloud-state.ts'
import { changeOnce } from '../../store/idempotency.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { requestKey } from '../request.ts'
import { errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import { beforeId, body, Id, json, Next, nextCursor, page } from '../schemas.ts'
import { CallbackOut, CallbackUri, checkCallback, renderCallback, Uuid } from './schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Envelope = z.strictObject({ callback: CallbackOut })
const Params = z.object({ callback_id: Id })

/** `action` was the name of a method once; now it is an address, as `uri` is. */
const address = { action: CallbackUri.optional(), uri: CallbackUri.optional() } as const
const Input = z
  .object({ instance_id: Uuid.optional(), instance_uuid: Uuid.optional(), ...address })
  .refine(({ instance_id, instance_uuid }) => instance_id !== undefined || instance_uuid !== undefined, {
    error: 'is missing; accepted: instance_id, instance_uuid',
    path: ['instance_id'],
  })
  .openapi('CloudStateCallbackInput')
const Change = z.object(address).openapi('CloudStateCallbackChange')

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['Cloud State'] }

const list = createRoute({
  method: 'get',
  path: '/api/cloud_state/callbacks',
  ...common,
  summary: 'List callbacks, newest first',
  ...guarded('read'),
  request: { query: z.object({ ...page, instance_id: Uuid.optional(), instance_uuid: Uuid.optional() }) },
  responses: { 200: json('A page.', z.strictObject({ callbacks: z.array(CallbackOut), next: Next })), ...errors },
})

const post = createRoute({
  method: 'post',
  path: '/api/cloud_state/callbacks',
  ...common,
  summary: 'Register a callback (CloudStateCallback.register)',
  ...guardedBody('write'),
  request: { ...writeHeaders, ...body('callback', Input) },
  responses: { 201: json('Registered; the same again is the one there is.', Envelope), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/cloud_state/callbacks/{callback_id}',
  ...common,
  summary: 'Read a callback',
  ...guarded('read'),
  request: { params: Params },
  responses: { 200: json('The callback.', Envelope), ...errors },
})

const put = createRoute({
  method: 'put',
  path: '/api/cloud_state/callbacks/{callback_id}',
  ...common,
  summary: 'Point a callback to another address',
  ...guardedBody('write'),
  request: { ...writeHeaders, params: Params, ...body('callback', Change) },
  responses: { 200: json('Changed.', Envelope), ...errors },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/cloud_state/callbacks/{callback_id}',
  ...common,
  summary: 'Remove a callback: what waits for it is cancelled',
  ...guarded('write'),
  request: { ...writeHeaders, params: Params },
  responses: { 204: { description: 'It is gone.' }, ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/cloud_state/callbacks`. */
export function routeCloudStateCallbacks(app: Api): void {
  app.openapi(list, async (c) => {
    const { limit, cursor, ...whose } = c.req.valid('query')
    const named = whose.instance_id !== undefined || whose.instance_uuid !== undefined
    const instance_id = named ? (await instanceOf(c, whose, 'query')).id : undefined
    const query = { instance_id, limit: limit + 1, before: beforeId('callbacks', cursor) }
    const rows = await listCallbacks(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json(
      { callbacks: rows.slice(0, limit).map(renderCallback), next: nextCursor('callbacks', rows, limit) },
      200,
    )
  })

  app.openapi(post, async (c) => {
    const { envelope, store } = c.get('deps')
    const input = c.req.valid('json')
    const uri = addressOf(c, input)
    const instance = await instanceOf(c, input, 'body')
    const caller = callerOf(c)
    const answer = { status: 201, resource_type: 'callback', resource_id: newId() }
    const given = await changeOnce(store, caller, await requestKey(c), answer, async (trx) => ({
      resource_id: await registerCallback(trx, caller, instance.id, uri, envelope),
    }))
    const callback = await show(c, given.resource_id)
    c.header('Location', callback.href)
    return c.json({ callback }, 201)
  })

  app.openapi(get, async (c) => c.json({ callback: await show(c, c.req.valid('param').callback_id) }, 200))

  app.openapi(put, async (c) => {
    const { callback_id } = c.req.valid('param')
    const { envelope, store } = c.get('deps')
    const uri = addressOf(c, c.req.valid('json'))
    const caller = callerOf(c)
    const answer = { status: 200, resource_type: 'callback', resource_id: callback_id }
    await changeOnce(store, caller, await requestKey(c), answer, (trx) =>
      redirectCallback(trx, caller, callback_id, uri, envelope),
    )
    return c.json({ callback: await show(c, callback_id) }, 200)
  })

  app.openapi(remove, async (c) => {
    const { callback_id } = c.req.valid('param')
    const caller = callerOf(c)
    const answer = { status: 204, resource_type: 'callback', resource_id: callback_id }
    await changeOnce(c.get('deps').store, caller, await requestKey(c), answer, (trx) =>
      removeCallback(trx, caller, callback_id),
    )
    return c.body(null, 204)
  })
}

/** The address of a callback under either name; both only where they are the same. */
function addressOf(c: ApiContext, { action, uri }: { action?: string | undefined; uri?: string | undefined }): string {
  const given = action ?? uri
  if (given === undefined) throw invalid([{ path: 'body.action', reason: 'is missing', accepted: ['an address'] }])
  if (action !== undefined && uri !== undefined && action !== uri)
    throw invalid([{ path: 'body.uri', reason: 'is another than `action`' }])
  return checkCallback(given, c.get('deps'), action === undefined ? 'body.uri' : 'body.action')
}

/** The instance meant, by id or uuid; both only where they mean the same one. */
async function instanceOf(
  c: ApiContext,
  { instance_id, instance_uuid }: { instance_id?: string | undefined; instance_uuid?: string | undefined },
  place: 'body' | 'query',
) {
  const { db } = c.get('deps').store
  const { project_id } = c.get('identity')
  const find = async (id: string | undefined) => {
    if (id === undefined) return undefined
    const found = await findCloudStateInstance(db, project_id, id)
    if (!found) throw notFound('instance', id)
    return found
  }
  const by_id = await find(instance_id)
  const by_uuid = await find(instance_uuid)
  if (by_id && by_uuid && by_id.id !== by_uuid.id)
    throw invalid([{ path: `${place}.instance_uuid`, reason: 'is of another instance than `instance_id`' }])
  return (by_id ?? by_uuid)!
}

async function show(c: ApiContext, callback_id: string): Promise<z.infer<typeof CallbackOut>> {
  const callback = await findCallback(c.get('deps').store.db, c.get('identity').project_id, callback_id)
  if (!callback) throw notFound('callback', callback_id)
  return renderCallback(callback)
}
