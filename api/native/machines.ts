/** Machines at a cloud that are nobody's: orphans listed and removed, and any machine adopted by its provider's id. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import { DomainError } from '../../domain/errors.ts'
import { type Adoption, adoptMachine, findAdoption, noSuchMachine, planAdoption } from '../../store/adoption.ts'
import type { ShownCloud } from '../../store/clouds.ts'
import { answered, changeOnce } from '../../store/idempotency.ts'
import { findOrphan, listOrphans, type OrphanRow, requestRemoval } from '../../store/orphans.ts'
import { findProject } from '../../store/projects.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { requestKey } from '../request.ts'
import { errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import {
  body,
  decodeCursor,
  ErrorOut,
  encodeCursor,
  fields,
  iso,
  isoOrNull,
  json,
  MomentOut,
  Name,
  Next,
  page,
  Word,
} from '../schemas.ts'
import { CloudParams, visible } from './clouds.ts'
import { INSTANCE_STATES } from './instance-view.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const MachineParams = z.strictObject({
  cloud: Word,
  provider_id: z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/)
    .openapi({ description: "The machine's id at its cloud." }),
})

const Orphan = z
  .strictObject({
    provider_id: z.string(),
    tag: z.string().nullable(),
    raw_state: z.string(),
    first_seen_at: MomentOut,
    last_seen_at: MomentOut,
    gone_at: MomentOut.nullable(),
    removal: z
      .strictObject({ requested_at: MomentOut, user_id: z.string(), error: ErrorOut.nullable() })
      .nullable()
      .openapi({ description: 'Who asked for its removal, and why it was not done yet.' }),
    tombstone: z.record(z.string(), z.unknown()).nullable().openapi({ description: 'Who gave it up, and when.' }),
  })
  .openapi('Orphan')

const AdoptionInput = fields({
  project: Word.optional().openapi({ description: "Whose it becomes; your token's project where left out." }),
  name: Name.optional().openapi({ description: 'Its name at the cloud where left out.' }),
  deployment: Name.optional().openapi({ description: 'Made when new; one of its own where left out.' }),
}).openapi('AdoptionInput')

const AdoptionOut = z
  .strictObject({
    dry_run: z.boolean(),
    cloud: z.string(),
    provider_id: z.string(),
    raw_state: z.string().openapi({ description: "The cloud's own word." }),
    project: z.string(),
    name: z.string(),
    deployment: z.string().nullable().openapi({ description: 'Null: one of its own will be made.' }),
    state: z.enum(INSTANCE_STATES).openapi({ description: 'Of the instance.' }),
    size: z.string(),
    image: z.string(),
    order_id: z.string().nullable(),
    instance_id: z.string().nullable(),
    instance_href: z.string().nullable(),
  })
  .openapi('Adoption')
const AdoptionEnvelope = z.strictObject({ adoption: AdoptionOut })

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['clouds'] }

const orphans = createRoute({
  method: 'get',
  path: '/api/clouds/{cloud}/orphans',
  ...common,
  summary: 'List machines with our tag that belong to nothing of ours; removing or adopting them is a person’s act',
  ...guarded('operator'),
  request: { params: CloudParams, query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ orphans: z.array(Orphan), next: Next })), ...errors },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/clouds/{cloud}/orphans/{provider_id}',
  ...common,
  summary: 'Remove an orphan: its machine is deleted until the cloud has none of it',
  ...guarded('operator'),
  request: { ...writeHeaders, params: MachineParams },
  responses: { 202: json('Accepted.', z.strictObject({ orphan: Orphan })), ...errors },
})

const adopt = createRoute({
  method: 'post',
  path: '/api/clouds/{cloud}/machines/{provider_id}/adopt',
  ...common,
  summary: 'Adopt a machine that is there already: it becomes the instance of a launch order of one',
  ...guardedBody('operator'),
  request: {
    ...writeHeaders,
    params: MachineParams,
    query: fields({
      dryRun: z
        .enum(['true', 'false'])
        .optional()
        .openapi({ description: 'True: say what would be made, make nothing.' }),
    }),
    ...body('adoption', AdoptionInput),
  },
  responses: {
    200: json('What would be made.', AdoptionEnvelope),
    201: json('Adopted; the cloud is told to tag the machine as ours.', AdoptionEnvelope),
    ...errors,
  },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers what concerns machines by their provider's id, below `/api/clouds`. */
export function routeMachines(app: Api): void {
  app.openapi(orphans, async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const after = cursor === undefined ? undefined : decodeCursor('orphans', /^[^\0]+$/, cursor)
    const cloud = await visible(c, c.req.valid('param').cloud)
    const rows = await listOrphans(c.get('deps').store.db, cloud.id, { limit: limit + 1, after })
    const shown = rows.slice(0, limit)
    const next = rows.length > limit ? encodeCursor('orphans', shown.at(-1)!.provider_id) : null
    return c.json({ orphans: shown.map(renderOrphan), next }, 200)
  })

  app.openapi(remove, async (c) => {
    const { store } = c.get('deps')
    const { cloud: name, provider_id } = c.req.valid('param')
    const key = await requestKey(c)
    const cloud = await visible(c, name)
    const answer = { status: 202, resource_type: 'cloud', resource_id: cloud.id }
    await changeOnce(store, callerOf(c), key, answer, (trx) => requestRemoval(trx, callerOf(c), cloud, provider_id))
    const orphan = await findOrphan(store.db, cloud.id, provider_id)
    if (!orphan) throw notFound('orphan', provider_id)
    return c.json({ orphan: renderOrphan(orphan) }, 202)
  })

  app.openapi(adopt, async (c) => {
    const { store } = c.get('deps')
    const { cloud: name, provider_id } = c.req.valid('param')
    const key = await requestKey(c)
    const dry_run = c.req.valid('query').dryRun === 'true'
    const earlier = dry_run ? null : await answered(store.db, callerOf(c).project_id, key)
    let order_id = earlier?.resource_id
    if (order_id === undefined) {
      const cloud = await visible(c, name)
      const { project: wanted, ...input } = c.req.valid('json')
      const project = await findProject(store.db, wanted ? { name: wanted } : { id: callerOf(c).project_id })
      if (!project) throw notFound('project', wanted ?? '')
      const request = { cloud_id: cloud.id, project, ...(await lookAt(c, cloud, provider_id)), ...input }
      if (dry_run) return c.json({ adoption: renderAdoption(await planAdoption(store.db, request), null) }, 200)
      const answer = { status: 201, resource_type: 'order', resource_id: newId() }
      const given = await changeOnce(store, callerOf(c), key, answer, (trx) =>
        adoptMachine(trx, callerOf(c), answer.resource_id, request),
      )
      order_id = given.resource_id
    }
    const made = await findAdoption(store.db, order_id)
    if (!made) throw notFound('order', order_id)
    const adoption = renderAdoption(made, { order_id, ...made })
    c.header('Location', adoption.instance_href!)
    return c.json({ adoption }, 201)
  })
}

/** The machine as its cloud tells it now. Only the cloud's own account is looked into. */
async function lookAt(c: ApiContext, cloud: ShownCloud, provider_id: string) {
  const { look, store } = c.get('deps')
  const orphan = await findOrphan(store.db, cloud.id, provider_id)
  if (orphan?.credential_id && !orphan.gone_at)
    throw new DomainError(
      'conflict',
      `machine ${provider_id} is in an account of a project; only those of the cloud's own account are adopted`,
    )
  const looked = await look?.(cloud.id, provider_id)
  if (!looked) throw new DomainError('unavailable', 'this process has no way to the clouds')
  if ('refused' in looked) {
    if (looked.refused === 'not_found') throw noSuchMachine(cloud.name, provider_id)
    const { reason, retry_after_s } = looked
    throw new DomainError('unavailable', `cloud ${cloud.name} cannot be asked: ${reason}`, { retry_after_s })
  }
  if (!looked.can_adopt)
    throw new DomainError('conflict', `cloud ${cloud.name} cannot tag a machine that is there already`)
  return { machine: looked.machine, observed_at: looked.asked_at }
}

const renderAdoption = (
  { cloud, provider_id, raw_state, project, name, deployment, state, size, image }: Adoption,
  made: { readonly order_id: string; readonly instance_id: string; readonly deployment_id: string } | null,
): z.infer<typeof AdoptionOut> => ({
  dry_run: made === null,
  cloud,
  provider_id,
  raw_state,
  project,
  name,
  deployment,
  state: state as (typeof INSTANCE_STATES)[number],
  size,
  image,
  order_id: made?.order_id ?? null,
  instance_id: made?.instance_id ?? null,
  instance_href: made && `/api/deployments/${made.deployment_id}/instances/${made.instance_id}`,
})

const renderOrphan = (row: OrphanRow): z.infer<typeof Orphan> => ({
  provider_id: row.provider_id,
  tag: row.tag,
  raw_state: row.raw_state,
  first_seen_at: iso(row.first_seen_at),
  last_seen_at: iso(row.last_seen_at),
  gone_at: isoOrNull(row.gone_at),
  removal: row.removal && {
    requested_at: row.removal.requested_at,
    user_id: row.removal.user_id,
    error: row.removal.error ?? null,
  },
  tombstone: row.tombstone,
})
