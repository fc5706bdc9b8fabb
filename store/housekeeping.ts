/** Housekeeping: what is overdue is woken, what is past its retention goes. Every piece is small and may be repeated. */
import { sql } from 'kysely'
import { eraseEnded } from './credentials.ts'
import { type Store, type Trx, write } from './database.ts'
import { eraseSshKeys } from './ssh-keys.ts'

/** A noun whose moment passed this long ago without its flow having looked is woken. */
const OVERDUE_S = 30
const WOKEN_MAX = 1_000
const IDEMPOTENCY_KEPT_H = 24
const DELIVERIES_KEPT_D = 30
const DELETED_MAX = 5_000

/**
 * Settled orders that have not heard of what became of a machine, since their wake was lost: one died, or is too many. With
 * nothing due they are no open nouns.
 */
const BEHIND = sql`
  select 'order/' || launch_orders.id, launch_orders.project_id, terminated_at
    from instances join items on items.instance_id = instances.id join launch_orders on launch_orders.id = instances.order_id
    where terminated_at > record_now() - interval '1 day' and items.state = 'running' and launch_orders.due_at is null
  union all
  select 'order/' || launch_orders.id, launch_orders.project_id, record_now() - interval '1 hour'
    from launch_attempts join launch_orders on launch_orders.id = order_id
    where launch_attempts.state = 'surplus' and gone_at is null and provider_id is not null and launch_orders.due_at is null`

/** Open nouns and when they were due; one query for both uses below. */
const OPEN_NOUNS = sql`
  select 'order/' || id as target, project_id, due_at from launch_orders
    where due_at is not null or state not in ('running', 'cancelled', 'terminated', 'failed')
  union all
  ${BEHIND}
  union all
  select 'lease/' || id, project_id, due_at from leases where state not in ('TERMINATED', 'ERROR')
  union all
  select 'instance/' || instance_id, actions.project_id, instances.due_at
    from actions join instances on instances.id = actions.instance_id where actions.state in ('queued', 'running')
  union all
  select 'instance/' || instances.id, project_id, due_at from taggings join instances on instances.id = instance_id
  union all
  select 'instance/' || instances.id, instances.project_id, due_at
    from inventory join instances on instances.id = instance_id where request_id is not null and due_at is not null
  union all
  select 'deployment/' || deployment_id, project_id, due_at from deployment_actions where state = 'running'
  union all
  select 'hook/' || id, project_id, record_now() - interval '1 hour' from hooks
    where owner = 'lane' and state = 'active' and (attended_until is null or attended_until < clock_timestamp())`

/** Wakes every noun that is overdue; returns how many. */
export function wakeOverdue(store: Store): Promise<number> {
  return write(store, async (trx) => {
    const woken = await sql`
      insert into outbox (target, project_id)
      select target, project_id from (${OPEN_NOUNS}) open
      where due_at < record_now() - ${OVERDUE_S} * interval '1 s'
        and not exists (select from outbox where outbox.target = open.target)
      order by due_at limit ${WOKEN_MAX}`.execute(trx)
    return Number(woken.numAffectedRows ?? 0)
  })
}

/** Wakes every noun that is not over: the engine is new and knows none of them. */
export function wakeAll(store: Store): Promise<number> {
  return write(store, wakeOpen)
}

/** The same in a transaction of the caller's. */
export async function wakeOpen(trx: Trx): Promise<number> {
  const woken = await sql`
    insert into outbox (target, project_id)
    select target, project_id from (${OPEN_NOUNS}) open
    where not exists (select from outbox where outbox.target = open.target)
    order by due_at nulls last`.execute(trx)
  return Number(woken.numAffectedRows ?? 0)
}

/** Drops what is past its retention. */
export async function dropOld(store: Store): Promise<void> {
  await sql`delete from idempotency_keys where (project_id, key) in (select project_id, key from idempotency_keys
    where created_at < clock_timestamp() - ${IDEMPOTENCY_KEPT_H} * interval '1 hour' order by created_at limit ${DELETED_MAX})`.execute(
    store.db,
  )
  await eraseSshKeys(store.db)
  await write(store, eraseEnded)
  await sql`
    with old as (select id from deliveries where settled_at < record_now() - ${DELIVERIES_KEPT_D} * interval '1 day' order by id limit ${DELETED_MAX}),
      attempts as (delete from delivery_attempts where delivery_id in (select id from old))
    delete from deliveries where id in (select id from old)`.execute(store.db)
  await sql`delete from orphans where gone_at < clock_timestamp() - ${DELIVERIES_KEPT_D} * interval '1 day'`.execute(
    store.db,
  )
}

/**
 * Shifts the record's clock (tests and replays of dated examples, on loopback only) and wakes every noun that is not
 * over, since its timers were set by the clock before.
 */
export async function shiftClock(store: Store, by_ms: number): Promise<void> {
  await write(store, async (trx) => {
    await sql`update installation set clock_offset = clock_offset + ${by_ms} * interval '1 ms'`.execute(trx)
    await sql`insert into outbox (target, project_id) select target, project_id from (${OPEN_NOUNS}) open`.execute(trx)
  })
}
