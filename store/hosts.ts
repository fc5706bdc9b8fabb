/** Hosts in the record: computers of a cloud that leases can have for themselves; kept by operators. */
import { isDeepStrictEqual } from 'node:util'
import { type Kysely, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import { lockHosts } from './bookings.ts'
import type { Trx } from './database.ts'
import type { Tables } from './tables.ts'

export interface NewHost {
  readonly cloud_id: string
  /** As its cloud calls it. */
  readonly name: string
  readonly properties: Readonly<Record<string, unknown>>
  readonly reservable: boolean
}

/** Makes a host known. A name that its cloud has already is a conflict. */
export async function insertHost(trx: Trx, host: NewHost): Promise<void> {
  const made = await trx
    .insertInto('hosts')
    .values({ ...host, properties: JSON.stringify(host.properties), sequence: 1 })
    .onConflict((conflict) => conflict.columns(['cloud_id', 'name']).where('deleted_at', 'is', null).doNothing())
    .returning('id')
    .executeTakeFirst()
  if (!made) throw new DomainError('conflict', `there is a host ${host.name} at this cloud already`)
}

export interface HostChange {
  readonly properties?: Readonly<Record<string, unknown>> | undefined
  /** False: it is given to no more leases; those that have booked it keep it. */
  readonly reservable?: boolean | undefined
}

/** A host by its name at its cloud. */
export interface HostName {
  readonly cloud_id: string
  readonly name: string
}

/** Changes a host; no change is none. Throws `not_found`, `version_mismatch`. */
export async function updateHost(
  trx: Trx,
  host_name: HostName,
  { properties, reservable }: HostChange,
  if_match: number | undefined,
): Promise<void> {
  const host = await lockHost(trx, host_name, if_match)
  if (
    isDeepStrictEqual(properties ?? host.properties, host.properties) &&
    (reservable ?? host.reservable) === host.reservable
  )
    return
  await trx
    .updateTable('hosts')
    .set({
      ...(properties === undefined ? {} : { properties: JSON.stringify(properties) }),
      ...(reservable === undefined ? {} : { reservable }),
      sequence: host.sequence + 1,
    })
    .where('id', '=', host.id)
    .execute()
}

/** Forgets a host that no lease has or will have. Throws `not_found`, `version_mismatch`, `conflict`. */
export async function deleteHost(trx: Trx, host_name: HostName, if_match: number | undefined): Promise<void> {
  const { id, name } = await lockHost(trx, host_name, if_match)
  const { rows } = await sql<{ leases: number }>`select count(distinct lease_id)::int as leases from (
    select lease_id from bookings where host_id = ${id} and upper(during) > record_now()
    union all select lease_id from holds where host_id = ${id}) taken`.execute(trx)
  const { leases } = rows[0]!
  if (leases)
    throw new DomainError('conflict', `host ${name} is booked or held by ${leases} lease${leases > 1 ? 's' : ''}`)
  await trx.updateTable('hosts').set({ deleted_at: sql<Date>`record_now()` }).where('id', '=', id).execute()
}

/** Locks a host, and against whoever books it. */
async function lockHost(trx: Trx, { cloud_id, name }: HostName, if_match: number | undefined) {
  await lockHosts(trx, cloud_id)
  const host = await trx
    .selectFrom('hosts')
    .selectAll()
    .where('cloud_id', '=', cloud_id)
    .where('name', '=', name)
    .where('deleted_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst()
  if (!host) throw new DomainError('not_found', `this cloud has no host ${name} on record`)
  if (if_match !== undefined && if_match !== host.sequence)
    throw new DomainError('version_mismatch', `host ${name} is at version ${host.sequence}, not ${if_match}`)
  return host
}

/** A booking that is not over, or a hold. */
export interface HostUse {
  readonly lease_id: string
  readonly project: string
  /** As booked; one that overstays is past its end and still held. */
  readonly start_at: string
  readonly end_at: string
  /** It has the host in fact. */
  readonly held: boolean
}

/** Hosts of a cloud in the order in which they are given out, with who has booked or holds them; `name`: only this one. */
export function listHosts(
  db: Kysely<Tables>,
  query: { cloud_id: string; name?: string; after?: number | undefined; limit?: number },
) {
  let rows = db
    .selectFrom('hosts')
    .select(['id', 'name', 'properties', 'reservable', 'sequence', 'created_at'])
    .select(
      sql<HostUse[]>`coalesce((
        select json_agg(json_build_object('lease_id', leases.id, 'project', projects.name, 'start_at', lower(during),
          'end_at', upper(during), 'held', holds.lease_id is not null) order by during)
        from bookings join leases on leases.id = bookings.lease_id join projects on projects.id = leases.project_id
          left join holds on holds.host_id = bookings.host_id and holds.lease_id = bookings.lease_id
        where bookings.host_id = hosts.id and (upper(during) > record_now() or holds.lease_id is not null)), '[]')`.as(
        'uses',
      ),
    )
    .where('cloud_id', '=', query.cloud_id)
    .where('deleted_at', 'is', null)
    .orderBy('id')
  if (query.name !== undefined) rows = rows.where('name', '=', query.name)
  if (query.after !== undefined) rows = rows.where('id', '>', query.after)
  if (query.limit !== undefined) rows = rows.limit(query.limit)
  return rows.execute()
}

export type ShownHost = Awaited<ReturnType<typeof listHosts>>[number]
