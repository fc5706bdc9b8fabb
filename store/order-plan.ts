/**
 * Planning a launch order: one transaction that reads it under locks, lets domain/order/decide.ts decide, writes down
 * what concerns the record, and returns the steps. Safe to run again at any time.
 */

import type { Selectable } from 'kysely'
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { stepBlocker, toBlocker } from '../domain/blocker.ts'
import { decideOrder } from '../domain/order/decide.ts'
import type { AttemptView, CloudView, ItemView, OrderDecision, OrderView } from '../domain/order/view.ts'
import { type Failing, LOST_WAKE_MS, type Plan, SLEEP_MAX_MS, type Step } from '../domain/plan.ts'
import type { Cause } from '../domain/record.ts'
import { leaseWorkflowId, orderWorkflowId } from '../domain/workflow-ids.ts'
import type { CloudTraits } from './attempts.ts'
import { releaseClaims } from './claims.ts'
import { statesByCloud } from './credentials.ts'
import { Overtaken, type Store, type Trx, write } from './database.ts'
import { wakeDeployment } from './deployment-actions.ts'
import { lastEventId, recordEvents } from './events.ts'
import { healingRoom, restartInstances, restartOf, wantAttention } from './healing.ts'
import { changeInstances } from './instances.ts'
import { countedError } from './item-errors.ts'
import { deriveDeployment } from './orders.ts'
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
  const event = await applyDecision(trx, loaded, decision)
  const { deployment_id, wish } = loaded.order
  if (decision.state !== loaded.order.state) await deriveDeployment(trx, deployment_id, event)
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
    .selectAll('items')
    .select([
      'instances.state as instance_state',
      'instances.wish as instance_wish',
      'instances.changed_at as changed_at',
      'instances.spec',
      restartOf(order.healing).as('restart'),
      NAMING.as('naming'),
    ])
    .where('items.order_id', '=', order_id)
    .orderBy('items.number')
    .execute()
  const attempts = await trx
    .selectFrom('launch_attempts')
    .selectAll()
    .where('order_id', '=', order_id)
    .where('gone_at', 'is', null)
    .where((where) => where.or([where('state', '!=', 'lost'), where('provider_id', 'is not', null)]))
    .orderBy('number')
    .execute()
  const credentials = await statesByCloud(trx, order.credentials)
  const open = Map.groupBy(attempts, (attempt) => attempt.item_id)
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
    clouds: order.cloud_ids.map((id) => cloudView(clouds.get(id)!, credentials.get(id) ?? 'ok', traitsOf)),
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
        open: (open.get(item.id) ?? []).map(attemptView),
      }),
    ),
  }
  return { order, items, clouds, view, now }
}

type OrderRow = Selectable<Tables['launch_orders']>

/** Locks an order; with the time and what else the plan depends on. */
async function lockPlanned(trx: Trx, order_id: string) {
  const { rows } = await sql<OrderRow & { now: Date; may_delete: boolean; deadline_in_ms: number | null }>`
    select launch_orders.*, clock_timestamp() as now, ${MAY_DELETE} as may_delete,
      extract(epoch from deadline_at - record_now())::float8 * 1000 as deadline_in_ms
    from launch_orders where id = ${order_id} for no key update of launch_orders`.execute(trx)
  return rows[0]
}

function attemptView(attempt: {
  id: string
  number: number
  cloud_id: string
  batch: number
  undo_batch: number | null
  state: AttemptView['state']
  provider_id: string | null
  sends: number
  sent_at: Date | null
  settle_at: Date | null
  next_send_at: Date | null
  error: AttemptView['error']
}): AttemptView {
  return {
    id: attempt.id,
    number: attempt.number,
    cloud_id: attempt.cloud_id,
    batch: attempt.batch,
    undo_batch: attempt.undo_batch,
    state: attempt.state,
    provider_id: attempt.provider_id,
    sends: attempt.sends,
    sent_at: attempt.sent_at?.getTime() ?? null,
    settle_at: attempt.settle_at?.getTime() ?? null,
    next_send_at: attempt.next_send_at?.getTime() ?? null,
    error: attempt.error,
  }
}

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

function cloudView(cloud: PlannedCloud, credential: CloudView['credential'], traitsOf: TraitsOf): CloudView {
  const traits = traitsOf(cloud)
  return {
    id: cloud.id,
    name: cloud.name,
    enabled: cloud.enabled,
    idempotency_tokens: traits.idempotency_tokens,
    call_timeout_ms: traits.call_timeout_ms,
    boot_timeout_ms: traits.boot_timeout_ms,
    credential,
    closed_realms: cloud.closed_realms,
    listed_at: cloud.state === 'ok' ? (cloud.last_list_sent_at?.getTime() ?? null) : null,
    free: cloud.allocation === null ? null : cloud.allocation - cloud.claimed,
  }
}

// Writing down -------------------------------------------------------------------------------------------------------

/** Applies a decision; returns the order's event, if its state, partial flag or blocker changed. */
async function applyDecision(trx: Trx, loaded: Loaded, decision: OrderDecision): Promise<string | undefined> {
  const { order } = loaded
  await applyAttempts(trx, loaded, decision)
  await requireUnchanged(trx, loaded, decision)
  await applyItems(trx, decision)
  const blocked = decision.blocker?.code !== order.blocker?.code
  const tells =
    decision.instances.length > 0 || decision.state !== order.state || blocked || decision.partial !== order.partial
  const order_event = tells ? await lastEventId(trx, 'order', order.id) : undefined
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
  await restartInstances(trx, decision.restarts)
  await wantAttention(trx, decision.attention)
  return applyOrder(trx, loaded, decision, changed, order_event)
}

/** The last answer a cloud gave for an instance, as evidence of what a rule did with it. */
function evidenceOf(loaded: Loaded, decision: OrderDecision, instance_id: string): Pick<Cause, 'evidence'> {
  const item = loaded.items.find((entry) => entry.instance_id === instance_id)
  const error = decision.items.find((change) => change.id === item?.id)?.error ?? item?.last_error
  return error ? { evidence: { class: error.class, message: error.message, observed_at: error.at } } : {}
}

async function applyAttempts(trx: Trx, { order }: Loaded, decision: OrderDecision): Promise<void> {
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
  if (!decision.open.length) return
  const opened = decision.open.map((attempt) => ({
    id: newId(),
    credential_id: order.credentials[attempt.cloud_id] ?? null,
    ...attempt,
  }))
  await sql`
    with opened as (select * from jsonb_to_recordset(${JSON.stringify(opened)}::jsonb)
        as o (id uuid, item_id uuid, instance_id uuid, number int, cloud_id uuid, credential_id uuid, batch int)),
      attempts as (insert into launch_attempts (id, item_id, instance_id, order_id, number, cloud_id, credential_id, batch)
        select id, item_id, instance_id, ${order.id}::uuid, number, cloud_id, credential_id, batch from opened),
      counted as (update items set attempts = opened.number from opened where items.id = opened.item_id)
    insert into claims (attempt_id, cloud_id, project_id) select id, cloud_id, ${order.project_id}::uuid from opened`.execute(
    trx,
  )
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

async function applyItems(trx: Trx, decision: OrderDecision): Promise<void> {
  if (!decision.items.length) return
  const rows = decision.items.map((change) => ({
    id: change.id,
    state: change.state,
    cloud_index: change.cloud_index ?? null,
    rounds: change.state === 'running' ? 0 : (change.rounds ?? null),
    sets_time: change.next_attempt_at !== undefined,
    next_attempt_at: change.next_attempt_at ? new Date(change.next_attempt_at).toISOString() : null,
    sets_error: change.error !== undefined,
    error: change.error ?? null,
  }))
  await sql`
    update items set state = c.state, cloud_index = coalesce(c.cloud_index, items.cloud_index),
      rounds = coalesce(c.rounds, items.rounds),
      errors = case when c.sets_error then ${countedError(sql`nullif(c.error, 'null'::jsonb)`)} else items.errors end,
      next_attempt_at = case when c.sets_time then c.next_attempt_at else items.next_attempt_at end,
      last_error = case when c.sets_error then nullif(c.error, 'null'::jsonb) else items.last_error end
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as c (id uuid, state text, cloud_index int, rounds int, sets_time boolean,
      next_attempt_at timestamptz, sets_error boolean, error jsonb)
    where items.id = c.id`.execute(trx)
}

async function applyOrder(
  trx: Trx,
  loaded: Loaded,
  decision: OrderDecision,
  instance_events: ReadonlyMap<string, string>,
  order_event: string | undefined,
): Promise<string | undefined> {
  const { order } = loaded
  const blocker = toBlocker(order.blocker, decision.blocker, loaded.now)
  const state_changed = decision.state !== order.state || decision.partial !== order.partial
  const blocker_changed = blocker?.code !== order.blocker?.code
  let event: string | undefined
  let sequence = order.sequence
  if (state_changed || blocker_changed) {
    sequence++
    const cause_event = instance_events.values().next().value ?? (await newestInstanceEvent(trx, loaded)) ?? order_event
    const type = state_changed ? 'order.state_changed' : blocker ? 'order.blocked' : 'order.unblocked'
    ;[event] = await recordEvents(trx, [
      {
        project_id: order.project_id,
        resource_type: 'order',
        resource_id: order.id,
        sequence,
        type,
        from: order.state,
        to: decision.state,
        snapshot: {
          name: order.name,
          deployment_id: order.deployment_id,
          partial: decision.partial,
          blocker: blocker ?? null,
        },
        cause: { rule: decision.rule, reason: decision.reason, ...(cause_event ? { event: cause_event } : {}) },
      },
    ])
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
  if (order.lease_id && decision.state !== order.state) {
    await wake(trx, [{ target: leaseWorkflowId(order.lease_id), project_id: order.project_id }])
  }
  return event
}

/** The instance that changed last is what the order's change follows from. */
async function newestInstanceEvent(trx: Trx, { items }: Loaded): Promise<string | undefined> {
  const newest = items.reduce((a, b) => (b.changed_at > a.changed_at ? b : a), items[0]!)
  return newest.instance_state === 'pending' ? undefined : lastEventId(trx, 'instance', newest.instance_id)
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
