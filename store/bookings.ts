/**
 * Hosts of leases: booked in the request's transaction, held from the start until the machines are gone. That nobody
 * has a host twice is said by the database: an exclusion constraint over bookings, a primary key over holds. Locks:
 * lease, the hosts of a cloud, hold.
 */
import { type RawBuilder, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import type { Blocker } from '../domain/record.ts'
import { leaseWorkflowId } from '../domain/workflow-ids.ts'
import { Overtaken, type Trx } from './database.ts'
import { wake } from './outbox.ts'

export interface WantedHosts {
  readonly cloud_id: string
  readonly count: number
}

interface Period {
  readonly start_at: Date
  readonly end_at: Date
}

/** Asks for hosts and books them. Throws `conflict` where there are not as many. */
export async function bookHosts(trx: Trx, lease_id: string, wanted: WantedHosts, period: Period): Promise<void> {
  const { cloud_id, count } = wanted
  const reservation_id = newId()
  await trx
    .insertInto('reservations')
    .values({
      id: reservation_id,
      lease_id,
      cloud_id,
      resource_type: 'physical:host',
      min_count: count,
      max_count: count,
    })
    .execute()
  await insertBookings(trx, { lease_id, reservation_id, cloud_id, count }, period)
}

async function insertBookings(
  trx: Trx,
  wanted: WantedHosts & { lease_id: string; reservation_id: string },
  period: Period,
): Promise<void> {
  const { lease_id, reservation_id } = wanted
  const hosts = await chooseHosts(trx, wanted, period)
  await sql`insert into bookings (id, host_id, lease_id, reservation_id, during)
    select gen_random_uuid(), id, ${lease_id}::uuid, ${reservation_id}::uuid, ${during(period)}
    from unnest(${hosts}::bigint[]) as chosen (id) order by id`.execute(trx)
}

const during = ({ start_at, end_at }: Period): RawBuilder<unknown> =>
  sql`tstzrange(${start_at}::timestamptz, ${end_at}::timestamptz)`

/** Free hosts by their order. Throws `conflict` where there are not as many. */
async function chooseHosts(trx: Trx, { cloud_id, count }: WantedHosts, period: Period): Promise<number[]> {
  await lockHosts(trx, cloud_id)
  const { rows } = await sql<{ id: number }>`
    select id from hosts where cloud_id = ${cloud_id}::uuid and reservable and deleted_at is null
      and not exists (select from bookings where host_id = hosts.id and during && ${during(period)})
    order by id limit ${count}`.execute(trx)
  if (rows.length < count)
    throw new DomainError(
      'conflict',
      `${count} hosts are asked for, and ${rows.length} are free from ${period.start_at.toISOString()} to ${period.end_at.toISOString()}`,
    )
  return rows.map(({ id }) => id)
}

/**
 * One change of the bookings of a cloud, or of a host of it, at a time: it takes milliseconds. Were only the hosts chosen
 * locked, requests for different times would wait for each other's hosts and begin anew.
 */
export async function lockHosts(trx: Trx, cloud_id: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended('hosts of ' || ${cloud_id}, 0))`.execute(trx)
}

/**
 * Moves the bookings of a lease with it. One that has not started may get other hosts for that. Throws `conflict` where
 * its hosts, or any, are booked then.
 */
export async function moveBookings(trx: Trx, lease: { id: string; state: string }, period: Period): Promise<void> {
  const reservation = await trx
    .selectFrom('reservations')
    .selectAll()
    .where('lease_id', '=', lease.id)
    .executeTakeFirst()
  if (!reservation) return
  await lockHosts(trx, reservation.cloud_id)
  const { rows: taken } = await sql<{ name: string }>`
    select distinct hosts.name from bookings own
      join bookings other on other.host_id = own.host_id and other.lease_id <> own.lease_id and other.during && ${during(period)}
      join hosts on hosts.id = own.host_id
    where own.lease_id = ${lease.id}::uuid order by 1`.execute(trx)
  if (!taken.length) {
    await sql`update bookings set during = ${during(period)} where lease_id = ${lease.id}::uuid`.execute(trx)
    return
  }
  if (lease.state !== 'PENDING') {
    const names = taken.map(({ name }) => name).join(', ')
    throw new DomainError('conflict', `lease ${lease.id} cannot be moved: ${names} is booked by another one then`)
  }
  const { id: reservation_id, cloud_id, min_count: count } = reservation
  await trx.deleteFrom('bookings').where('lease_id', '=', lease.id).execute()
  await insertBookings(trx, { lease_id: lease.id, reservation_id, cloud_id, count }, period)
}

/** From now on others may book the hosts of a lease that is wished to end; what it holds it holds until it is undone. */
export async function cutBookings(
  trx: Trx,
  lease: { id: string; state: string; start_at: Date },
  now: Date,
): Promise<void> {
  if (lease.state === 'PENDING' && lease.start_at >= now) {
    await trx.deleteFrom('bookings').where('lease_id', '=', lease.id).execute()
    return
  }
  // A clock that was set back may be behind its start.
  await sql`update bookings set during = tstzrange(lower(during), greatest(${now}, lower(during) + interval '1 ms'))
    where lease_id = ${lease.id}::uuid and upper(during) > ${now}`.execute(trx)
}

/** Whether the lease of a row has hosts for itself. */
export const HAS_HOSTS = sql<boolean>`exists (select from reservations where reservations.lease_id = leases.id)`

/** The cloud at which a create of an order stayed without an answer, and which nobody could list since it settled. */
export async function unseenCloud(trx: Trx, order_id: string): Promise<string | null> {
  const cloud = await trx
    .selectFrom('launch_attempts')
    .innerJoin('clouds', 'clouds.id', 'cloud_id')
    .select('clouds.name')
    .where('order_id', '=', order_id)
    .where('launch_attempts.state', '=', 'lost')
    .where('provider_id', 'is', null)
    .where('gone_at', 'is', null)
    .where(sql<boolean>`coalesce(last_list_sent_at, '-infinity') <= settle_at`)
    .limit(1)
    .executeTakeFirst()
  return cloud?.name ?? null
}

/**
 * Who else holds hosts that a lease has booked, as a sentence; null: nobody. The holds are locked, so that whoever lets
 * go of one after this sees that it is waited for. Other projects are not named.
 */
export async function whoHolds(trx: Trx, lease: { id: string; project_id: string }): Promise<string | null> {
  const { rows } = await sql<{ host: string; lease_id: string; name: string; project_id: string }>`
    select hosts.name as host, holder.id as lease_id, holder.name, holder.project_id
    from bookings join holds on holds.host_id = bookings.host_id and holds.lease_id <> bookings.lease_id
      join hosts on hosts.id = holds.host_id join leases holder on holder.id = holds.lease_id
    where bookings.lease_id = ${lease.id}::uuid order by hosts.id for no key update of holds`.execute(trx)
  if (!rows.length) return null
  const holders = rows.map(({ host, lease_id, name, project_id }) => {
    const whose = project_id === lease.project_id ? `lease ${name} (${lease_id})` : "another project's lease"
    return `host ${host} is held by ${whose}`
  })
  return `${holders.join(', ')}, whose machines are not gone yet`
}

/** Takes the hosts that a lease has booked; returns their names. Throws `Overtaken` where another one holds them. */
export async function takeHolds(trx: Trx, lease_id: string): Promise<string[]> {
  const { rows } = await sql<{ name: string; taken: boolean }>`
    with booked as (select host_id, name from bookings join hosts on hosts.id = host_id where lease_id = ${lease_id}::uuid),
      held as (insert into holds (host_id, lease_id) select host_id, ${lease_id}::uuid from booked order by host_id
        on conflict do nothing returning host_id)
    select name, held.host_id is not null as taken from booked left join held using (host_id) order by host_id`.execute(
    trx,
  )
  if (rows.some(({ taken }) => !taken)) throw new Overtaken(`a host of lease ${lease_id} was taken meanwhile`)
  return rows.map(({ name }) => name)
}

/** How long a lease that waits for hosts has done so: since that was told. */
const WAITED_MS = sql`greatest(0, extract(epoch from record_now() - (leases.blocker ->> 'since')::timestamptz) * 1000)::bigint`

/** What a lease that waits for hosts waits for; null: it does not. */
export const waitedFor = ({ blocker }: { blocker: Blocker | null }): string | null =>
  blocker?.code === 'host_held' ? blocker.reason : null

/** A lease that gives up waiting for hosts leaves with the holds how long it did. */
export async function noteWait(trx: Trx, lease: { id: string; blocker: Blocker | null }): Promise<void> {
  if (waitedFor(lease) === null) return
  await sql`update holds set waited_ms = greatest(holds.waited_ms, ${WAITED_MS})
    from bookings join leases on leases.id = bookings.lease_id
    where bookings.lease_id = ${lease.id}::uuid and holds.host_id = bookings.host_id
      and holds.lease_id <> bookings.lease_id`.execute(trx)
}

/**
 * Lets go of the hosts of a lease, and wakes those that wait for them. Returns how long others have waited for one, the
 * longest; null: nobody did.
 */
export async function releaseHolds(trx: Trx, lease_id: string): Promise<number | null> {
  const { rows: released } = await sql<{ host_id: number; waited_ms: number | null }>`
    delete from holds where host_id in (
      select host_id from holds where lease_id = ${lease_id}::uuid order by host_id for update) returning host_id, waited_ms`.execute(
    trx,
  )
  if (!released.length) return null
  // Those that saw the hold have told so before it could be let go, see `whoHolds`.
  const { rows: waiting } = await sql<{ id: string; project_id: string; waited_ms: number }>`
    select id, project_id, ${WAITED_MS} as waited_ms from leases
    where state = 'PENDING' and blocker ->> 'code' = 'host_held' and exists (
      select from bookings where lease_id = leases.id and host_id = any(${released.map(({ host_id }) => host_id)}::bigint[]))`.execute(
    trx,
  )
  await wake(
    trx,
    waiting.map(({ id, project_id }) => ({ target: leaseWorkflowId(id), project_id })),
  )
  const waits = [...released, ...waiting].flatMap(({ waited_ms }) => waited_ms ?? [])
  return waits.length ? Math.max(...waits) : null
}
