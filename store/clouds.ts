/** Clouds in the record: made and changed by operators, granted to projects, looked up for orders. */
import { type Kysely, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import type { Cause } from '../domain/record.ts'
import { cloudWorkflowId } from '../domain/workflow-ids.ts'
import type { Trx } from './database.ts'
import { recordEvents } from './events.ts'
import type { Caller } from './orders.ts'
import { wake } from './outbox.ts'
import type { Tables } from './tables.ts'

/** What an operator says of a cloud. The credential is sealed already, for the id it comes with. */
export interface CloudFields {
  readonly endpoint: string
  readonly settings: Readonly<Record<string, unknown>>
  readonly sizes: Readonly<Record<string, string>>
  readonly images: Readonly<Record<string, string>>
  readonly priority: number
  readonly enabled: boolean
  readonly allocation: number | null
}

export interface SealedCredential {
  readonly id: string
  readonly sealed: Buffer
}

const actorCause = (caller: Caller): Cause => ({
  actor: { user_id: caller.user_id, request_id: caller.request_id },
  reason: 'requested',
})

/** Makes a cloud, wakes its watcher, and grants it to the project of whoever made it. A taken name is a conflict. */
export async function insertCloud(
  trx: Trx,
  caller: Caller,
  cloud: CloudFields & { readonly id: string; readonly name: string; readonly provider: string },
  credential: SealedCredential | null,
): Promise<void> {
  if (credential) await insertCredential(trx, cloud.name, credential)
  const { settings, sizes, images, ...plain } = cloud
  const made = await trx
    .insertInto('clouds')
    .values({
      ...plain,
      settings: JSON.stringify(settings),
      sizes: JSON.stringify(sizes),
      images: JSON.stringify(images),
      credential_id: credential?.id ?? null,
      sequence: 1,
    })
    .onConflict((conflict) => conflict.column('name').doNothing())
    .returning('id')
    .executeTakeFirst()
  if (!made) throw new DomainError('conflict', `there is a cloud named ${cloud.name} already`)
  await tell(trx, cloud, 'cloud.created', null, 'unknown', 1, actorCause(caller))
  await grantCloud(trx, cloud.id, caller.project_id)
  await wake(trx, [{ target: cloudWorkflowId(cloud.name) }])
}

async function insertCredential(trx: Trx, cloud_name: string, { id, sealed }: SealedCredential): Promise<void> {
  await trx
    .insertInto('credentials')
    .values({ id, name: `cloud ${cloud_name}`, sealed })
    .execute()
}

async function tell(
  trx: Trx,
  cloud: { id: string; name: string; enabled: boolean; allocation: number | null; priority: number },
  type: string,
  from: string | null,
  to: string,
  sequence: number,
  cause: Cause,
): Promise<void> {
  const { id, name, enabled, allocation, priority } = cloud
  await recordEvents(trx, [
    {
      project_id: null,
      resource_type: 'cloud',
      resource_id: id,
      sequence,
      type,
      from,
      to,
      snapshot: { name, enabled, allocation, priority },
      cause,
    },
  ])
}

/** Changes a cloud and wakes its watcher and the orders that wait for it. No change writes no event. */
export async function updateCloud(
  trx: Trx,
  caller: Caller,
  name: string,
  change: Partial<CloudFields>,
  credential: SealedCredential | null,
  if_match: number | undefined,
): Promise<void> {
  const cloud = await trx.selectFrom('clouds').selectAll().where('name', '=', name).forNoKeyUpdate().executeTakeFirst()
  if (!cloud) throw new DomainError('not_found', `there is no cloud ${name}`)
  if (if_match !== undefined && if_match !== cloud.sequence)
    throw new DomainError('version_mismatch', `cloud ${name} is at version ${cloud.sequence}, not ${if_match}`)
  const { settings, sizes, images, ...plain } = change
  const next = { ...cloud, ...change }
  const same = Object.entries(change).every(
    ([field, value]) => JSON.stringify(value) === JSON.stringify(cloud[field as keyof typeof cloud]),
  )
  if (same && !credential) return
  if (credential) await insertCredential(trx, name, credential)
  await trx
    .updateTable('clouds')
    .set({
      ...plain,
      ...(settings ? { settings: JSON.stringify(settings) } : {}),
      ...(sizes ? { sizes: JSON.stringify(sizes) } : {}),
      ...(images ? { images: JSON.stringify(images) } : {}),
      ...(credential ? { credential_id: credential.id } : {}),
      sequence: cloud.sequence + 1,
    })
    .where('id', '=', cloud.id)
    .execute()
  await tell(trx, next, 'cloud.updated', cloud.state, cloud.state, cloud.sequence + 1, actorCause(caller))
  await wake(trx, [{ target: cloudWorkflowId(name) }])
  await sql`insert into outbox (target, project_id)
    select 'order/' || id, project_id from launch_orders
    where state in ('queued', 'held') and ${cloud.id} = any (cloud_ids)`.execute(trx)
}

/** Lets a project use a cloud; again is the same. */
export async function grantCloud(trx: Trx, cloud_id: string, project_id: string): Promise<void> {
  await trx
    .insertInto('cloud_grants')
    .values({ cloud_id, project_id })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

/** Takes a cloud from a project: for new orders; what runs there runs on. */
export async function withdrawCloud(trx: Trx, cloud_id: string, project_id: string): Promise<void> {
  await trx.deleteFrom('cloud_grants').where('cloud_id', '=', cloud_id).where('project_id', '=', project_id).execute()
}

/** Projects that may use a cloud. */
export function listGrants(db: Kysely<Tables>, cloud_id: string) {
  return db
    .selectFrom('cloud_grants')
    .innerJoin('projects', 'projects.id', 'cloud_grants.project_id')
    .select(['projects.id', 'projects.name'])
    .where('cloud_id', '=', cloud_id)
    .orderBy('projects.name')
    .execute()
}

const ALLOCATION_USED = sql<number>`(
  select count(*)::int from claims where claims.cloud_id = clouds.id and claims.released_at is null)`

/** Clouds by priority; of a project: those granted to it. `name`: only this one. */
export function listClouds(
  db: Kysely<Tables>,
  query: { readonly project_id?: string | undefined; readonly name?: string | undefined },
) {
  let rows = db
    .selectFrom('clouds')
    .selectAll()
    .select(ALLOCATION_USED.as('allocation_used'))
    .orderBy('priority', 'desc')
    .orderBy('name')
  if (query.name !== undefined) rows = rows.where('name', '=', query.name)
  if (query.project_id !== undefined) {
    const project_id = query.project_id
    rows = rows.where((where) =>
      where.exists(
        where
          .selectFrom('cloud_grants')
          .select('cloud_id')
          .whereRef('cloud_id', '=', 'clouds.id')
          .where('project_id', '=', project_id),
      ),
    )
  }
  return rows.execute()
}

export type ShownCloud = Awaited<ReturnType<typeof listClouds>>[number]

export interface CloudNames {
  readonly id: string
  readonly name: string
  readonly sizes: Readonly<Record<string, string>>
  readonly images: Readonly<Record<string, string>>
}

/** What a project may order where, by priority: one look for the whole check of an order. */
export function cloudsForOrders(db: Kysely<Tables>, project_id: string): Promise<CloudNames[]> {
  return db
    .selectFrom('clouds')
    .innerJoin('cloud_grants', 'cloud_grants.cloud_id', 'clouds.id')
    .select(['clouds.id', 'clouds.name', 'clouds.sizes', 'clouds.images'])
    .where('cloud_grants.project_id', '=', project_id)
    .orderBy('clouds.priority', 'desc')
    .orderBy('clouds.name')
    .execute()
}

/** Machines at a cloud with our tag and no attempt of ours, oldest first. */
export function listOrphans(db: Kysely<Tables>, cloud_id: string, page: { limit: number; after?: string | undefined }) {
  const rows = db
    .selectFrom('orphans')
    .selectAll()
    .where('cloud_id', '=', cloud_id)
    .orderBy('provider_id')
    .limit(page.limit)
  return (page.after === undefined ? rows : rows.where('provider_id', '>', page.after)).execute()
}
