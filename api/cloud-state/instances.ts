/** Cloud State: instances by our id or their caller's uuid, their actions, their key. */
import { createRoute, z } from '@hono/zod-openapi'
import { CLOUD_STATE_WORDS, statesOf } from '../../domain/cloud-state.ts'
import { findAction, requestAction } from '../../store/actions.ts'
import { replaceCallbacks } from '../../store/callbacks.ts'
import {
  type CloudStateInstance,
  dismissInstance,
  findCloudStateInstance,
  listCloudStateInstances,
  renameInstance,
  requireVersion,
} from '../../store/cloud-state.ts'
import { answered, changeOnce } from '../../store/idempotency.ts'
import { releaseSshKey, requireSshKey } from '../../store/ssh-keys.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import {
  beforeId,
  body,
  ErrorOut,
  Id,
  iso,
  isoOrNull,
  json,
  MomentOut,
  Name,
  Next,
  nextCursor,
  page,
} from '../schemas.ts'
import { isTrue, launch, TerminateQuery } from './launch-orders.ts'
import { CallbackUri, checkCallback, InstanceOut, renderInstance, SingleInput, Uuid } from './schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Envelope = z.strictObject({ instance: InstanceOut })
const Params = z.object({ instance: Uuid.openapi({ description: 'Our id, or the uuid it was launched with.' }) })

const Change = z
  .object({
    name: Name.optional(),
    callbacks: z.array(CallbackUri).max(20).optional().openapi({ description: 'These, and no other.' }),
    state: z.unknown().optional(),
  })
  .openapi('CloudStateInstanceChange')

/** The words of this dialect, and the actions of ours they are. */
const KINDS = { start: 'start', stop: 'stop', reboot: 'reboot', destroy: 'terminate' } as const
const WORDS = ['start', 'reboot', 'stop', 'destroy'] as const
const ActionInput = z.object({ action: z.enum(WORDS) }).openapi('CloudStateActionInput')
const ActionOut = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    instance_id: z.string(),
    action: z.enum(WORDS),
    state: z.enum(['queued', 'running', 'done', 'failed', 'superseded']),
    error: ErrorOut.nullable(),
    created_at: MomentOut,
    finished_at: MomentOut.nullable(),
  })
  .openapi('CloudStateAction')
const ActionEnvelope = z.strictObject({ action: ActionOut })

const renderAction = (row: NonNullable<Awaited<ReturnType<typeof findAction>>>): z.infer<typeof ActionOut> => ({
  id: row.id,
  href: `/api/cloud_state/instances/${row.instance_id}/actions/${row.id}`,
  instance_id: row.instance_id,
  action: row.kind === 'terminate' ? 'destroy' : row.kind,
  state: row.state,
  error: row.error,
  created_at: iso(row.created_at),
  finished_at: isoOrNull(row.finished_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['Cloud State'] }

const list = createRoute({
  method: 'get',
  path: '/api/cloud_state/instances',
  ...common,
  summary: 'List instances, newest first',
  ...guarded('read'),
  request: {
    query: z.object({ ...page, state: z.enum(CLOUD_STATE_WORDS).optional(), launch_order_id: Id.optional() }),
  },
  responses: { 200: json('A page.', z.strictObject({ instances: z.array(InstanceOut), next: Next })), ...errors },
})

const post = createRoute({
  method: 'post',
  path: '/api/cloud_state/instances',
  ...common,
  summary: 'Launch one instance: an order of one',
  ...guardedBody('write'),
  request: { ...writeHeaders, ...body('instance', SingleInput) },
  responses: {
    200: json('The same uuid with the same content: the instance there is.', Envelope),
    202: json('Accepted: it is on record and will settle.', Envelope),
    ...errors,
  },
})

const get = createRoute({
  method: 'get',
  path: '/api/cloud_state/instances/{instance}',
  ...common,
  summary: 'Read an instance',
  ...guarded('read'),
  request: { params: Params },
  responses: { 200: json('The instance.', Envelope), ...errors },
})

const put = createRoute({
  method: 'put',
  path: '/api/cloud_state/instances/{instance}',
  ...common,
  summary: 'Change name and callbacks; its state follows actions alone',
  ...guardedBody('write'),
  request: { ...changeHeaders, params: Params, ...body('instance', Change) },
  responses: { 200: json('Changed; what is left out stays as it is.', Envelope), ...errors },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/cloud_state/instances/{instance}',
  ...common,
  summary: 'Delete an instance that is over, with its callbacks; one that lives with `?terminate=true`',
  ...guarded('write'),
  request: { ...writeHeaders, params: Params, query: TerminateQuery },
  responses: { 202: json('It is being ended.', Envelope), 204: { description: 'It is gone.' }, ...errors },
})

const act = createRoute({
  method: 'post',
  path: '/api/cloud_state/instances/{instance}/actions',
  ...common,
  summary: 'start, reboot, stop or destroy (do_action)',
  ...guardedBody('act'),
  request: { ...writeHeaders, params: Params, ...body('action', ActionInput) },
  responses: { 202: json('Accepted; worked off in order.', ActionEnvelope), ...errors },
})

const getAction = createRoute({
  method: 'get',
  path: '/api/cloud_state/instances/{instance}/actions/{action_id}',
  ...common,
  summary: 'Read an action',
  ...guarded('read'),
  request: { params: Params.extend({ action_id: Id }) },
  responses: { 200: json('The action.', ActionEnvelope), ...errors },
})

const sshKey = createRoute({
  method: 'get',
  path: '/api/cloud_state/instances/{instance}/ssh_key',
  ...common,
  summary: 'The private key made for the first login: once, then 410',
  ...guarded('write'),
  request: { params: Params },
  responses: {
    200: {
      description: 'PKCS #8, PEM. It is erased here.',
      content: { 'application/x-pem-file': { schema: z.string() } },
    },
    ...errors,
  },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/cloud_state/instances`. */
export function routeCloudStateInstances(app: Api): void {
  app.openapi(list, async (c) => {
    const { limit, cursor, state, launch_order_id } = c.req.valid('query')
    const rows = await listCloudStateInstances(c.get('deps').store.db, c.get('identity').project_id, {
      order_id: launch_order_id,
      states: state && statesOf(state),
      limit: limit + 1,
      before: beforeId('instances', cursor),
    })
    return c.json(
      { instances: rows.slice(0, limit).map(renderInstance), next: nextCursor('instances', rows, limit) },
      200,
    )
  })

  app.openapi(post, async (c) => {
    const { priority, credentials, credentials_id, ...instance } = c.req.valid('json')
    const order = { name: instance.name, policy: 'any' as const, instances: [instance] }
    const { order_id, fresh } = await launch(c, { ...order, priority, credentials, credentials_id })
    const { db } = c.get('deps').store
    const { project_id } = c.get('identity')
    // The order there is may be one of several instances.
    const [row] = instance.uuid
      ? [await findCloudStateInstance(db, project_id, instance.uuid)]
      : await listCloudStateInstances(db, project_id, { order_id, limit: 1 })
    if (!row) throw notFound('instance', instance.uuid ?? order_id)
    const made = tell(c, row)
    c.header('Location', made.href)
    return c.json({ instance: made }, fresh ? 202 : 200)
  })

  app.openapi(get, async (c) => c.json({ instance: await show(c) }, 200))

  app.openapi(put, async (c) => {
    const { name, callbacks, state } = c.req.valid('json')
    const { id } = await owned(c)
    if (state !== undefined)
      throw invalid([{ path: 'body.state', reason: 'follows from actions', accepted: [`POST ${id}/actions`] }])
    const deps = c.get('deps')
    const { store, envelope } = deps
    const uris = callbacks?.map((uri, i) => checkCallback(uri, deps, `body.callbacks[${i}]`))
    const caller = callerOf(c)
    const answer = { status: 200, resource_type: 'instance', resource_id: id }
    const if_match = ifMatch(c)
    await changeOnce(store, caller, await requestKey(c), answer, async (trx) => {
      if (if_match !== undefined) await requireVersion(trx, id, if_match)
      if (name !== undefined) await renameInstance(trx, caller, id, name)
      if (uris) await replaceCallbacks(trx, caller, id, uris, envelope)
    })
    return c.json({ instance: await show(c) }, 200)
  })

  app.openapi(remove, async (c) => {
    const { store, envelope } = c.get('deps')
    const caller = callerOf(c)
    const key = await requestKey(c)
    const earlier = await answered(store.db, caller.project_id, key)
    // A repeat ends nothing further, whatever became of the instance since.
    if (earlier) {
      const found = earlier.status === 202 ? await find(c) : undefined
      return found ? c.json({ instance: tell(c, found) }, 202) : c.body(null, 204)
    }
    const instance = await owned(c)
    if (isTrue(c.req.valid('query').terminate) && instance.can_end) {
      await requestAction(store, caller, instance.id, { kind: 'terminate' }, key)
      return c.json({ instance: await show(c) }, 202)
    }
    const answer = { status: 204, resource_type: 'instance', resource_id: instance.id }
    await changeOnce(store, caller, key, answer, async (trx) => {
      await dismissInstance(trx, instance)
      await replaceCallbacks(trx, caller, instance.id, [], envelope)
    })
    return c.body(null, 204)
  })

  app.openapi(act, async (c) => {
    const { store } = c.get('deps')
    const caller = callerOf(c)
    const { id } = await owned(c)
    const kind = KINDS[c.req.valid('json').action]
    const { action_id } = await requestAction(store, caller, id, { kind }, await requestKey(c))
    const made = renderAction((await findAction(store.db, caller.project_id, action_id))!)
    c.header('Location', made.href)
    return c.json({ action: made }, 202)
  })

  app.openapi(getAction, async (c) => {
    const { action_id } = c.req.valid('param')
    const { id } = await owned(c)
    const action = await findAction(c.get('deps').store.db, c.get('identity').project_id, action_id)
    if (action?.instance_id !== id) throw notFound('action', action_id)
    return c.json({ action: renderAction(action) }, 200)
  })

  app.openapi(sshKey, async (c) => {
    const { store, envelope } = c.get('deps')
    const { id } = await owned(c)
    // It is given out once: not to somebody who asks for the headers alone.
    if (c.req.method === 'HEAD') {
      await requireSshKey(store.db, id)
      return c.body(null, 200) as never
    }
    const pem = await releaseSshKey(store, id, envelope)
    return c.body(pem, 200, { 'content-type': 'application/x-pem-file' }) as never
  })
}

const idOf = (c: ApiContext): string => (c.req.param('instance') ?? '').toLowerCase()

const find = (c: ApiContext): Promise<CloudStateInstance | undefined> =>
  findCloudStateInstance(c.get('deps').store.db, c.get('identity').project_id, idOf(c))

async function owned(c: ApiContext): Promise<CloudStateInstance> {
  const instance = await find(c)
  if (!instance) throw notFound('instance', idOf(c))
  return instance
}

/** An instance as it is answered, its version with it. */
function tell(c: ApiContext, instance: CloudStateInstance): z.infer<typeof InstanceOut> {
  tellVersion(c, instance.sequence)
  return renderInstance(instance)
}

const show = async (c: ApiContext): Promise<z.infer<typeof InstanceOut>> => tell(c, await owned(c))
