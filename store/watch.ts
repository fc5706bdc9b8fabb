/** What the watcher of a cloud saw, written into the record. Every write requires its epoch, see watch-epoch.ts. */
import { type Kysely, sql } from 'kysely'
import { stateObserved } from '../domain/instance.ts'
import type { Machine } from '../domain/machine.ts'
import { orderWorkflowId } from '../domain/workflow-ids.ts'
import { wakeActing } from './actions.ts'
import { bindMachines, lockAttempts } from './attempts.ts'
import { releaseClaims } from './claims.ts'
import { isAmong, leave, type Store, type Trx, write } from './database.ts'
import { recordEvents } from './events.ts'
import { changeInstances, type InstanceChange } from './instances.ts'
import type { CloudRow } from './order-plan.ts'
import { lockOrder } from './orders.ts'
import { noteOrphans } from './orphans.ts'
import { wake } from './outbox.ts'
import { isThere, type Returned } from './returns.ts'
import type { Tables } from './tables.ts'
import { requireEpoch } from './watch-epoch.ts'

/** Instances changed in one transaction at most. */
const OBSERVE_BATCH = 100

/**
 * Writes down one page of a list of an account that was sent at `sent_at` (real time). Observations older than the
 * record's row, or that the state machine forbids, are dropped. Returns machines that are there though they were proved
 * gone: whether the list is only old, a get can tell.
 */
export async function observePage(
  store: Store,
  cloud: CloudRow,
  account: string | null,
  machines: readonly Machine[],
  sent_at: Date,
): Promise<Returned[]> {
  const tagged = machines.filter((machine) => machine.attempt_id !== null && UUID.test(machine.attempt_id))
  const known = await findAttempts(
    store.db,
    cloud.id,
    tagged.map((machine) => machine.attempt_id!),
  )
  const others: Machine[] = machines.filter((machine) => !tagged.includes(machine))
  const unbound = new Map<string, { attempt_id: string; machine: Machine }[]>()
  const seen: { instance_id: string; machine: Machine }[] = []
  const over: Returned[] = []
  for (const machine of tagged) {
    const attempt = known.get(machine.attempt_id!)
    if (!attempt || (attempt.provider_id !== null && attempt.provider_id !== machine.provider_id)) others.push(machine)
    else if (attempt.provider_id === null) {
      unbound.set(attempt.order_id, [...(unbound.get(attempt.order_id) ?? []), { attempt_id: attempt.id, machine }])
    } else if (attempt.gone_at !== null && attempt.released_at === null) {
      over.push({ order_id: attempt.order_id, attempt_id: attempt.id, machine })
    } else if (attempt.state === 'won' && isNews(attempt, machine))
      seen.push({ instance_id: attempt.instance_id, machine })
  }
  // The tag of one that was adopted is not its own yet, that of one that was released is still there.
  const by_id = [...others, ...over.map(({ machine }) => machine)]
  const owned = await findOwned(store.db, cloud.id, by_id)
  const strangers = others.filter(({ provider_id, state }) => state !== 'terminated' && !owned.has(provider_id))
  for (const machine of by_id) {
    const attempt = owned.get(machine.provider_id)
    if (attempt?.state === 'won' && isNews(attempt, machine)) seen.push({ instance_id: attempt.instance_id, machine })
  }
  for (const [order_id, found] of unbound) await bindFound(store, cloud, order_id, found, sent_at)
  for (const { attempt_id, machine } of [...unbound.values()].flat()) {
    const attempt = known.get(attempt_id)!
    if (machine.state !== 'starting' && machine.state !== 'pending')
      seen.push({ instance_id: attempt.instance_id, machine })
  }
  for (let start = 0; start < seen.length; start += OBSERVE_BATCH) {
    await observeStates(store, cloud, seen.slice(start, start + OBSERVE_BATCH), sent_at)
  }
  if (strangers.length) await noteOrphans(store, cloud, account, strangers, sent_at)
  return over.filter(({ machine }) => isThere(machine) && !owned.has(machine.provider_id))
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

const attemptsAt = (db: Kysely<Tables>, cloud_id: string) =>
  db
    .selectFrom('launch_attempts')
    .innerJoin('instances', 'instances.id', 'launch_attempts.instance_id')
    .select([
      'launch_attempts.id',
      'launch_attempts.order_id',
      'launch_attempts.instance_id',
      'launch_attempts.state',
      'launch_attempts.provider_id',
      'launch_attempts.gone_at',
      'launch_attempts.released_at',
      'instances.state as instance_state',
      'instances.raw_state',
      'instances.public_addresses',
      'instances.private_addresses',
      'instances.absent_lists',
    ])
    .where('launch_attempts.cloud_id', '=', cloud_id)

async function findAttempts(db: Kysely<Tables>, cloud_id: string, ids: readonly string[]) {
  if (!ids.length) return new Map<string, never>()
  const rows = await attemptsAt(db, cloud_id).where(isAmong('launch_attempts.id', ids)).execute()
  return new Map(rows.map((row) => [row.id, row]))
}

/** Machines that an attempt has, or had until it was released, by their provider's id; the present owner counts. */
async function findOwned(db: Kysely<Tables>, cloud_id: string, machines: readonly Machine[]) {
  if (!machines.length) return new Map<string, never>()
  const ids = machines.map(({ provider_id }) => provider_id)
  const rows = await attemptsAt(db, cloud_id)
    .where(isAmong('launch_attempts.provider_id', ids, 'text'))
    .where((where) => where.or([where('gone_at', 'is', null), where('released_at', 'is not', null)]))
    .orderBy(sql`gone_at is null`)
    .execute()
  return new Map(rows.map((row) => [row.provider_id!, row]))
}

type KnownAttempt = Awaited<ReturnType<typeof findAttempts>> extends Map<string, infer R> ? R : never

function isNews(attempt: KnownAttempt, machine: Machine): boolean {
  const next = stateObserved(attempt.instance_state, machine)
  return (
    (next !== null && next !== attempt.instance_state) ||
    attempt.absent_lists > 0 ||
    (next !== null &&
      (attempt.raw_state !== machine.raw_state ||
        attempt.public_addresses.join() !== machine.public_addresses.join() ||
        attempt.private_addresses.join() !== machine.private_addresses.join()))
  )
}

async function observeStates(
  store: Store,
  cloud: CloudRow,
  seen: readonly { instance_id: string; machine: Machine }[],
  sent_at: Date,
): Promise<void> {
  await write(store, async (trx) => {
    await requireEpoch(trx, cloud)
    leave(trx, 'watched')
    const ids = seen.map((entry) => entry.instance_id)
    const rows = await trx
      .selectFrom('instances')
      .select(['id', 'state', 'provider_id', 'wish_event'])
      .where(isAmong('id', ids))
      .orderBy('id')
      .forNoKeyUpdate()
      .execute()
    await trx
      .updateTable('instances')
      .set({ absent_lists: 0 })
      .where(isAmong('id', ids))
      .where('absent_lists', '>', 0)
      .execute()
    const now = new Map(rows.map((row) => [row.id, row]))
    const changes = seen.flatMap(({ instance_id, machine }): InstanceChange[] => {
      const row = now.get(instance_id)
      const to = row && row.provider_id === machine.provider_id ? stateObserved(row.state, machine) : null
      if (!row || to === null) return []
      return [
        {
          id: instance_id,
          to,
          raw_state: machine.raw_state,
          public_addresses: machine.public_addresses,
          private_addresses: machine.private_addresses,
          seen_at: sent_at,
          cause: {
            rule: 'observed',
            reason: `cloud ${cloud.name} lists it as ${machine.raw_state}`,
            evidence: {
              raw_state: machine.raw_state,
              provider_id: machine.provider_id,
              observed_at: sent_at.toISOString(),
            },
            ...(row.wish_event ? { event: row.wish_event } : {}),
          },
        },
      ]
    })
    await wakeOwners(trx, [...(await changeInstances(trx, changes)).keys()])
  })
}

/** Wakes the flows that care about these instances: their orders, and the flows of those with an open action. */
async function wakeOwners(trx: Trx, instance_ids: readonly string[]): Promise<void> {
  if (!instance_ids.length) return
  const orders = await trx
    .selectFrom('launch_orders')
    .innerJoin('instances', 'instances.order_id', 'launch_orders.id')
    .select(['launch_orders.id', 'launch_orders.project_id', 'launch_orders.attended_until'])
    .distinct()
    .where(isAmong('instances.id', instance_ids))
    .execute()
  await wake(
    trx,
    orders.map((order) => ({
      target: orderWorkflowId(order.id),
      project_id: order.project_id,
      attended_until: order.attended_until,
    })),
  )
  await wakeActing(trx, instance_ids)
}

/** Machines of attempts whose answer never came. */
async function bindFound(
  store: Store,
  cloud: CloudRow,
  order_id: string,
  found: readonly { attempt_id: string; machine: Machine }[],
  sent_at: Date,
): Promise<void> {
  await write(store, async (trx) => {
    await requireEpoch(trx, cloud)
    leave(trx, 'watched')
    const order = await lockOrder(trx, order_id)
    if (!order) return
    const attempts = await lockAttempts(
      trx,
      found.map((entry) => entry.attempt_id),
    )
    const bound = found.flatMap(({ attempt_id, machine }) => {
      const attempt = attempts.get(attempt_id)
      return attempt ? [{ attempt, machine, how: 'found_by_tag', seen_at: sent_at }] : []
    })
    await bindMachines(trx, order, bound)
    await wake(trx, [
      { target: orderWorkflowId(order_id), project_id: order.project_id, attended_until: order.attended_until },
    ])
  })
}

/**
 * After a complete list of an account: instances it should have shown and did not. Counts their absence; returns those absent twice,
 * which only a get can now prove missing.
 */
export function countAbsent(
  store: Store,
  cloud: CloudRow,
  account: string | null,
  seen_provider_ids: readonly string[],
  sent_at: Date,
  list_lag_ms: number,
): Promise<{ id: string; provider_id: string }[]> {
  return write(store, async (trx) => {
    await requireEpoch(trx, cloud)
    const { rows } = await sql<{ id: string; provider_id: string; absent_lists: number }>`
      update instances set absent_lists = absent_lists + 1
      where id in (
        select id from instances
        where cloud_id = ${cloud.id} and credential_id is not distinct from ${account}::uuid and provider_id is not null
          and state in ('starting', 'running', 'stopping', 'stopped', 'rebooting')
          and acknowledged_at + ${list_lag_ms} * interval '1 ms' < ${sent_at}
          and not provider_id = any(${[...seen_provider_ids]}::text[])
        order by id limit 1000 for no key update)
      returning id, provider_id, absent_lists`.execute(trx)
    return rows.filter((row) => row.absent_lists >= 2).map(({ id, provider_id }) => ({ id, provider_id }))
  })
}

/** A machine that two lists did not show and a get did not find is missing. */
export async function markMissing(
  store: Store,
  cloud: CloudRow,
  missing: readonly { id: string; provider_id: string }[],
  proved_at: Date,
): Promise<void> {
  if (!missing.length) return
  await write(store, async (trx) => {
    await requireEpoch(trx, cloud)
    const attempts = await trx
      .selectFrom('launch_attempts')
      .select(['id', 'provider_id'])
      .where('cloud_id', '=', cloud.id)
      .where(
        'provider_id',
        'in',
        missing.map((row) => row.provider_id),
      )
      .where('gone_at', 'is', null)
      .orderBy('id')
      .forNoKeyUpdate()
      .execute()
    const changed = await changeInstances(
      trx,
      missing.map((row) => ({
        id: row.id,
        to: 'missing',
        only_from: ['starting', 'running', 'stopping', 'stopped', 'rebooting'],
        seen_at: proved_at,
        cause: {
          rule: 'absent_twice_and_not_found',
          reason: `cloud ${cloud.name} has no such machine any more`,
          evidence: { provider_id: row.provider_id, observed_at: proved_at.toISOString() },
        },
      })),
    )
    const lost = new Set(missing.filter((row) => changed.has(row.id)).map((row) => row.provider_id))
    const gone = attempts.filter((attempt) => lost.has(attempt.provider_id!)).map((attempt) => attempt.id)
    if (gone.length) {
      await trx
        .updateTable('launch_attempts')
        .set({ gone_at: sql<Date>`record_now()`, vanished: true })
        .where('id', 'in', gone)
        .execute()
      await releaseClaims(trx, gone)
    }
    await wakeOwners(trx, [...changed.keys()])
  })
}

/** The outcome of a list call: the cloud answers, or it is stale since now. A change is an event of the cloud. */
export async function noteCloud(
  store: Store,
  cloud: CloudRow,
  found: {
    state: 'ok' | 'unreachable' | 'refused'
    error?: { class: string; message: string }
    sent_at: Date
    took_ms: number
  },
): Promise<void> {
  const before = await store.db
    .selectFrom('clouds')
    .select(['state', 'last_list_sent_at'])
    .where('id', '=', cloud.id)
    .executeTakeFirst()
  const recent = before?.last_list_sent_at && found.sent_at.getTime() - before.last_list_sent_at.getTime() < 1_000
  if (before?.state === found.state && recent) return
  await write(store, async (trx) => {
    const row = await requireEpoch(trx, cloud, true)
    const changed = row.state !== found.state
    const error = found.error ? { ...found.error, at: found.sent_at.toISOString() } : null
    await trx
      .updateTable('clouds')
      .set({
        state: found.state,
        last_error: error ? JSON.stringify(error) : row.last_error ? JSON.stringify(row.last_error) : null,
        stale_since: found.state === 'ok' ? null : (row.stale_since ?? sql<Date>`record_now()`),
        ...(found.state === 'ok' ? { last_list_sent_at: found.sent_at, last_list_took_ms: found.took_ms } : {}),
        ...(changed ? { sequence: row.sequence + 1 } : {}),
      })
      .where('id', '=', cloud.id)
      .execute()
    if (!changed) return
    await recordEvents(trx, [
      {
        project_id: null,
        resource_type: 'cloud',
        resource_id: cloud.id,
        sequence: row.sequence + 1,
        type: 'cloud.state_changed',
        from: row.state,
        to: found.state,
        snapshot: { name: cloud.name },
        cause: {
          rule: 'watched',
          reason: found.error?.message ?? 'the cloud answers',
          evidence: { observed_at: found.sent_at.toISOString() },
        },
      },
    ])
  })
}

/** How much is going on at a cloud: what decides how often it is looked at. */
export async function watchLoad(
  db: Kysely<Tables>,
  cloud_id: string,
): Promise<{ fresh: boolean; pending: boolean; alive: boolean }> {
  const { rows } = await sql<{ fresh: boolean; pending: boolean; alive: boolean }>`
    select exists (select from instances where cloud_id = ${cloud_id} and state = 'starting' and acknowledged_at > clock_timestamp() - interval '5 s') as fresh,
      exists (select from launch_attempts where cloud_id = ${cloud_id} and state in ('sent', 'unknown'))
        or exists (select from instances where cloud_id = ${cloud_id} and (state in ('starting', 'stopping', 'rebooting') or absent_lists > 0))
        or exists (select from orphans where cloud_id = ${cloud_id} and gone_at is null and (removal is not null or absent_lists > 0)) as pending,
      exists (select from instances where cloud_id = ${cloud_id} and state not in ('pending', 'terminated', 'failed'))
        or exists (select from launch_attempts where cloud_id = ${cloud_id} and state = 'lost' and gone_at is null)
        or exists (select from orphans where cloud_id = ${cloud_id} and gone_at is null) as alive`.execute(db)
  return rows[0]!
}
