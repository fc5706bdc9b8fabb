/**
 * Leases in the record: made, changed, ended. What is due is done in lease-plan.ts. The moments are kept to the second and are the record's
 * time; what each act came to, and how late, stands in lease_events.
 */
import { type Kysely, type Selectable, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import type { OrderTemplate } from '../domain/launch-order.ts'
import type { Blocker, Cause } from '../domain/record.ts'
import { leaseWorkflowId } from '../domain/workflow-ids.ts'
import { bookHosts, cutBookings, moveBookings, type WantedHosts } from './bookings.ts'
import { recordNow, type Store, shownBlocker, type Trx, write } from './database.ts'
import { newEventId, recordEvents } from './events.ts'
import { claimKey } from './idempotency.ts'
import type { Caller, RequestKey } from './orders.ts'
import { wake } from './outbox.ts'
import type { LeasesTable, Tables } from './tables.ts'

export type LeaseRow = Selectable<LeasesTable>

export interface NewLease {
  readonly name: string
  readonly start_at: Date | 'now'
  readonly end_at: Date
  readonly before_end_at: Date | null
  /** A launch order that begins and ends with the lease; its names were checked. */
  readonly order: OrderTemplate | null
  /** Computers of a cloud that nobody else has meanwhile; an order's instances go to them in turn. */
  readonly hosts: WantedHosts | null
}

/**
 * Makes a lease and books its hosts. Throws `invalid_request` where its moments do not follow each other, `conflict` where
 * there are not as many hosts, `key_reused`.
 */
export function createLease(
  store: Store,
  caller: Caller,
  lease: NewLease,
  key: RequestKey | null,
): Promise<{ lease_id: string }> {
  return write(store, async (trx) => {
    const lease_id = newId()
    const earlier = await claimKey(trx, caller.project_id, key, {
      status: 202,
      resource_type: 'lease',
      resource_id: lease_id,
    })
    if (earlier) return { lease_id: earlier.resource_id }
    const now = await recordNow(trx)
    const start_at = lease.start_at === 'now' ? now : lease.start_at
    checkMoments({ ...lease, start_at }, now)
    const event = newEventId()
    await trx
      .with('made', (made) =>
        made.insertInto('leases').values({
          id: lease_id,
          project_id: caller.project_id,
          user_id: caller.user_id,
          name: lease.name,
          start_at,
          end_at: lease.end_at,
          before_end_at: lease.before_end_at,
          order_template: lease.order ? JSON.stringify(lease.order) : null,
          wished_by: caller.user_id,
          wish_event: event,
          due_at: start_at,
          sequence: 1,
        }),
      )
      .insertInto('lease_events')
      .values(
        (
          [
            ['start_lease', start_at],
            ['before_end_lease', lease.before_end_at],
            ['end_lease', lease.end_at],
          ] as const
        ).flatMap(([type, time]) => (time ? [{ id: newId(), lease_id, type, time }] : [])),
      )
      .execute()
    if (lease.hosts) await bookHosts(trx, lease_id, lease.hosts, { start_at, end_at: lease.end_at })
    await recordEvents(trx, [
      {
        id: event,
        project_id: caller.project_id,
        resource_type: 'lease',
        resource_id: lease_id,
        sequence: 1,
        type: 'lease.created',
        to: 'PENDING',
        snapshot: snapshotOf({ ...lease, start_at, order_id: null, blocker: null }),
        cause: { actor: { user_id: caller.user_id, request_id: caller.request_id }, reason: 'requested' },
      },
    ])
    await wake(trx, [{ target: leaseWorkflowId(lease_id), kind: 'start', project_id: caller.project_id }])
    return { lease_id }
  })
}

function checkMoments(lease: { start_at: Date; end_at: Date; before_end_at: Date | null }, now: Date): void {
  const refuse = (path: string, reason: string): never => {
    throw new DomainError('invalid_request', `${path}: ${reason}`, { problems: [{ path, reason }] })
  }
  if (lease.end_at <= lease.start_at) refuse('end_at', `must be after start_at (${lease.start_at.toISOString()})`)
  if (lease.end_at <= now) refuse('end_at', `must be in the future; it is ${now.toISOString()}`)
  const before = lease.before_end_at
  if (before && (before < lease.start_at || before >= lease.end_at))
    refuse('before_end_at', 'must lie between start_at and end_at')
}

const snapshotOf = (lease: {
  name: string
  start_at: Date
  end_at: Date
  before_end_at: Date | null
  order_id: string | null
  blocker: Blocker | null
}) => ({
  name: lease.name,
  start_at: lease.start_at.toISOString(),
  end_at: lease.end_at.toISOString(),
  before_end_at: lease.before_end_at?.toISOString() ?? null,
  order_id: lease.order_id,
  blocker: lease.blocker,
})

export interface LeaseChange {
  readonly name?: string
  /** Only while it has not started. */
  readonly start_at?: Date
  readonly end_at?: Date
  /** Null: no notice. A new moment after the notice was given brings another. */
  readonly before_end_at?: Date | null
}

/**
 * Moves, extends, shortens or renames a lease, its bookings with it: `conflict` where its hosts are booked then. Extending
 * against the end: the lock decides; once it is ending, 409. Shortening to the past is refused: ending now is `endLease`.
 */
export function updateLease(
  store: Store,
  caller: Caller,
  lease_id: string,
  change: LeaseChange,
  options: { if_match?: number | undefined } = {},
): Promise<void> {
  return write(store, async (trx) => {
    const lease = await lockLease(trx, caller, lease_id, options.if_match)
    if (
      lease.wish === 'end' ||
      lease.state === 'TERMINATING' ||
      lease.state === 'TERMINATED' ||
      lease.state === 'ERROR'
    ) {
      throw new DomainError('conflict', `lease ${lease_id} is ${lease.state} and can only be read; make a new one`)
    }
    const now = await recordNow(trx)
    if (lease.end_at <= now)
      throw new DomainError('conflict', `lease ${lease_id} ended at ${lease.end_at.toISOString()}`)
    if (change.start_at && lease.state !== 'PENDING' && change.start_at.getTime() !== lease.start_at.getTime()) {
      throw new DomainError('conflict', `lease ${lease_id} has started; only its end can be moved`)
    }
    const next = {
      name: change.name ?? lease.name,
      start_at: change.start_at ?? lease.start_at,
      end_at: change.end_at ?? lease.end_at,
      before_end_at: change.before_end_at === undefined ? lease.before_end_at : change.before_end_at,
    }
    checkMoments(next, now)
    const same = (['start_at', 'end_at', 'before_end_at'] as const).every(
      (field) => next[field]?.getTime() === lease[field]?.getTime(),
    )
    if (same && next.name === lease.name) return
    await moveEvents(trx, lease, next)
    await moveBookings(trx, lease, next)
    await changeLease(trx, lease, 'lease.updated', lease.state, { ...next, due_at: now }, actorCause(caller))
    await wake(trx, [{ target: leaseWorkflowId(lease_id), project_id: lease.project_id }])
  })
}

async function moveEvents(
  trx: Trx,
  lease: LeaseRow,
  next: { start_at: Date; end_at: Date; before_end_at: Date | null },
): Promise<void> {
  const move = (type: string, time: Date, again: boolean) =>
    trx
      .insertInto('lease_events')
      .values({ id: newId(), lease_id: lease.id, type, time })
      .onConflict((conflict) =>
        conflict
          .columns(['lease_id', 'type'])
          .doUpdateSet({ time, ...(again ? { status: 'UNDONE' as const, acted_at: null, late_ms: null } : {}) }),
      )
      .execute()
  if (lease.state === 'PENDING') await move('start_lease', next.start_at, false)
  await move('end_lease', next.end_at, false)
  if (next.before_end_at === null) {
    await trx
      .deleteFrom('lease_events')
      .where('lease_id', '=', lease.id)
      .where('type', '=', 'before_end_lease')
      .where('status', '=', 'UNDONE')
      .execute()
  } else if (next.before_end_at.getTime() !== lease.before_end_at?.getTime())
    await move('before_end_lease', next.before_end_at, true)
}

const actorCause = (caller: Caller): Cause => ({
  actor: { user_id: caller.user_id, request_id: caller.request_id },
  reason: 'requested',
})

/** Ends a lease now, in every state; a repeat changes nothing. */
export function endLease(
  store: Store,
  caller: Caller,
  lease_id: string,
  options: { if_match?: number | undefined } = {},
): Promise<void> {
  return write(store, async (trx) => {
    const lease = await lockLease(trx, caller, lease_id, options.if_match)
    if (lease.wish === 'end' || lease.state === 'TERMINATED' || lease.state === 'ERROR') return
    const now = await recordNow(trx)
    const event = newEventId()
    await cutBookings(trx, lease, now)
    const wish = { wish: 'end' as const, wish_version: lease.wish_version + 1, wish_event: event }
    await changeLease(
      trx,
      lease,
      'lease.wish_changed',
      lease.state,
      { ...wish, wished_by: caller.user_id, wished_at: now, due_at: now },
      actorCause(caller),
      event,
    )
    await wake(trx, [{ target: leaseWorkflowId(lease_id), project_id: lease.project_id }])
  })
}

async function lockLease(trx: Trx, caller: Caller, lease_id: string, if_match: number | undefined): Promise<LeaseRow> {
  const lease = await trx
    .selectFrom('leases')
    .selectAll()
    .where('id', '=', lease_id)
    .forNoKeyUpdate()
    .executeTakeFirst()
  if (!lease || lease.project_id !== caller.project_id)
    throw new DomainError('not_found', `lease ${lease_id} does not exist`)
  if (if_match !== undefined && if_match !== lease.sequence) {
    throw new DomainError('version_mismatch', `lease ${lease_id} is at version ${lease.sequence}, not ${if_match}`)
  }
  return lease
}

/** Writes a lease's row and its event; returns the event's id. */
export async function changeLease(
  trx: Trx,
  lease: LeaseRow,
  type: string,
  to: LeaseRow['state'],
  set: Partial<Omit<LeaseRow, 'order_template' | 'id'>>,
  cause: Cause,
  event = newEventId(),
): Promise<string> {
  lease.sequence++
  const from = lease.state
  // What blocked one state does not block the next.
  const { blocker = from === to ? lease.blocker : null, ...rest } = set
  Object.assign(lease, rest, { state: to, blocker })
  await trx
    .updateTable('leases')
    .set({ ...rest, state: to, blocker: blocker && JSON.stringify(blocker), sequence: lease.sequence })
    .where('id', '=', lease.id)
    .execute()
  await recordEvents(trx, [
    {
      id: event,
      project_id: lease.project_id,
      resource_type: 'lease',
      resource_id: lease.id,
      sequence: lease.sequence,
      type,
      from,
      to,
      snapshot: snapshotOf(lease),
      cause,
    },
  ])
  return event
}

/** A lease as its owner sees it, with its events and the hosts it has booked, or had. */
export async function findLease(db: Kysely<Tables>, project_id: string, lease_id: string) {
  const lease = await db
    .selectFrom('leases')
    .selectAll()
    .select(shownBlocker('leases').as('blocker'))
    .where('id', '=', lease_id)
    .where('project_id', '=', project_id)
    .executeTakeFirst()
  if (!lease) return undefined
  const events = await db
    .selectFrom('lease_events')
    .selectAll()
    .where('lease_id', '=', lease_id)
    .orderBy('time')
    .execute()
  const hosts = await db
    .selectFrom('reservations')
    .innerJoin('clouds', 'clouds.id', 'reservations.cloud_id')
    .select(['clouds.name as cloud', 'min_count as count'])
    .select(
      sql<string[]>`array(select hosts.name from bookings join hosts on hosts.id = host_id
        where reservation_id = reservations.id order by host_id)`.as('names'),
    )
    .where('lease_id', '=', lease_id)
    .executeTakeFirst()
  return { ...lease, events, hosts: hosts ?? null }
}

/** Newest first; `before`: only those made before this id. */
export function listLeases(
  db: Kysely<Tables>,
  project_id: string,
  page: { limit: number; before?: string | undefined },
) {
  let query = db
    .selectFrom('leases')
    .selectAll()
    .select(shownBlocker('leases').as('blocker'))
    .where('project_id', '=', project_id)
    .orderBy('id', 'desc')
    .limit(page.limit)
  if (page.before) query = query.where('id', '<', page.before)
  return query.execute()
}
