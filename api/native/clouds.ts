/** Clouds: kept by operators, used by the projects they are granted to. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import type { Problem } from '../../domain/errors.ts'
import {
  type CloudFields,
  grantCloud,
  insertCloud,
  listClouds,
  listGrants,
  type ShownCloud,
  updateCloud,
  withdrawCloud,
} from '../../store/clouds.ts'
import { changeOnce } from '../../store/idempotency.ts'
import { findProject } from '../../store/projects.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import { body, fields, json, Next, Word } from '../schemas.ts'
import { Cloud, CloudChange, CloudInput, Grant, renderCloud } from './cloud-view.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const CloudEnvelope = z.strictObject({ cloud: Cloud })
export const CloudParams = z.strictObject({ cloud: Word })
const GrantParams = z.strictObject({ cloud: Word, project: Word })

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['clouds'] }

const post = createRoute({
  method: 'post',
  path: '/api/clouds',
  ...common,
  summary: 'Make a cloud; it is watched from now on, and granted to your project',
  ...guardedBody('operator'),
  request: { ...writeHeaders, ...body('cloud', CloudInput) },
  responses: { 201: json('Made.', CloudEnvelope), ...errors },
})

const list = createRoute({
  method: 'get',
  path: '/api/clouds',
  ...common,
  summary: 'List clouds by priority: for operators all, else those granted to the project',
  ...guarded('read'),
  request: { query: fields({}) },
  responses: { 200: json('All of them.', z.strictObject({ clouds: z.array(Cloud), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/clouds/{cloud}',
  ...common,
  summary: 'Read a cloud',
  ...guarded('read'),
  request: { params: CloudParams },
  responses: { 200: json('The cloud.', CloudEnvelope), ...errors },
})

const changing = {
  path: '/api/clouds/{cloud}',
  ...common,
  ...guardedBody('operator'),
  request: { ...changeHeaders, params: CloudParams, ...body('cloud', CloudChange) },
  responses: { 200: json('Changed; what is left out stays as it is.', CloudEnvelope), ...errors },
} as const
const patch = createRoute({ method: 'patch', summary: 'Change a cloud', ...changing })
const put = createRoute({ method: 'put', summary: 'The same as PATCH', ...changing })

const grants = createRoute({
  method: 'get',
  path: '/api/clouds/{cloud}/grants',
  ...common,
  summary: 'List the projects that may use a cloud',
  ...guarded('operator'),
  request: { params: CloudParams },
  responses: { 200: json('All of them.', z.strictObject({ grants: z.array(Grant), next: Next })), ...errors },
})

const granting = {
  path: '/api/clouds/{cloud}/grants/{project}',
  ...common,
  ...guarded('operator'),
  request: { ...writeHeaders, params: GrantParams },
} as const
const grant = createRoute({
  method: 'put',
  summary: 'Let a project use a cloud',
  ...granting,
  responses: { 200: json('It may.', z.strictObject({ grant: Grant })), ...errors },
})
const withdraw = createRoute({
  method: 'delete',
  summary: 'Take a cloud from a project, for orders to come',
  ...granting,
  responses: { 204: { description: 'It may not any more.' }, ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/clouds`. */
export function routeClouds(app: Api): void {
  app.openapi(post, async (c) => {
    const { findCloudProblems, envelope, store } = c.get('deps')
    const { credential, ...input } = c.req.valid('json')
    refuse(findCloudProblems(input))
    const id = newId()
    const answer = { status: 201, resource_type: 'cloud', resource_id: id }
    const given = await changeOnce(store, callerOf(c), await requestKey(c), answer, (trx) =>
      insertCloud(trx, callerOf(c), { id, ...input }, sealed(envelope, credential)),
    )
    const cloud = (await listClouds(store.db, { name: input.name })).find((row) => row.id === given.resource_id)
    if (!cloud) throw notFound('cloud', input.name)
    tellVersion(c, cloud.sequence)
    c.header('Location', `/api/clouds/${cloud.name}`)
    return c.json({ cloud: renderCloud(cloud, true) }, 201)
  })

  app.openapi(list, async (c) => {
    const { role, project_id } = c.get('identity')
    const rows = await listClouds(c.get('deps').store.db, role === 'operator' ? {} : { project_id })
    return c.json({ clouds: rows.map((row) => renderCloud(row, role === 'operator')), next: null }, 200)
  })

  app.openapi(get, async (c) => {
    const cloud = await visible(c, c.req.valid('param').cloud)
    tellVersion(c, cloud.sequence)
    return c.json({ cloud: renderCloud(cloud, c.get('identity').role === 'operator') }, 200)
  })

  app.openapi(patch, async (c) =>
    c.json({ cloud: await change(c, c.req.valid('param').cloud, c.req.valid('json')) }, 200),
  )
  app.openapi(put, async (c) =>
    c.json({ cloud: await change(c, c.req.valid('param').cloud, c.req.valid('json')) }, 200),
  )

  app.openapi(grants, async (c) => {
    const cloud = await visible(c, c.req.valid('param').cloud)
    const rows = await listGrants(c.get('deps').store.db, cloud.id)
    return c.json({ grants: rows.map((row) => ({ cloud: cloud.name, project: row.name })), next: null }, 200)
  })

  app.openapi(grant, async (c) => {
    const { cloud, project } = c.req.valid('param')
    await changeGrant(c, 200, grantCloud)
    return c.json({ grant: { cloud, project } }, 200)
  })

  app.openapi(withdraw, async (c) => {
    await changeGrant(c, 204, withdrawCloud)
    return c.body(null, 204)
  })
}

function refuse(problems: readonly Problem[]): void {
  const [first, ...more] = problems.map((problem) => ({ ...problem, path: `body.${problem.path}` }))
  if (first) throw invalid([first, ...more])
}

const sealed = (envelope: { seal(text: string, context: string): Buffer }, credential: string | undefined) => {
  const id = newId()
  return credential === undefined ? null : { id, sealed: envelope.seal(credential, id) }
}

/** A cloud as the asker may see it: operators all, others what is granted to their project. */
export async function visible(c: ApiContext, name: string): Promise<ShownCloud> {
  const { role, project_id } = c.get('identity')
  const [cloud] = await listClouds(c.get('deps').store.db, { name, ...(role === 'operator' ? {} : { project_id }) })
  if (!cloud) throw notFound('cloud', name)
  return cloud
}

async function change(
  c: ApiContext,
  name: string,
  { credential, ...fields }: Partial<CloudFields> & { credential?: string | undefined },
): Promise<z.infer<typeof Cloud>> {
  const { findCloudProblems, store, envelope } = c.get('deps')
  const before = await visible(c, name)
  if (fields.settings || fields.endpoint) refuse(findCloudProblems({ ...before, ...fields }))
  const answer = { status: 200, resource_type: 'cloud', resource_id: before.id }
  await changeOnce(store, callerOf(c), await requestKey(c), answer, (trx) =>
    updateCloud(trx, callerOf(c), name, fields, sealed(envelope, credential), ifMatch(c)),
  )
  const after = await visible(c, name)
  tellVersion(c, after.sequence)
  return renderCloud(after, true)
}

async function changeGrant(c: ApiContext, status: number, act: typeof grantCloud): Promise<void> {
  const { store } = c.get('deps')
  const cloud = await visible(c, c.req.param('cloud') ?? '')
  const name = c.req.param('project') ?? ''
  const project = await findProject(store.db, { name })
  if (!project) throw notFound('project', name)
  const answer = { status, resource_type: 'cloud', resource_id: cloud.id }
  await changeOnce(store, callerOf(c), await requestKey(c), answer, (trx) => act(trx, cloud.id, project.id))
}
