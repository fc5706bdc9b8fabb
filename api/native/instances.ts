/** Instances: read, their actions, and their release. */
import { createRoute, z } from '@hono/zod-openapi'
import { findAction, listActions, requestAction } from '../../store/actions.ts'
import { changeOnce } from '../../store/idempotency.ts'
import { findInstance, listInstances } from '../../store/instances.ts'
import { releaseInstance } from '../../store/release.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { requestKey, tellVersion } from '../request.ts'
import { errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import {
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
import { INSTANCE_STATES, Instance, renderInstance } from './instance-view.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const ACTIONS = ['start', 'stop', 'reboot', 'terminate'] as const
const REBOOTS = ['soft', 'hard'] as const

const Action = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    instance_id: z.string(),
    number: z.int(),
    action: z.enum(ACTIONS),
    reboot: z.enum(REBOOTS).nullable().openapi({ description: 'How; null: it is no reboot.' }),
    deployment_action_id: z.string().nullable().openapi({ description: 'The action of its deployment it is part of.' }),
    state: z.enum(['queued', 'running', 'done', 'failed', 'superseded']),
    error: ErrorOut.nullable(),
    created_at: MomentOut,
    finished_at: MomentOut.nullable(),
  })
  .openapi('Action')

const ActionInput = fields({
  action: z.enum(ACTIONS),
  reboot: z.enum(REBOOTS).optional().openapi({
    description: 'How: soft (default) asks the system of the machine, hard does not.',
  }),
})
  .refine(({ action, reboot }) => reboot === undefined || action === 'reboot', {
    path: ['reboot'],
    error: 'goes with the action reboot only',
  })
  .openapi('ActionInput')
const ActionEnvelope = z.strictObject({ action: Action })
const InstanceEnvelope = z.strictObject({ instance: Instance })
const InstanceParams = z.strictObject({ instance_id: Id })
const ActionParams = z.strictObject({ instance_id: Id, action_id: Id })

type ActionRow = NonNullable<Awaited<ReturnType<typeof findAction>>>
const renderAction = (row: ActionRow): z.infer<typeof Action> => ({
  id: row.id,
  href: `/api/instances/${row.instance_id}/actions/${row.id}`,
  instance_id: row.instance_id,
  number: row.number,
  action: row.kind,
  reboot: row.kind === 'reboot' ? (row.detail.reboot ?? 'soft') : null,
  deployment_action_id: row.deployment_action_id,
  state: row.state,
  error: row.error,
  created_at: iso(row.created_at),
  finished_at: isoOrNull(row.finished_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['instances'] }

const list = createRoute({
  method: 'get',
  path: '/api/instances',
  ...common,
  summary: 'List instances, newest first',
  ...guarded('read'),
  request: {
    query: fields({
      ...page,
      deployment_id: Id.optional(),
      order_id: Id.optional(),
      state: z.enum(INSTANCE_STATES).optional(),
    }),
  },
  responses: { 200: json('A page.', z.strictObject({ instances: z.array(Instance), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/instances/{instance_id}',
  ...common,
  summary: 'Read an instance',
  ...guarded('read'),
  request: { params: InstanceParams },
  responses: { 200: json('The instance.', InstanceEnvelope), ...errors },
})

const getWithin = createRoute({
  method: 'get',
  path: '/api/deployments/{deployment_id}/instances/{instance_id}',
  ...common,
  summary: 'Read an instance of a deployment',
  ...guarded('read'),
  request: { params: z.strictObject({ deployment_id: Id, instance_id: Id }) },
  responses: { 200: json('The instance.', InstanceEnvelope), ...errors },
})

const post = createRoute({
  method: 'post',
  path: '/api/instances/{instance_id}/actions',
  ...common,
  summary: 'Ask for an action on an instance',
  ...guardedBody('act'),
  request: { ...writeHeaders, params: InstanceParams, ...body('action', ActionInput) },
  responses: {
    202: json('Accepted; worked off in order, and a terminate supersedes what else is open.', ActionEnvelope),
    ...errors,
  },
})

const actions = createRoute({
  method: 'get',
  path: '/api/instances/{instance_id}/actions',
  ...common,
  summary: 'List the actions of an instance, newest first',
  ...guarded('read'),
  request: { params: InstanceParams, query: fields({}) },
  responses: { 200: json('All of them.', z.strictObject({ actions: z.array(Action), next: Next })), ...errors },
})

const getAction = createRoute({
  method: 'get',
  path: '/api/instances/{instance_id}/actions/{action_id}',
  ...common,
  summary: 'Read an action',
  ...guarded('read'),
  request: { params: ActionParams },
  responses: { 200: json('The action.', ActionEnvelope), ...errors },
})

const release = createRoute({
  method: 'post',
  path: '/api/instances/{instance_id}/release',
  ...common,
  summary: 'Let the machine of an instance go without deleting it',
  ...guarded('write'),
  request: { ...writeHeaders, params: InstanceParams },
  responses: {
    202: json('Released: the instance is over, its machine lives on; our tags are taken off it.', InstanceEnvelope),
    ...errors,
  },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/instances` and the address of an instance within its deployment. */
export function routeInstances(app: Api): void {
  app.openapi(list, async (c) => {
    const { limit, cursor, ...filter } = c.req.valid('query')
    const query = { ...filter, limit: limit + 1, before: beforeId('instances', cursor) }
    const rows = await listInstances(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json(
      { instances: rows.slice(0, limit).map(renderInstance), next: nextCursor('instances', rows, limit) },
      200,
    )
  })

  app.openapi(get, async (c) => {
    const instance = await owned(c, c.req.valid('param').instance_id)
    tellVersion(c, instance.sequence)
    return c.json({ instance: renderInstance(instance) }, 200)
  })

  app.openapi(getWithin, async (c) => {
    const { deployment_id, instance_id } = c.req.valid('param')
    const instance = await owned(c, instance_id)
    if (instance.deployment_id !== deployment_id) throw notFound('instance', instance_id)
    tellVersion(c, instance.sequence)
    return c.json({ instance: renderInstance(instance) }, 200)
  })

  app.openapi(post, async (c) => {
    const { store } = c.get('deps')
    const { instance_id } = c.req.valid('param')
    const caller = callerOf(c)
    const { action, reboot } = c.req.valid('json')
    const asked = { kind: action, ...(reboot ? { reboot } : {}) }
    const { action_id } = await requestAction(store, caller, instance_id, asked, await requestKey(c))
    const made = renderAction((await findAction(store.db, caller.project_id, action_id))!)
    c.header('Location', made.href)
    return c.json({ action: made }, 202)
  })

  app.openapi(release, async (c) => {
    const { instance_id } = c.req.valid('param')
    const answer = { status: 202, resource_type: 'instance', resource_id: instance_id }
    await changeOnce(c.get('deps').store, callerOf(c), await requestKey(c), answer, (trx) =>
      releaseInstance(trx, callerOf(c), instance_id),
    )
    const instance = await owned(c, instance_id)
    tellVersion(c, instance.sequence)
    return c.json({ instance: renderInstance(instance) }, 202)
  })

  app.openapi(actions, async (c) => {
    const { instance_id } = c.req.valid('param')
    const { project_id } = await owned(c, instance_id)
    const rows = await listActions(c.get('deps').store.db, project_id, instance_id)
    return c.json({ actions: rows.toReversed().map(renderAction), next: null }, 200)
  })

  app.openapi(getAction, async (c) => {
    const { instance_id, action_id } = c.req.valid('param')
    const action = await findAction(c.get('deps').store.db, c.get('identity').project_id, action_id)
    if (action?.instance_id !== instance_id) throw notFound('action', action_id)
    return c.json({ action: renderAction(action) }, 200)
  })
}

async function owned(c: ApiContext, instance_id: string) {
  const instance = await findInstance(c.get('deps').store.db, c.get('identity').project_id, instance_id)
  if (!instance) throw notFound('instance', instance_id)
  return instance
}
