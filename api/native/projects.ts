/** Projects: whose everything is. For operators. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import { changeOnce } from '../../store/idempotency.ts'
import { findProject, insertProject, listProjects } from '../../store/projects.ts'
import { type Api, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { requestKey } from '../request.ts'
import { errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import { beforeId, body, fields, Id, iso, json, MomentOut, Next, nextCursor, page, Word } from '../schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Project = z.strictObject({ id: z.string(), name: z.string(), created_at: MomentOut }).openapi('Project')
const ProjectEnvelope = z.strictObject({ project: Project })
const ProjectInput = fields({ name: Word }).openapi('ProjectInput')
const ProjectParams = z.strictObject({ project_id: Id })

const render = (row: { id: string; name: string; created_at: Date }) => ({ ...row, created_at: iso(row.created_at) })

// Routes -------------------------------------------------------------------------------------------------------------

const post = createRoute({
  method: 'post',
  path: '/api/projects',
  tags: ['projects'],
  summary: 'Make a project',
  ...guardedBody('operator'),
  request: { ...writeHeaders, ...body('project', ProjectInput) },
  responses: { 201: json('Made.', ProjectEnvelope), ...errors },
})

const list = createRoute({
  method: 'get',
  path: '/api/projects',
  tags: ['projects'],
  summary: 'List projects, newest first',
  ...guarded('operator'),
  request: { query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ projects: z.array(Project), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/projects/{project_id}',
  tags: ['projects'],
  summary: 'Read a project',
  ...guarded('operator'),
  request: { params: ProjectParams },
  responses: { 200: json('The project.', ProjectEnvelope), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/projects`. */
export function routeProjects(app: Api): void {
  app.openapi(post, async (c) => {
    const { store } = c.get('deps')
    const { name } = c.req.valid('json')
    const id = newId()
    const answer = await changeOnce(
      store,
      callerOf(c),
      await requestKey(c),
      { status: 201, resource_type: 'project', resource_id: id },
      (trx) => insertProject(trx, id, name),
    )
    const project = await findProject(store.db, { id: answer.resource_id })
    if (!project) throw notFound('project', answer.resource_id)
    c.header('Location', `/api/projects/${project.id}`)
    return c.json({ project: render(project) }, 201)
  })

  app.openapi(list, async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const rows = await listProjects(c.get('deps').store.db, { limit: limit + 1, before: beforeId('projects', cursor) })
    return c.json({ projects: rows.slice(0, limit).map(render), next: nextCursor('projects', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => {
    const { project_id } = c.req.valid('param')
    const project = await findProject(c.get('deps').store.db, { id: project_id })
    if (!project) throw notFound('project', project_id)
    return c.json({ project: render(project) }, 200)
  })
}
