/**
 * Planning a launch order: one transaction that reads it under locks, lets domain/order/decide.ts decide, writes down
 * what concerns the record, and returns the steps. Safe to run again at any time.
 */

import type { Selectable } from 'kysely'
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { stepBlocker, toBlocker } from '../domain/blocker.ts'
import { decideOrder } from '../domain/order/decide.ts'
import {
  type AttemptView,
  type CloudView,
  type ItemView,
  isOrderOver,
  type OrderDecision,
  type OrderView,
} from '../domain/order/view.ts'
import { type Failing, LOST_WAKE_MS, type Plan, SLEEP_MAX_MS, type Step } from '../domain/plan.ts'
import type { Cause } from '../domain/record.ts'
import { leaseWorkflowId, orderWorkflowId } from '../domain/workflow-ids.ts'
import { wakeActing } from './actions.ts'
import type { CloudTraits } from './attempts.ts'
import { releaseClaims } from './claims.ts'
import { type AccountState, accountsByCloud } from './credentials.ts'
import { Overtaken, type Store, type Trx, write } from './database.ts'
import { wakeDeployment } from './deployment-actions.ts'
import { deriveDeployment } from './deployments.ts'
import { lastEventId, type NewEvent, newEventId, recordEvents } from './events.ts'
import { healingRoom, restartInstances, restartOf, wantAttention } from './healing.ts'
import { changeInstances } from './instances.ts'
import { countedError } from './item-errors.ts'
import { wake } from './outbox.ts'
import { NAMING } from './outside-inventory.ts'
import { MAY_DELETE } from './removals.ts'
import type { CloudsTable, Tables } from './tables.ts'

export type CloudRow = Selectable<CloudsTable>
/** What the adapter of a cloud declares. */
export type TraitsOf = (cloud: CloudRow) => CloudTraits

/** A decision that asks to be taken again at once is, at most so often. */
const ROUNDS_MAX = 4

/** Plans a launch order; an order that does not exist is done. `failing`: a step that keeps failing, as its flow sees it. */
export async function planOrder(
  store: Store,
  order_id: string,
  traitsOf: TraitsOf,
  failing: Failing | null = null,
): Promise<Plan> {
  for (let round = 1; ; round++) {
    const plan = await write(store, (trx) => planOnce(trx, order_id, traitsOf, failing))
    if (plan.done || plan.steps.length || plan.sleep_ms === null || plan.sleep_ms > 0 || round >= ROUNDS_MAX)
      return plan
  }
}

async function planOnce(trx: Trx, order_id: string, traitsOf: TraitsOf, failing: Failing | null): Promise<Plan> {
  const loaded = await loadOrder(trx, order_id, traitsOf)
  if (!loaded) return { steps: [], sleep_ms: null, why: '', done: true, state: 'unknown', details: 'no such order' }
  const decided = decideOrder(loaded.view, loaded.now.getTime())
  const steps = stepsOf(loaded, decided)
  const decision = { ...decided, blocker: decided.blocker ?? stepBlocker(failing, steps) }
  await applyDecision(trx, loaded, decision)
  const { deployment_id, wish } = loaded.order
  if (decision.done && wish !== 'run') await wakeDeployment(trx, deployment_id)
  return toPlan(loaded, decision, steps)
}

type Loaded = NonNullable<Awaited<ReturnType<typeof loadOrder>>>

async function loadOrder(trx: Trx, order_id: string, traitsOf: TraitsOf) {
  const clouds = await loadClouds(trx, order_id)
  const locked = await lockPlanned(trx, order_id)
  if (!locked) return null
  const { now, may_delete, deadline_in_ms, ...order } = locked
  const items = await trx
    .selectFrom('items')
    .innerJoin('instances', 'instances.id', 'items.instance_id')
    .leftJoin(openAttempts(order_id).as('attempts'), 'attempts.item_id', 'items.id')
    .selectAll('items')
    .select([
      'instances.state as instance_state',
      'instances.wish as instance_wish',
      'instances.spec',
      'attempts.open',
      NEWEST_EVENT.as('newest_event'),
      restartOf(order.healing).as('restart'),
      NAMING.as('naming'),
    ])
    .where('items.order_id', '=', order_id)
    .orderBy('items.number')
    .execute()
  const accounts = await accountsByCloud(trx, order.credentials)
  const view: OrderView = {
    state: order.state,
    policy: order.policy,
    at_least: order.at_least,
    wish: order.wish,
    settled: order.settled_at !== null,
    deadline_at: deadline_in_ms === null ? null : now.getTime() + deadline_in_ms,
    hold: order.hold,
    retry_budget: order.retry_budget,
    healing: order.healing,
    healing_room: await healingRoom(trx, order, items),
    may_delete,
    next_batch: order.next_batch,
    next_undo_batch: order.next_undo_batch,
    clouds: order.cloud_ids.map((id) => cloudView(clouds.get(id)!, accounts.get(id), traitsOf)),
    items: items.map(
      (item): ItemView => ({
        id: item.id,
        state: item.state,
        cloud_index: item.cloud_index,
        cloud_indexes: item.cloud_indexes,
        realm: item.spec.realm ?? null,
        rounds: item.rounds,
        errors: item.errors,
        attempts: item.attempts,
        next_attempt_at: item.next_attempt_at?.getTime() ?? null,
        last_error: item.last_error,
        instance_id: item.instance_id,
        instance_state: item.instance_state,
        instance_wish: item.instance_wish,
        naming: item.naming,
        restart: item.restart,
        open: item.open ?? [],
      }),
    ),
  }
  return { order, items, clouds, view, now }
}

type OrderRow = Selectable<Tables['launch_orders']>

interface Planned {
  readonly now: Date
  readonly may_delete: boolean
  readonly deadline_in_ms: number | null
  /** The order's own; null where it was changed while this waited for the lock. */
  readonly newest_event: string | null
}

/** Locks an order; with the time and what else the plan depends on. */
async function lockPlanned(trx: Trx, order_id: string) {
  const { rows } = await sql<OrderRow & Planned>`
    select launch_orders.*, clock_timestamp() as now, ${MAY_DELETE} as may_delete,
      extract(epoch from deadline_at - record_now())::float8 * 1000 as deadline_in_ms,
      (select id from events where resource_type = 'order' and resource_id = launch_orders.id
        and sequence = launch_orders.sequence) as newest_event
    from launch_orders where id = ${order_id} for no key update of launch_orders`.execute(trx)
  return rows[0]
}

/** Of the instance that changed last; null for the others. */
const NEWEST_EVENT = sql<string | null>`
  case when instances.changed_at = max(instances.changed_at) over () then (
    select id from events where resource_type = 'instance' and resource_id = instances.id order by sequence desc limit 1) end`

const ms = (column: string) => sql`floor(extract(epoch from ${sql.ref(column)}) * 1000)`

/** Attempts of an order that may still have, or come to have, a machine, as the rules see them, by item. */
const openAttempts = (order_id: string) => sql<{ item_id: string; open: AttemptView[] }>`(
  select item_id, jsonb_agg(jsonb_build_object('id', id, 'number', number, 'cloud_id', cloud_id, 'batch', batch,
    'undo_batch', undo_batch, 'state', state, 'provider_id', provider_id, 'sends', sends, 'sent_at', ${ms('sent_at')},
    'settle_at', ${ms('settle_at')}, 'next_send_at', ${ms('next_send_at')}, 'error', error) order by number) as open
  from launch_attempts
  where order_id = ${order_id} and gone_at is null and (state <> 'lost' or provider_id is not null) group by item_id)`

type PlannedCloud = CloudRow & { readonly claimed: number; readonly closed_realms: readonly string[] }

/**
 * Clouds of an order; those with an allocation of ours are locked, so that claims are counted truly. The first thing a
 * plan reads, so every wake that is seen here is answered: what it was for is seen as well.
 */
async function loadClouds(trx: Trx, order_id: string): Promise<Map<string, PlannedCloud>> {
  const { rows } = await sql<Omit<PlannedCloud, 'claimed'>>`
    with answered as (delete from outbox where target = ${orderWorkflowId(order_id)})
    select clouds.*, (select coalesce(jsonb_agg(distinct word), '[]') from realms, unnest(array[provider_id, realms.name]) as word
        where realms.cloud_id = clouds.id and not available) as closed_realms
    from clouds where id = any (select unnest(cloud_ids) from launch_orders where id = ${order_id})
    order by id`.execute(trx)
  const limited = rows.filter((cloud) => cloud.allocation !== null).map((cloud) => cloud.id)
  const claimed = new Map<string, number>()
  if (limited.length) {
    await trx.selectFrom('clouds').select('id').where('id', 'in', limited).orderBy('id').forNoKeyUpdate().execute()
    const counts = await trx
      .selectFrom('claims')
      .select(['cloud_id', (e) => e.fn.countAll<number>().as('count')])
      .where('cloud_id', 'in', limited)
      .where('released_at', 'is', null)
      .groupBy('cloud_id')
      .execute()
    for (const row of counts) claimed.set(row.cloud_id, Number(row.count))
  }
  return new Map(rows.map((cloud) => [cloud.id, { ...cloud, claimed: claimed.get(cloud.id) ?? 0 }]))
}

/** When an account was listed, the cloud's own or the order's: 0 for one that has only come into use, null for one that is refused. */
function listedAt(cloud: PlannedCloud, account: AccountState | undefined): number | null {
  if (!account) return cloud.last_list_sent_at?.getTime() ?? null
  return account.state === 'ok' ? (account.listed_at?.getTime() ?? 0) : null
}

/** A cloud by its own account, or by the order's. */
function cloudView(cloud: PlannedCloud, account: AccountState | undefined, traitsOf: TraitsOf): CloudView {
  const traits = traitsOf(cloud)
  return {
    id: cloud.id,
    name: cloud.name,
    enabled: cloud.enabled,
    idempotency_tokens: traits.idempotency_tokens,
    call_timeout_ms: traits.call_timeout_ms,
    boot_timeout_ms: traits.boot_timeout_ms,
    credential: account?.state ?? 'ok',
    closed_realms: cloud.closed_realms,
    listed_at: cloud.state === 'ok' ? listedAt(cloud, account) : null,
    free: cloud.allocation === null ? null : cloud.allocation - cloud.claimed,
  }
}

// Writing down -------------------------------------------------------------------------------------------------------

async function applyDecision(trx: Trx, loaded: Loaded, decision: OrderDecision): Promise<void> {
  const { order } = loaded
  await applyAttempts(trx, decision)
  await requireUnchanged(trx, loaded, decision)
  await applyItems(trx, loaded, decision)
  const blocked = decision.blocker?.code !== order.blocker?.code
  const tells =
    decision.instances.length > 0 || decision.state !== order.state || blocked || decision.partial !== order.partial
  const order_event = tells ? (order.newest_event ?? (await lastEventId(trx, 'order', order.id))) : undefined
  const changed = await changeInstances(
    trx,
    decision.instances.map((change) => ({
      id: change.id,
      to: change.to,
      ...(change.to === 'pending'
        ? { cloud_id: null, credential_id: null, provider_id: null, public_addresses: [], private_addresses: [] }
        : {}),
      cause: {
        rule: change.rule,
        reason: change.reason,
        ...evidenceOf(loaded, decision, change.id),
        ...(order_event ? { event: order_event } : {}),
      },
    })),
  )
  // Their own flows may wait for what was decided here.
  await wakeActing(trx, [...changed.keys()])
  await restartInstances(trx, decision.restarts)
  await wantAttention(trx, decision.attention)
  await applyOrder(trx, loaded, decision, changed, order_event)
}

/** The last answer a cloud gave for an instance, as evidence of what a rule did with it. */
function evidenceOf(loaded: Loaded, decision: OrderDecision, instance_id: string): Pick<Cause, 'evidence'> {
  const item = loaded.items.find((entry) => entry.instance_id === instance_id)
  const error = decision.items.find((change) => change.id === item?.id)?.error ?? item?.last_error
  return error ? { evidence: { class: error.class, message: error.message, observed_at: error.at } } : {}
}

async function applyAttempts(trx: Trx, decision: OrderDecision): Promise<void> {
  for (const change of decision.attempts) {
    await trx
      .updateTable('launch_attempts')
      .set({ state: change.state, ...(change.gone ? { gone_at: sql<Date>`record_now()` } : {}) })
      .where('id', '=', change.id)
      .execute()
  }
  await releaseClaims(
    trx,
    decision.attempts.filter((change) => change.state === 'lost').map((change) => change.id),
  )
  if (decision.undo.length) {
    await sql`update launch_attempts set undo_batch = u.undo_batch, next_send_at = null
      from jsonb_to_recordset(${JSON.stringify(decision.undo)}::jsonb) as u (attempt_id uuid, undo_batch int)
      where launch_attempts.id = u.attempt_id`.execute(trx)
  }
}

/** Another machine follows only for what was decided on: instances are read without a lock; people and clouds are quick. */
async function requireUnchanged(trx: Trx, { items }: Loaded, decision: OrderDecision): Promise<void> {
  const healed = decision.instances.filter((change) => change.to === 'pending').map((change) => change.id)
  if (!healed.length) return
  const known = new Map(items.map((item) => [item.instance_id, item]))
  const rows = await trx
    .selectFrom('instances')
    .select(['id', 'wish', 'state'])
    .where('id', 'in', healed)
    .orderBy('id')
    .forNoKeyUpdate()
    .execute()
  const overtaken = rows.find(({ id, wish, state }) => {
    const { instance_wish, instance_state } = known.get(id)!
    return wish !== instance_wish || state !== instance_state
  })
  if (overtaken)
    throw new Overtaken(`instance ${overtaken.id} is ${overtaken.state}, wished ${overtaken.wish} meanwhile`)
}

/** What becomes of items, and the attempts that are opened for them. */
async function applyItems(trx: Trx, { order }: Loaded, { items, open }: OrderDecision): Promise<void> {
  if (!items.length && !open.length) return
  const number_of = new Map(open.map(({ item_id, number }) => [item_id, number]))
  const rows = items.map((change) => ({
    id: change.id,
    state: change.state,
    cloud_index: change.cloud_index ?? null,
    rounds: change.state === 'running' ? 0 : (change.rounds ?? null),
    attempts: number_of.get(change.id) ?? null,
    sets_time: change.next_attempt_at !== undefined,
    next_attempt_at: change.next_attempt_at ? new Date(change.next_attempt_at).toISOString() : null,
    sets_error: change.error !== undefined,
    error: change.error ?? null,
  }))
  const opened = open.map((attempt) => ({
    id: newId(),
    credential_id: order.credentials[attempt.cloud_id] ?? null,
    ...attempt,
  }))
  await sql`
    with opened as (select * from jsonb_to_recordset(${JSON.stringify(opened)}::jsonb)
        as o (id uuid, item_id uuid, instance_id uuid, number int, cloud_id uuid, credential_id uuid, batch int)),
      attempts as (insert into launch_attempts (id, item_id, instance_id, order_id, number, cloud_id, credential_id, batch)
        select id, item_id, instance_id, ${order.id}::uuid, number, cloud_id, credential_id, batch from opened),
      claimed as (insert into claims (attempt_id, cloud_id, project_id) select id, cloud_id, ${order.project_id}::uuid from opened)
    update items set state = c.state, cloud_index = coalesce(c.cloud_index, items.cloud_index),
      rounds = coalesce(c.rounds, items.rounds), attempts = coalesce(c.attempts, items.attempts),
      errors = case when c.sets_error then ${countedError(sql`nullif(c.error, 'null'::jsonb)`)} else items.errors end,
      next_attempt_at = case when c.sets_time then c.next_attempt_at else items.next_attempt_at end,
      last_error = case when c.sets_error then nullif(c.error, 'null'::jsonb) else items.last_error end
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as c (id uuid, state text, cloud_index int, rounds int, attempts int,
      sets_time boolean, next_attempt_at timestamptz, sets_error boolean, error jsonb)
    where items.id = c.id`.execute(trx)
}

async function applyOrder(
  trx: Trx,
  loaded: Loaded,
  decision: OrderDecision,
  instance_events: ReadonlyMap<string, string>,
  order_event: string | undefined,
): Promise<void> {
  const { order } = loaded
  const blocker = toBlocker(order.blocker, decision.blocker, loaded.now)
  const state_changed = decision.state !== order.state || decision.partial !== order.partial
  const blocker_changed = blocker?.code !== order.blocker?.code
  let sequence = order.sequence
  if (state_changed || blocker_changed) {
    sequence++
    const cause_event = instance_events.values().next().value ?? newestInstanceEvent(loaded) ?? order_event
    const id = newEventId()
    const told: NewEvent = {
      id,
      project_id: order.project_id,
      resource_type: 'order',
      resource_id: order.id,
      sequence,
      type: state_changed ? 'order.state_changed' : blocker ? 'order.blocked' : 'order.unblocked',
      from: order.state,
      to: decision.state,
      snapshot: {
        name: order.name,
        deployment_id: order.deployment_id,
        partial: decision.partial,
        blocker: blocker ?? null,
      },
      cause: { rule: decision.rule, reason: decision.reason, ...(cause_event ? { event: cause_event } : {}) },
    }
    const decided = { id: order.id, state: decision.state }
    const follows = decision.state === order.state ? [] : await deriveDeployment(trx, order.deployment_id, id, decided)
    await recordEvents(trx, [told, ...follows])
  }
  // With nothing due by itself it waits for its steps or a wake, and is looked at again should that be lost.
  const wait_ms = decision.due_at === null ? LOST_WAKE_MS : Math.max(0, decision.due_at - loaded.now.getTime())
  await trx
    .updateTable('launch_orders')
    .set({
      state: decision.state,
      partial: decision.partial,
      blocker: blocker ? JSON.stringify(blocker) : null,
      next_batch: Math.max(order.next_batch, ...decision.create_batches.map((entry) => entry.batch + 1)),
      next_undo_batch: Math.max(order.next_undo_batch, ...decision.delete_batches.map((entry) => entry.undo_batch + 1)),
      attended_until: null,
      due_at: decision.done ? null : sql<Date>`record_now() + ${wait_ms} * interval '1 ms'`,
      settled_at: decision.state === 'running' && !order.settled_at ? sql<Date>`record_now()` : order.settled_at,
      sequence,
    })
    .where('id', '=', order.id)
    .execute()
  // One that is over stays so while what is left of it is removed; its lease waits for that.
  if (order.lease_id && (decision.state !== order.state || (decision.done && isOrderOver(order.state)))) {
    await wake(trx, [{ target: leaseWorkflowId(order.lease_id), project_id: order.project_id }])
  }
}

/** The instance that changed last is what the order's change follows from. */
function newestInstanceEvent({ items }: Loaded): string | undefined {
  const newest = items.find(({ newest_event }) => newest_event !== null)
  return newest && newest.instance_state !== 'pending' ? newest.newest_event! : undefined
}

// Steps --------------------------------------------------------------------------------------------------------------

function stepsOf({ order, clouds }: Loaded, decision: OrderDecision): Step[] {
  const nameOf = (cloud_id: string): string => clouds.get(cloud_id)?.name ?? 'a cloud'
  return [
    ...decision.create_batches.map(({ batch, cloud_id, count }) => ({
      key: `create/${batch}`,
      activity: 'createInstances' as const,
      args: [order.id, batch],
      cloud: cloud_id,
      summary: `create ${count} at ${nameOf(cloud_id)} (batch ${batch})`,
    })),
    ...decision.delete_batches.map(({ undo_batch, cloud_id, count }) => ({
      key: `delete/${undo_batch}`,
      activity: 'deleteInstances' as const,
      args: [order.id, undo_batch],
      cloud: cloud_id,
      summary: `delete ${count} at ${nameOf(cloud_id)} (undo batch ${undo_batch})`,
    })),
  ]
}

function toPlan({ order, now }: Loaded, decision: OrderDecision, steps: Step[]): Plan {
  const sleep_ms =
    decision.due_at === null ? null : Math.min(SLEEP_MAX_MS, Math.max(0, decision.due_at - now.getTime()))
  const lines = [
    `**${order.name}**: ${decision.state}${decision.partial ? ' (partial)' : ''}, ${decision.reason}`,
    ...(decision.blocker ? [`Blocked: \`${decision.blocker.code}\`, ${decision.blocker.reason}`] : []),
    ...(decision.due_at === null ? [] : [`Looks again at ${new Date(decision.due_at).toISOString()}`]),
  ]
  return {
    steps,
    sleep_ms,
    why: decision.blocker?.reason ?? decision.reason,
    done: decision.done,
    state: decision.state,
    details: lines.join('\n\n'),
  }
}
