/** The one place where the state of a row changes, told to the judge. Instances change as in store/instances.ts. */
import type { AttemptState, ItemState, OrderState } from '../../domain/order/view.ts'
import { tell, touch, type World } from '../world.ts'
import {
  type AttemptRow,
  type CloudRow,
  type InstanceRow,
  type InstanceState,
  type ItemRow,
  keepOpen,
  type LeaseRow,
  type OrderRow,
} from './rows.ts'

export const isFinal = (state: OrderState): boolean =>
  state === 'running' || state === 'cancelled' || state === 'terminated' || state === 'failed'

export function changeOrder(world: World, order: OrderRow, to: OrderState): void {
  touch(world, order)
  if (order.state === to) return
  tell(world, { act: 'changed', kind: 'order', noun: order.id, from: order.state, to })
  world.say(order.id, `${order.state} → ${to}`)
  order.state = to
}

export function changeItem(world: World, item: ItemRow, to: ItemState): void {
  touch(world, item.order)
  if (item.state === to) return
  tell(world, { act: 'changed', kind: 'item', noun: item.id, from: item.state, to })
  item.state = to
}

/** To be called after any change of an attempt; `to`: also of its state. */
export function changeAttempt(world: World, attempt: AttemptRow, to: AttemptState = attempt.state): void {
  touch(world, attempt.item.order)
  if (attempt.state !== to) {
    tell(world, { act: 'changed', kind: 'attempt', noun: attempt.id, from: attempt.state, to })
    world.say(attempt.id, `${attempt.state} → ${to}`)
    attempt.state = to
  }
  keepOpen(attempt)
}

export function changeLease(world: World, lease: LeaseRow, to: LeaseRow['state']): void {
  if (lease.state === to) return
  tell(world, { act: 'changed', kind: 'lease', noun: lease.id, from: lease.state, to })
  world.say(lease.id, `${lease.state} → ${to}`)
  lease.state = to
}

export interface InstanceChange {
  readonly instance: InstanceRow
  readonly to: InstanceState
  readonly cloud?: CloudRow | null
  readonly provider_id?: string | null
  readonly acknowledged?: boolean
  readonly only_from?: readonly InstanceState[]
  /** Dropped if the row changed after this moment: the observation is older than the record. */
  readonly seen_at?: number
}

/** Changes an instance; false: the change is none, or comes too late. */
export function changeInstance(world: World, change: InstanceChange): boolean {
  const { instance, to, only_from, seen_at, provider_id } = change
  touch(world, instance.item.order)
  if (instance.state === 'terminated') return false
  if (only_from && !only_from.includes(instance.state)) return false
  if (seen_at !== undefined && seen_at < instance.changed_at) return false
  if (instance.state === to && (provider_id === undefined || provider_id === instance.provider_id)) return false
  if (instance.state !== to) {
    tell(world, { act: 'changed', kind: 'instance', noun: instance.id, from: instance.state, to })
    world.say(instance.id, `${instance.state} → ${to}`)
  }
  instance.state = to
  if (change.cloud !== undefined) {
    instance.cloud?.instances.delete(instance)
    change.cloud?.instances.add(instance)
    instance.cloud = change.cloud
  }
  if (to === 'terminated') instance.cloud?.instances.delete(instance)
  if (provider_id !== undefined) instance.provider_id = provider_id
  if (change.acknowledged) instance.acknowledged_at = world.now
  instance.changed_at = world.now
  instance.absent_lists = 0
  return true
}

/** The last error of an item; one that is told again is counted once. */
export function setError(item: ItemRow, error: ItemRow['last_error']): void {
  if (error && error.at !== item.last_error?.at)
    item.errors = { ...item.errors, [error.class]: (item.errors[error.class] ?? 0) + 1 }
  item.last_error = error
}
