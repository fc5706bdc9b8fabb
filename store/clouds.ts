/** Clouds in the record: made and changed by operators, granted to projects, looked up for orders. */
import { type Kysely, type RawBuilder, type Selectable, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import type { Cause } from '../domain/record.ts'
import { cloudWorkflowId } from '../domain/workflow-ids.ts'
import { leave, type Trx } from './database.ts'
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
  /** What a size costs, by our name of it, in a unit of the operator's. */
  readonly prices: Readonly<Record<string, number>>
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

export interface NewCloud extends CloudFields {
  readonly id: string
  readonly name: string
  readonly provider: string
  /** Of a cloud of a file: what that said, sealed. */
  readonly imported?: Buffer
}

/** Makes a cloud and grants it to the project of whoever made it. A taken name is a conflict. */
export async function insertCloud(
  trx: Trx,
  caller: Caller,
  cloud: NewCloud,
  credential: SealedCredential | null,
): Promise<void> {
  const made = await addCloud(trx, cloud, credential, actorCause(caller))
  if (!made) throw new DomainError('conflict', `there is a cloud named ${cloud.name} already`)
  await grantCloud(trx, cloud.id, caller.project_id)
}

/** Makes a cloud and wakes its watcher. False: the name is taken. */
export async function addCloud(
  trx: Trx,
  cloud: NewCloud,
  credential: SealedCredential | null,
  cause: Cause,
): Promise<boolean> {
  if (credential) await insertCredential(trx, cloud.name, credential)
  const { settings, sizes, images, prices, ...plain } = cloud
  const made = await trx
    .insertInto('clouds')
    .values({
      ...plain,
      settings: JSON.stringify(settings),
      sizes: JSON.stringify(sizes),
      images: JSON.stringify(images),
      prices: JSON.stringify(prices),
      credential_id: credential?.id ?? null,
      source: cloud.imported ? 'file' : 'api',
      sequence: 1,
    })
    .onConflict((conflict) => conflict.column('name').doNothing())
    .returning('id')
    .executeTakeFirst()
  if (!made) return false
  await tell(trx, cloud, 'cloud.created', null, 'unknown', 1, cause)
  await wake(trx, [{ target: cloudWorkflowId(cloud.name) }])
  return true
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

/** Changes a cloud as an operator wishes. No change writes no event. */
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
  if (cloud.retired_at && change.enabled)
    throw new DomainError('conflict', `cloud ${name} is retired: ${retiredReason(cloud)}; put the file back`)
  const same = Object.entries(change).every(
    ([field, value]) => JSON.stringify(value) === JSON.stringify(cloud[field as keyof typeof cloud]),
  )
  if (same && !credential) return
  await changeCloud(trx, cloud, 'cloud.updated', change, credential, actorCause(caller))
}

/** What is changed of a cloud; of one of a file also what that said, sealed, and since when it is gone. */
export interface CloudChange extends Partial<CloudFields> {
  readonly imported?: Buffer
  readonly retired_at?: RawBuilder<Date> | null
  readonly credential_id?: null
}

/** Changes a cloud, locked by the caller, and wakes its watcher and the orders that wait for it. */
export async function changeCloud(
  trx: Trx,
  cloud: Selectable<Tables['clouds']>,
  type: 'cloud.updated' | 'cloud.retired',
  change: CloudChange,
  credential: SealedCredential | null,
  cause: Cause,
): Promise<void> {
  const { settings, sizes, images, prices, ...plain } = change
  if (credential) await insertCredential(trx, cloud.name, credential)
  await trx
    .updateTable('clouds')
    .set({
      ...plain,
      ...(settings ? { settings: JSON.stringify(settings) } : {}),
      ...(sizes ? { sizes: JSON.stringify(sizes) } : {}),
      ...(images ? { images: JSON.stringify(images) } : {}),
      ...(prices ? { prices: JSON.stringify(prices) } : {}),
      ...(credential ? { credential_id: credential.id } : {}),
      sequence: cloud.sequence + 1,
    })
    .where('id', '=', cloud.id)
    .execute()
  await tell(trx, { ...cloud, ...change }, type, cloud.state, cloud.state, cloud.sequence + 1, cause)
  leave(trx, 'machines') // its watcher begins anew
  await wake(trx, [{ target: cloudWorkflowId(cloud.name) }])
  await wakeWaiting(trx, cloud.id)
}

/** Wakes the orders that may wait for a cloud. */
export async function wakeWaiting(trx: Trx, cloud_id: string): Promise<void> {
  await sql`insert into outbox (target, project_id)
    select 'order/' || id, project_id from launch_orders
    where state in ('queued', 'held') and ${cloud_id} = any (cloud_ids)`.execute(trx)
}

/** Why a retired cloud takes no orders; null: it is not retired. */
export const retiredReason = (cloud: { name: string; retired_at: Date | null }): string | null =>
  cloud.retired_at && `its file clouds/${cloud.name}.conf is gone since ${cloud.retired_at.toISOString()}`

/** Lets a project use a cloud; again is the same. */
export async function grantCloud(trx: Trx, cloud_id: string, project_id: string): Promise<void> {
  await trx
    .insertInto('cloud_grants')
    .values({ cloud_id, project_id })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

/** Takes a cloud from a project: for new orders; what runs there runs on. A cloud of a file is for all projects. */
export async function withdrawCloud(trx: Trx, cloud_id: string, project_id: string): Promise<void> {
  const cloud = await trx.selectFrom('clouds').select(['name', 'source']).where('id', '=', cloud_id).executeTakeFirst()
  if (cloud?.source === 'file')
    throw new DomainError('conflict', `cloud ${cloud.name} is one of a file, and those are for all projects`)
  await trx.deleteFrom('cloud_grants').where('cloud_id', '=', cloud_id).where('project_id', '=', project_id).execute()
}

/** Projects that may use a cloud. */
export function listGrants(db: Kysely<Tables>, cloud_id: string) {
  return db
    .selectFrom('projects')
    .innerJoin('clouds', (join) => join.on('clouds.id', '=', cloud_id))
    .select(['projects.id', 'projects.name'])
    .where(mayUse(sql.ref('projects.id')))
    .orderBy('projects.name')
    .execute()
}

/** Whether a project may use the cloud of a row: clouds of files are for all, others for those they are granted to. */
export const mayUse = (project_id: RawBuilder<unknown>) => sql<boolean>`(clouds.source = 'file' or exists (
  select from cloud_grants where cloud_grants.cloud_id = clouds.id and cloud_grants.project_id = ${project_id}))`

const ALLOCATION_USED = sql<number>`(
  select count(*)::int from claims where claims.cloud_id = clouds.id and claims.released_at is null)`

/** Clouds by priority; of a project: those it may use. `name`: only this one. */
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
  if (query.project_id !== undefined) rows = rows.where(mayUse(sql`${query.project_id}::uuid`))
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
    .select(['id', 'name', 'sizes', 'images'])
    .where('retired_at', 'is', null)
    .where(mayUse(sql`${project_id}::uuid`))
    .orderBy('priority', 'desc')
    .orderBy('name')
    .execute()
}
