/** Deployments: what belongs together, with a state derived from its orders. */
import { createRoute, z } from '@hono/zod-openapi'
import { findDeployment, listDeployments, type ShownDeployment } from '../../store/deployments.ts'
import type { Api } from '../context.ts'
import { notFound } from '../errors.ts'
import { tellVersion } from '../request.ts'
import { errors, guarded } from '../route.ts'
import { beforeId, fields, Id, iso, json, MomentOut, Name, Next, nextCursor, page } from '../schemas.ts'
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
  request: { params: z.strictObject({ deployment_id: Id }) },
  responses: { 200: json('The deployment.', z.strictObject({ deployment: Deployment })), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/deployments`. */
export function routeDeployments(app: Api): void {
  app.openapi(list, async (c) => {
    const { limit, cursor, ...filter } = c.req.valid('query')
    const query = { ...filter, limit: limit + 1, before: beforeId('deployments', cursor) }
    const rows = await listDeployments(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json({ deployments: rows.slice(0, limit).map(render), next: nextCursor('deployments', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => {
    const { deployment_id } = c.req.valid('param')
    const deployment = await findDeployment(c.get('deps').store.db, c.get('identity').project_id, deployment_id)
    if (!deployment) throw notFound('deployment', deployment_id)
    tellVersion(c, deployment.sequence)
    return c.json({ deployment: render(deployment) }, 200)
  })
}
