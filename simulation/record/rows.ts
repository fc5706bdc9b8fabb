/**
 * The record in memory: of each table the columns that a rule depends on, rows joined by reference. Times are in ms.
 * What changes them does so as the functions of the same name in store/ do, and all that one of them does is one step.
 */
import type { BlockerDecision } from '../../domain/blocker.ts'
import type { Healing, OrderPolicy, RetryBudget } from '../../domain/launch-order.ts'
import type { LeaseState } from '../../domain/lease.ts'
import type { AttemptState, ItemState, OrderState } from '../../domain/order/view.ts'
import type { AttemptError } from '../../domain/record.ts'

export interface Traits {
  readonly idempotency_tokens: boolean
  readonly settle_ms: number
  readonly call_timeout_ms: number
  readonly boot_timeout_ms: number
  readonly list_lag_ms: number
  readonly list_interval_ms: number
}

export interface CloudRow {
  readonly name: string
  readonly traits: Traits
  enabled: boolean
  allocation: number | null
  state: 'unknown' | 'ok' | 'unreachable' | 'refused'
  last_list_sent_at: number | null
  watch_epoch: number
  /** Attempts whose claim is open. */
  readonly claims: Set<AttemptRow>
  /** Attempts that may still come to have a machine, or have one. */
  readonly open: Set<AttemptRow>
  /** Attempts that were given up: a machine of theirs may still turn up. */
  readonly given_up: Set<AttemptRow>
  /** Instances bound to a machine of it. */
  readonly instances: Set<InstanceRow>
}

export interface OrderRow {
  readonly id: string
  readonly created_at: number
  readonly policy: OrderPolicy
  readonly at_least: number | null
  readonly healing: Healing
  readonly deadline_at: number | null
  readonly hold: boolean
  readonly retry_budget: RetryBudget
  readonly clouds: readonly CloudRow[]
  readonly items: ItemRow[]
  readonly lease: LeaseRow | null
  /** Of the account that it uses at its clouds. */
  credential: 'ok' | 'refused' | 'expired'
  state: OrderState
  partial: boolean
  blocker: BlockerDecision | null
  wish: 'run' | 'withdraw' | 'cancel' | 'terminate'
  by_person: boolean
  settled_at: number | null
  due_at: number | null
  attended_until: number | null
  next_batch: number
  next_undo_batch: number
}

export interface ItemRow {
  readonly id: string
  readonly order: OrderRow
  readonly instance: InstanceRow
  state: ItemState
  cloud_index: number
  readonly cloud_indexes: readonly number[] | null
  rounds: number
  errors: Readonly<Record<string, number>>
  next_attempt_at: number | null
  last_error: AttemptError | null
  /** All it ever had, in order. */
  readonly attempts: AttemptRow[]
  /** Those that a plan looks at: not gone, and if lost then with a machine. */
  open: AttemptRow[]
}

export type InstanceState = 'pending' | 'starting' | 'running' | 'terminating' | 'terminated' | 'failed' | 'missing'

export interface InstanceRow {
  readonly id: string
  readonly item: ItemRow
  state: InstanceState
  wish: 'run' | 'terminate'
  cloud: CloudRow | null
  provider_id: string | null
  changed_at: number
  acknowledged_at: number | null
  absent_lists: number
  due_at: number | null
  /** Its oldest action that is not over. */
  action: { readonly kind: 'terminate'; started_at: number | null } | null
}

export interface AttemptRow {
  readonly id: string
  readonly item: ItemRow
  readonly number: number
  readonly cloud: CloudRow
  readonly batch: number
  readonly opened_at: number
  undo_batch: number | null
  state: AttemptState
  provider_id: string | null
  sends: number
  sent_at: number | null
  settle_at: number | null
  next_send_at: number | null
  deletes: number
  error: AttemptError | null
  gone_at: number | null
  /** Its cloud said once that its machine is not there, and it was. */
  denied: boolean
}

export interface LeaseRow {
  readonly id: string
  start_at: number
  end_at: number
  before_end_at: number | null
  before_end_done: boolean
  state: LeaseState
  wish: 'run' | 'end'
  wished_at: number
  order: OrderRow | null
  readonly template: OrderTemplate | null
  /** It has this one for itself. */
  readonly host: HostRow | null
  /** A host it has booked is held by another lease. */
  blocked: boolean
  due_at: number | null
}

/** A computer of a cloud, with the lease that has it in fact. */
export interface HostRow {
  readonly id: string
  readonly cloud: CloudRow
  held_by: LeaseRow | null
}

/** What an order is made of. */
export interface OrderTemplate {
  readonly count: number
  readonly policy: OrderPolicy
  readonly at_least: number | null
  /** Restarts are not simulated. */
  readonly healing: Exclude<Healing, 'restart'>
  /** By when its policy is to be met, from when it is accepted. */
  readonly deadline_ms: number | null
  readonly hold: boolean
  readonly retry_budget: RetryBudget
  readonly clouds: readonly CloudRow[]
  /** Places in that list, the only ones that its first item may go to, by preference; null: all. */
  readonly first_at: readonly number[] | null
}

export interface RecordModel {
  readonly clouds: CloudRow[]
  readonly orders: OrderRow[]
  readonly leases: LeaseRow[]
  readonly hosts: HostRow[]
  readonly attempts: Map<string, AttemptRow>
  automatic_removal: boolean
  /** When that was last turned on. */
  removal_on_at: number
}

/** Whether a plan of its order looks at it. */
export const isOpen = (attempt: AttemptRow): boolean =>
  attempt.gone_at === null && (attempt.state !== 'lost' || attempt.provider_id !== null)

/** To be called whenever an attempt changed: keeps what is looked at by others in step with it. */
export function keepOpen(attempt: AttemptRow): void {
  const { item, cloud } = attempt
  const known = item.open.includes(attempt)
  if (isOpen(attempt) && !known) item.open = [...item.open, attempt].sort((a, b) => a.number - b.number)
  else if (!isOpen(attempt) && known) item.open = item.open.filter((other) => other !== attempt)
  const given_up = attempt.gone_at === null && attempt.state === 'lost'
  if (given_up) cloud.given_up.add(attempt)
  else cloud.given_up.delete(attempt)
  if (attempt.gone_at === null && !given_up) cloud.open.add(attempt)
  else cloud.open.delete(attempt)
}
