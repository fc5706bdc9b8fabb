/** Deployments: what belongs together, with a state derived from its orders; and actions on all of it. */
import { createRoute, z } from '@hono/zod-openapi'
import { DEPLOYMENT_ACTIONS, WAVE_MAX } from '../../domain/deployment.ts'
import {
  findDeploymentAction,
  listDeploymentActions,
  requestDeploymentAction,
  type ShownDeploymentAction,
} from '../../store/deployment-actions.ts'
import { findDeployment, listDeployments, type ShownDeployment } from '../../store/deployments.ts'
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
  Name,
  Next,
  nextCursor,
  page,
} from '../schemas.ts'
import { ORDER_STATES } from './order-view.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Deployment = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    name: z.string(),
    state: z.enum(ORDER_STATES),
    orders: z.record(z.string(), z.int()).openapi({ description: 'Orders by state.' }),
    instances: z.record(z.string(), z.int()).openapi({ description: 'Instances by state.' }),
    sequence: z.int(),
    created_at: MomentOut,
  })
  .openapi('Deployment')

const render = (row: ShownDeployment): z.infer<typeof Deployment> => ({
  id: row.id,
  href: `/api/deployments/${row.id}`,
  name: row.name,
  state: row.state as (typeof ORDER_STATES)[number],
  orders: row.orders,
  instances: row.instances,
  sequence: row.sequence,
  created_at: iso(row.created_at),
})

const Count = (description: string) => z.int().openapi({ description })

const DeploymentAction = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    deployment_id: z.string(),
    number: z.int(),
    action: z.enum(DEPLOYMENT_ACTIONS),
    wave_size: z.int().nullable().openapi({ description: 'Null: it is a terminate.' }),
    state: z.enum(['running', 'done', 'failed', 'superseded']),
    wave: z.int().openapi({ description: 'The last one begun.' }),
    counts: z
      .strictObject({
        waiting: Count('Not begun.'),
        open: Count('Under way.'),
        done: Count('It is done.'),
        failed: Count('It came to nothing; the actions of the instances say why.'),
        superseded: Count('Ended by somebody meanwhile.'),
        skipped: Count('It did not fit their state.'),
      })
      .openapi({ description: 'Instances by what it came to.' }),
    error: ErrorOut.nullable(),
    created_at: MomentOut,
    finished_at: MomentOut.nullable(),
  })
  .openapi('DeploymentAction')

const DeploymentActionInput = fields({
  action: z.enum(DEPLOYMENT_ACTIONS).openapi({
    description:
      'Restart: a reboot of what runs, and a start of what is stopped. Terminate: the end of all its orders.',
  }),
  wave_size: z.int().min(1).max(WAVE_MAX).optional().openapi({
    description:
      'Instances acted on at the same time; default: a fifth of them, at most 25. Where more than half of a wave fail, no other begins.',
  }),
})
  .refine(({ action, wave_size }) => wave_size === undefined || action !== 'terminate', {
    path: ['wave_size'],
    error: 'does not go with the action terminate, which has no waves',
  })
  .openapi('DeploymentActionInput')
const ActionEnvelope = z.strictObject({ action: DeploymentAction })
const DeploymentParams = z.strictObject({ deployment_id: Id })

const renderAction = (row: ShownDeploymentAction): z.infer<typeof DeploymentAction> => ({
  id: row.id,
  href: `/api/deployments/${row.deployment_id}/actions/${row.id}`,
  deployment_id: row.deployment_id,
  number: row.number,
  action: row.kind,
  wave_size: row.wave_size,
  state: row.state,
  wave: row.wave,
  counts: row.counts,
  error: row.error,
  created_at: iso(row.created_at),
  finished_at: isoOrNull(row.finished_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const list = createRoute({
  method: 'get',
  path: '/api/deployments',
  tags: ['deployments'],
  summary: 'List deployments, newest first',
  ...guarded('read'),
  request: { query: fields({ ...page, state: z.enum(ORDER_STATES).optional(), name: Name.optional() }) },
  responses: { 200: json('A page.', z.strictObject({ deployments: z.array(Deployment), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/deployments/{deployment_id}',
  tags: ['deployments'],
  summary: 'Read a deployment',
  ...guarded('read'),
  request: { params: DeploymentParams },
  responses: { 200: json('The deployment.', z.strictObject({ deployment: Deployment })), ...errors },
})

const post = createRoute({
  method: 'post',
  path: '/api/deployments/{deployment_id}/actions',
  tags: ['deployments'],
  summary: 'Ask for an action on all instances of a deployment, in waves',
  ...guardedBody('act'),
  request: { ...writeHeaders, params: DeploymentParams, ...body('action', DeploymentActionInput) },
  responses: {
    202: json('Accepted; a terminate supersedes another that is open.', ActionEnvelope),
    ...errors,
  },
})

const actions = createRoute({
  method: 'get',
  path: '/api/deployments/{deployment_id}/actions',
  tags: ['deployments'],
  summary: 'List the actions of a deployment, newest first',
  ...guarded('read'),
  request: { params: DeploymentParams, query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ actions: z.array(DeploymentAction), next: Next })), ...errors },
})

const getAction = createRoute({
  method: 'get',
  path: '/api/deployments/{deployment_id}/actions/{deployment_action_id}',
  tags: ['deployments'],
  summary: 'Read an action of a deployment',
  ...guarded('read'),
  request: { params: z.strictObject({ deployment_id: Id, deployment_action_id: Id }) },
  responses: { 200: json('The action.', ActionEnvelope), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/deployments` and their actions. */
export function routeDeployments(app: Api): void {
  app.openapi(list, async (c) => {
    const { limit, cursor, ...filter } = c.req.valid('query')
    const query = { ...filter, limit: limit + 1, before: beforeId('deployments', cursor) }
    const rows = await listDeployments(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json({ deployments: rows.slice(0, limit).map(render), next: nextCursor('deployments', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => {
    const deployment = await owned(c, c.req.valid('param').deployment_id)
    tellVersion(c, deployment.sequence)
    return c.json({ deployment: render(deployment) }, 200)
  })

  app.openapi(post, async (c) => {
    const { store } = c.get('deps')
    const { deployment_id } = c.req.valid('param')
    const { action, wave_size } = c.req.valid('json')
    const asked = { kind: action, ...(wave_size === undefined ? {} : { wave_size }) }
    const { action_id } = await requestDeploymentAction(store, callerOf(c), deployment_id, asked, await requestKey(c))
    const made = renderAction((await findDeploymentAction(store.db, deployment_id, action_id))!)
    c.header('Location', made.href)
    return c.json({ action: made }, 202)
  })

  app.openapi(actions, async (c) => {
    const { id: deployment_id } = await owned(c, c.req.valid('param').deployment_id)
    const { limit, cursor } = c.req.valid('query')
    const query = { limit: limit + 1, before: beforeId('deployment-actions', cursor) }
    const rows = await listDeploymentActions(c.get('deps').store.db, deployment_id, query)
    const next = nextCursor('deployment-actions', rows, limit)
    return c.json({ actions: rows.slice(0, limit).map(renderAction), next }, 200)
  })

  app.openapi(getAction, async (c) => {
    const { deployment_id, deployment_action_id } = c.req.valid('param')
    await owned(c, deployment_id)
    const action = await findDeploymentAction(c.get('deps').store.db, deployment_id, deployment_action_id)
    if (!action) throw notFound('action', deployment_action_id)
    return c.json({ action: renderAction(action) }, 200)
  })
}

async function owned(c: ApiContext, deployment_id: string) {
  const deployment = await findDeployment(c.get('deps').store.db, c.get('identity').project_id, deployment_id)
  if (!deployment) throw notFound('deployment', deployment_id)
  return deployment
}
