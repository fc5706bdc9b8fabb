/** Planning a launch order, as in store/order-plan.ts: read, decide, write down, return the steps. */
import { healingCapOf } from '../../domain/order/heal.ts'
import type { AttemptView, CloudView, ItemView, OrderDecision, OrderView } from '../../domain/order/view.ts'
import { LOST_WAKE_MS } from '../../domain/plan.ts'
import { type Due, housekeep } from '../motion/housekeeping.ts'
import { answerWakes, leaseFlow, orderFlow, wake } from '../motion/wakes.ts'
import { listedAt } from '../motion/watcher.ts'
import { tell, touch, type World } from '../world.ts'
import { changeAttempt, changeInstance, changeItem, changeOrder, setError } from './change.ts'
import { claim } from './claims.ts'
import { mayDelete } from './removals.ts'
import type { AttemptRow, CloudRow, ItemRow, OrderRow } from './rows.ts'

export interface ModelStep {
  readonly key: string
  readonly kind: 'create' | 'delete' | 'terminate'
  readonly batch: number
  readonly cloud: string
}

export interface ModelPlan {
  readonly steps: readonly ModelStep[]
  readonly sleep_ms: number | null
  readonly done: boolean
}

const ROUNDS_MAX = 4

/** Plans an order; a decision that asks to be taken again at once is, some times. */
export function planOrder(world: World, order: OrderRow): ModelPlan {
  for (let round = 1; ; round++) {
    const plan = planOnce(world, order)
    if (plan.done || plan.steps.length || plan.sleep_ms === null || plan.sleep_ms > 0 || round >= ROUNDS_MAX)
      return plan
  }
}

function planOnce(world: World, order: OrderRow): ModelPlan {
  answerWakes(world, orderFlow(order))
  const view = viewOf(world, order)
  const decision = world.rules.decideOrder(view, world.now)
  apply(world, order, decision)
  // What was healed is up, perhaps: whether there is room for another now is not asked.
  const again = world.rules.decideOrder({ ...viewOf(world, order), healing_room: 0 }, world.now)
  tell(world, { act: 'planned', order, view, decision, again })
  return {
    steps: [
      ...decision.create_batches.map(
        ({ batch, cloud_id }): ModelStep => ({ key: `create/${batch}`, kind: 'create', batch, cloud: cloud_id }),
      ),
      ...decision.delete_batches.map(
        ({ undo_batch, cloud_id }): ModelStep => ({
          key: `delete/${undo_batch}`,
          kind: 'delete',
          batch: undo_batch,
          cloud: cloud_id,
        }),
      ),
    ],
    sleep_ms: decision.due_at === null ? null : Math.max(0, decision.due_at - world.now),
    done: decision.done,
  }
}

export function viewOf(world: World, order: OrderRow): OrderView {
  return {
    state: order.state,
    policy: order.policy,
    at_least: order.at_least,
    wish: order.wish,
    settled: order.settled_at !== null,
    healing: order.healing,
    deadline_at: order.deadline_at,
    hold: order.hold,
    retry_budget: order.retry_budget,
    healing_room: healingRoom(order),
    may_delete: mayDelete(world, order),
    next_batch: order.next_batch,
    next_undo_batch: order.next_undo_batch,
    clouds: order.clouds.map((cloud) => cloudView(world, cloud, order.credential)),
    items: order.items.map(itemView),
  }
}

const cloudView = (world: World, cloud: CloudRow, credential: CloudView['credential']): CloudView => ({
  id: cloud.name,
  name: cloud.name,
  enabled: cloud.enabled,
  idempotency_tokens: cloud.traits.idempotency_tokens,
  call_timeout_ms: cloud.traits.call_timeout_ms,
  boot_timeout_ms: cloud.traits.boot_timeout_ms,
  listed_at: listedAt(world, cloud),
  credential,
  closed_realms: [],
  free: cloud.allocation === null ? null : cloud.allocation - cloud.claims.size,
})

/** How many more of the order may be healed now: each order is a deployment of its own. */
function healingRoom({ healing, items, settled_at }: OrderRow): number {
  if (healing !== 'replace') return 0
  const members = items.filter(({ instance }) => instance.state !== 'terminated').length
  const under_way = items.filter(({ state }) => state === 'queued' || state === 'creating' || state === 'starting')
  return healingCapOf(members) - (settled_at === null ? 0 : under_way.length)
}

const itemView = (item: ItemRow): ItemView => ({
  id: item.id,
  state: item.state,
  cloud_index: item.cloud_index,
  cloud_indexes: item.cloud_indexes,
  realm: null,
  rounds: item.rounds,
  errors: item.errors,
  attempts: item.attempts.length,
  next_attempt_at: item.next_attempt_at,
  last_error: item.last_error,
  instance_id: item.instance.id,
  instance_state: item.instance.state,
  instance_wish: item.instance.wish,
  naming: null,
  restart: null,
  open: item.open.map(attemptView),
})

const attemptView = (attempt: AttemptRow): AttemptView => ({
  id: attempt.id,
  number: attempt.number,
  cloud_id: attempt.cloud.name,
  batch: attempt.batch,
  undo_batch: attempt.undo_batch,
  state: attempt.state,
  provider_id: attempt.provider_id,
  sends: attempt.sends,
  sent_at: attempt.sent_at,
  settle_at: attempt.settle_at,
  next_send_at: attempt.next_send_at,
  error: attempt.error,
})

function apply(world: World, order: OrderRow, decision: OrderDecision): void {
  touch(world, order)
  applyAttempts(world, order, decision)
  const items = new Map(order.items.map((item) => [item.id, item]))
  for (const change of decision.items) {
    const item = items.get(change.id)!
    changeItem(world, item, change.state)
    if (change.cloud_index !== undefined) item.cloud_index = change.cloud_index
    if (change.next_attempt_at !== undefined) item.next_attempt_at = change.next_attempt_at
    if (change.state === 'running') item.rounds = 0
    else if (change.rounds !== undefined) item.rounds = change.rounds
    if (change.error !== undefined) setError(item, change.error)
  }
  const instances = new Map(order.items.map(({ instance }) => [instance.id, instance]))
  for (const change of decision.instances) {
    const cleared = change.to === 'pending' ? { cloud: null, provider_id: null } : {}
    changeInstance(world, { instance: instances.get(change.id)!, to: change.to, ...cleared })
  }
  for (const { id, reason } of decision.attention) world.say(id, reason)
  applyOrder(world, order, decision)
}

function applyAttempts(world: World, order: OrderRow, decision: OrderDecision): void {
  const attempts = new Map(order.items.flatMap((item) => item.open.map((attempt) => [attempt.id, attempt])))
  const lost: AttemptRow[] = []
  for (const change of decision.attempts) {
    const attempt = attempts.get(change.id)!
    if (change.gone) attempt.gone_at = world.now
    changeAttempt(world, attempt, change.state)
    if (change.state === 'lost') lost.push(attempt)
  }
  world.store.releaseClaims(world, lost)
  for (const { attempt_id, undo_batch } of decision.undo) {
    const attempt = attempts.get(attempt_id)!
    attempt.undo_batch = undo_batch
    attempt.next_send_at = null
    changeAttempt(world, attempt)
  }
  const items = new Map(order.items.map((item) => [item.id, item]))
  for (const { item_id, number, cloud_id, batch } of decision.open) {
    const item = items.get(item_id)!
    const attempt = newAttempt(world, item, number, order.clouds.find(({ name }) => name === cloud_id)!, batch)
    tell(world, { act: 'opened', item, due_at: item.next_attempt_at, attempt })
    claim(world, attempt)
  }
}

function newAttempt(world: World, item: ItemRow, number: number, cloud: CloudRow, batch: number): AttemptRow {
  const attempt: AttemptRow = {
    id: `${item.id}.a${number}`,
    item,
    number,
    cloud,
    batch,
    opened_at: world.now,
    undo_batch: null,
    state: 'open',
    provider_id: null,
    sends: 0,
    sent_at: null,
    settle_at: null,
    next_send_at: null,
    deletes: 0,
    error: null,
    gone_at: null,
    denied: false,
  }
  item.attempts.push(attempt)
  world.record.attempts.set(attempt.id, attempt)
  changeAttempt(world, attempt)
  world.say(attempt.id, `opened at ${cloud.name}, batch ${batch}`)
  return attempt
}

function applyOrder(world: World, order: OrderRow, decision: OrderDecision): void {
  if (decision.blocker?.code !== order.blocker?.code)
    world.say(order.id, decision.blocker ? `blocked: ${decision.blocker.code}` : 'not blocked any more')
  const changed = decision.state !== order.state
  changeOrder(world, order, decision.state)
  order.partial = decision.partial
  order.blocker = decision.blocker
  for (const { batch } of decision.create_batches) order.next_batch = Math.max(order.next_batch, batch + 1)
  for (const { undo_batch } of decision.delete_batches)
    order.next_undo_batch = Math.max(order.next_undo_batch, undo_batch + 1)
  order.attended_until = null
  order.due_at = decision.done ? null : Math.max(world.now, decision.due_at ?? world.now + LOST_WAKE_MS)
  housekeep(world, dueOf(order))
  if (decision.state === 'running') order.settled_at ??= world.now
  if (order.lease && changed) wake(world, leaseFlow(order.lease))
}

/** The order as housekeeping knows it. */
export const dueOf = (order: OrderRow): Due => ({ flow: orderFlow(order), row: order })
