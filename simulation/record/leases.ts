/** Leases and the wishes of orders, as in store/leases.ts, store/lease-plan.ts and store/orders.ts. */
import type { LeaseAct } from '../../domain/lease.ts'
import { isOrderOver } from '../../domain/order/view.ts'
import { LOST_WAKE_MS } from '../../domain/plan.ts'
import { housekeep } from '../motion/housekeeping.ts'
import { answerWakes, instanceFlow, leaseFlow, orderFlow, wake } from '../motion/wakes.ts'
import { tell, touch, type World } from '../world.ts'
import { changeLease, isFinal } from './change.ts'
import { dueOf, type ModelPlan } from './order-plan.ts'
import type { HostRow, InstanceRow, ItemRow, LeaseRow, OrderRow, OrderTemplate } from './rows.ts'

/** Accepts an order. */
export function insertOrder(world: World, template: OrderTemplate, lease: LeaseRow | null): OrderRow {
  const order: OrderRow = {
    id: `order-${world.record.orders.length + 1}`,
    created_at: world.now,
    policy: template.policy,
    at_least: template.at_least,
    healing: template.healing,
    deadline_at: template.deadline_ms === null ? null : world.now + template.deadline_ms,
    hold: template.hold,
    retry_budget: template.retry_budget,
    clouds: template.clouds,
    items: [],
    lease,
    credential: 'ok',
    state: 'queued',
    partial: false,
    blocker: null,
    wish: 'run',
    by_person: true,
    settled_at: null,
    due_at: world.now,
    attended_until: null,
    next_batch: 1,
    next_undo_batch: 1,
  }
  for (let number = 1; number <= template.count; number++)
    order.items.push(newItem(world, order, number, number === 1 ? template.first_at : null))
  world.record.orders.push(order)
  touch(world, order)
  const clouds = template.clouds.map(({ name }) => name).join(', ')
  world.say(order.id, `accepted: ${template.count} at ${clouds}, policy ${template.policy} ${template.at_least ?? ''}`)
  wake(world, orderFlow(order))
  housekeep(world, dueOf(order))
  return order
}

function newItem(world: World, order: OrderRow, number: number, cloud_indexes: readonly number[] | null): ItemRow {
  const id = `${order.id}.i${number}`
  const item: Omit<ItemRow, 'instance'> & { instance?: InstanceRow } = {
    id,
    order,
    state: 'queued',
    cloud_index: 0,
    cloud_indexes,
    rounds: 0,
    errors: {},
    next_attempt_at: null,
    last_error: null,
    attempts: [],
    open: [],
  }
  item.instance = {
    id: `${id}.instance`,
    item: item as ItemRow,
    state: 'pending',
    wish: 'run',
    cloud: null,
    provider_id: null,
    changed_at: world.now,
    acknowledged_at: null,
    absent_lists: 0,
    due_at: null,
    action: null,
  }
  return item as ItemRow
}

/** The end of an order, wished by a person or by the end of its lease; `keep_running`: only of what does not run yet. */
export function wishEnd(world: World, order: OrderRow, by_person: boolean, keep_running = false): void {
  const wished = order.wish === 'cancel' || order.wish === 'terminate' || (keep_running && order.wish === 'withdraw')
  if (wished || order.state === 'cancelled' || order.state === 'terminated') return
  if (order.state === 'failed' && !order.items.some((item) => item.open.some((a) => a.provider_id !== null))) return
  order.wish = keep_running ? 'withdraw' : order.settled_at === null ? 'cancel' : 'terminate'
  order.by_person = by_person
  order.due_at = world.now
  touch(world, order)
  world.say(order.id, `wished to ${order.wish} by ${by_person ? 'a person' : 'the end of its lease'}`)
  wake(world, orderFlow(order))
  housekeep(world, dueOf(order))
}

export function createLease(
  world: World,
  moments: { start_at: number; end_at: number; before_end_at: number | null },
  template: OrderTemplate | null,
  host: HostRow | null,
): LeaseRow {
  const lease: LeaseRow = {
    id: `lease-${world.record.leases.length + 1}`,
    ...moments,
    before_end_done: false,
    state: 'PENDING',
    wish: 'run',
    wished_at: world.now,
    order: null,
    template,
    host,
    blocked: false,
    due_at: moments.start_at,
  }
  world.record.leases.push(lease)
  world.say(lease.id, `made: ${lease.start_at} to ${lease.end_at}${host ? `, on ${host.id}` : ''}`)
  wakeLease(world, lease)
  return lease
}

function wakeLease(world: World, lease: LeaseRow): void {
  wake(world, leaseFlow(lease))
  housekeep(world, { flow: leaseFlow(lease), row: lease })
}

const isOver = (lease: LeaseRow): boolean =>
  lease.wish === 'end' || lease.state === 'TERMINATING' || lease.state === 'TERMINATED' || lease.state === 'ERROR'

/** Until when a lease has booked its host. */
const bookedUntil = ({ wish, wished_at, end_at }: LeaseRow): number =>
  wish === 'end' ? Math.min(wished_at, end_at) : end_at

/** Whether a host is free to be booked from one moment to another, but for a lease that has it already. */
export const isFree = (world: World, host: HostRow, start_at: number, end_at: number, but?: LeaseRow): boolean =>
  !world.record.leases.some(
    (other) => other.host === host && other !== but && other.start_at < end_at && bookedUntil(other) > start_at,
  )

/** Extends or shortens a lease; false: it was refused. */
export function moveLease(world: World, lease: LeaseRow, end_at: number, before_end_at: number | null): boolean {
  if (isOver(lease) || lease.end_at <= world.now || end_at <= world.now || end_at <= lease.start_at) return false
  if (lease.host && !isFree(world, lease.host, lease.start_at, end_at, lease)) return false
  if (before_end_at !== lease.before_end_at) lease.before_end_done &&= before_end_at === null
  world.say(lease.id, `moved: ends at ${end_at}`)
  Object.assign(lease, { end_at, before_end_at, due_at: world.now })
  wakeLease(world, lease)
  return true
}

/** A person ends a lease. */
export function endLease(world: World, lease: LeaseRow): void {
  if (lease.wish === 'end' || lease.state === 'TERMINATED' || lease.state === 'ERROR') return
  world.say(lease.id, 'a person ends it')
  Object.assign(lease, { wish: 'end', wished_at: world.now, due_at: world.now })
  wakeLease(world, lease)
}

export function planLease(world: World, lease: LeaseRow): ModelPlan {
  answerWakes(world, leaseFlow(lease))
  const { state, wish, wished_at, start_at, end_at, before_end_at, before_end_done } = lease
  const { order } = lease
  const machines_left =
    order !== null &&
    isOrderOver(order.state) &&
    order.items.some((item) => item.open.some((attempt) => attempt.provider_id !== null))
  const moments = { start_at, end_at, before_end_at, before_end_done }
  const view = { state, wish, wished_at, ...moments, order_state: order?.state ?? null, machines_left }
  const decision = world.rules.decideLease(
    { ...view, unseen: unseenCloud(lease), host_held: whoHolds(lease) },
    world.now,
  )
  lease.blocked = decision.blocker?.code === 'host_held'
  for (const act of decision.acts) {
    tell(world, { act: 'lease_acted', lease, what: act })
    world.say(lease.id, act)
    ACTS[act](world, lease)
  }
  lease.due_at = decision.done ? null : (decision.due_at ?? world.now + LOST_WAKE_MS)
  housekeep(world, { flow: leaseFlow(lease), row: lease })
  const sleep_ms = decision.due_at === null ? null : Math.max(1, decision.due_at - world.now)
  return { steps: [], sleep_ms, done: decision.done }
}

/** As `unseenCloud` and `whoHolds` in store/bookings.ts. */
function unseenCloud({ host, order }: LeaseRow): string | null {
  if (!host || !order || !isOrderOver(order.state)) return null
  const attempts = order.items.flatMap((item) => item.attempts)
  const unseen = attempts.find(
    ({ state, provider_id, gone_at, settle_at, cloud }) =>
      state === 'lost' && provider_id === null && gone_at === null && (cloud.last_list_sent_at ?? 0) <= settle_at!,
  )
  return unseen?.cloud.name ?? null
}

const whoHolds = ({ host, id }: LeaseRow): string | null =>
  host?.held_by && host.held_by.id !== id ? `${host.id} is held by ${host.held_by.id}` : null

const ACTS: Record<LeaseAct, (world: World, lease: LeaseRow) => void> = {
  start(world, lease) {
    changeLease(world, lease, 'ACTIVE')
    if (lease.host) lease.host.held_by = lease
    if (lease.template) lease.order = insertOrder(world, lease.template, lease)
  },
  before_end(_, lease) {
    lease.before_end_done = true
  },
  end(world, lease) {
    changeLease(world, lease, 'TERMINATING')
    if (lease.order) wishEnd(world, lease.order, lease.wish === 'end')
  },
  finish(world, lease) {
    changeLease(world, lease, 'TERMINATED')
    if (lease.host?.held_by !== lease) return
    lease.host.held_by = null
    for (const other of world.record.leases) if (other.host === lease.host && other.blocked) wakeLease(world, other)
  },
  miss(world, lease) {
    changeLease(world, lease, 'ERROR')
  },
}

/** The credential of an order expires, or is replaced: then what it held up goes on. */
export function changeCredential(world: World, order: OrderRow, credential: OrderRow['credential']): void {
  world.say(order.id, `its credential is ${credential}`)
  order.credential = credential
  if (credential === 'ok' && (order.due_at !== null || !isFinal(order.state))) wake(world, orderFlow(order))
  for (const { instance } of order.items)
    if (credential === 'ok' && instance.action !== null) wake(world, instanceFlow(instance))
}
