/** What a decision about a launch order is made of, and what it says. */

import type { BlockerDecision } from '../blocker.ts'
import type { Healing, OrderPolicy, RetryBudget } from '../launch-order.ts'
import type { AttemptError } from '../record.ts'

export type OrderState =
  | 'queued'
  | 'launching'
  | 'settling'
  | 'running'
  | 'held'
  | 'compensating'
  | 'cancelled'
  | 'terminating'
  | 'terminated'
  | 'failed'
export type ItemState =
  | 'queued'
  | 'claimed'
  | 'creating'
  | 'starting'
  | 'running'
  | 'failed'
  | 'cancelled'
  | 'terminated'
export type AttemptState = 'open' | 'sent' | 'won' | 'lost' | 'unknown' | 'surplus'

const ORDER_OVER: ReadonlySet<string> = new Set<OrderState>(['cancelled', 'terminated', 'failed'])

/** Nothing more is made for it; late or dead machines of it may be left. */
export const isOrderOver = (state: string): boolean => ORDER_OVER.has(state)

/** One launch attempt that is not over; times are real, in ms. */
export interface AttemptView {
  readonly id: string
  readonly number: number
  readonly cloud_id: string
  readonly batch: number
  readonly undo_batch: number | null
  readonly state: AttemptState
  readonly provider_id: string | null
  readonly sends: number
  readonly sent_at: number | null
  readonly settle_at: number | null
  readonly next_send_at: number | null
  readonly error: AttemptError | null
}

export interface ItemView {
  readonly id: string
  readonly state: ItemState
  /** How far it is in its list of clouds. */
  readonly cloud_index: number
  /** That list, as places in the order's: the only ones it may go to, by preference; null: all, as the order says. */
  readonly cloud_indexes: readonly number[] | null
  /** The realm it is to be in; null: any. */
  readonly realm: string | null
  /** Rounds over all its clouds that were in vain, since it last ran. */
  readonly rounds: number
  /** How often it met each class of errors. */
  readonly errors: Readonly<Record<string, number>>
  /** Attempts made so far, over ones included. */
  readonly attempts: number
  readonly next_attempt_at: number | null
  readonly last_error: AttemptError | null
  readonly instance_id: string
  readonly instance_state: string
  readonly instance_wish: 'run' | 'stop' | 'terminate'
  /** An inventory outside is to name it first, and no cloud is called before; null: it has its name. */
  readonly naming: { readonly error: string | null } | null
  /** The restart by which it is being healed, or was in vain; null: none since it failed. */
  readonly restart: 'open' | 'failed' | null
  /** Attempts that may still have, or come to have, a machine. */
  readonly open: readonly AttemptView[]
}

export interface CloudView {
  readonly id: string
  readonly name: string
  readonly enabled: boolean
  readonly idempotency_tokens: boolean
  readonly call_timeout_ms: number
  /** A machine that does not run this long after its create is given up. */
  readonly boot_timeout_ms: number
  /** When the last complete list of its machines was sent; null: never, or it cannot be reached now. */
  readonly listed_at: number | null
  /** Whether the credential of the order for it can be used; a call with one that cannot is not made. */
  readonly credential: 'ok' | 'refused' | 'expired'
  /** Realms it told as unavailable, by id and name. */
  readonly closed_realms: readonly string[]
  /** How many more instances our own allocation admits; null: no limit. */
  readonly free: number | null
}

export interface OrderView {
  readonly state: OrderState
  readonly policy: OrderPolicy
  readonly at_least: number | null
  /** `withdraw`: what does not run yet is not wanted any more, what runs is. */
  readonly wish: 'run' | 'withdraw' | 'cancel' | 'terminate'
  /** What is done for a machine that dies after it ran. */
  readonly healing: Healing
  /** How many more of its deployment may be healed now. */
  readonly healing_room: number
  /** Real time in ms by which its policy is to be met; null: whenever. */
  readonly deadline_at: number | null
  /** Waits for its clouds to change their minds instead of giving up. */
  readonly hold: boolean
  readonly retry_budget: RetryBudget
  /** It once ran: what is left of it then goes by a person's wish alone. */
  readonly settled: boolean
  /** Its machines may be deleted: automatic removal is on, or a person ended the order. */
  readonly may_delete: boolean
  /** In order of preference. */
  readonly clouds: readonly CloudView[]
  readonly items: readonly ItemView[]
  readonly next_batch: number
  readonly next_undo_batch: number
}

export interface OrderDecision {
  readonly state: OrderState
  readonly partial: boolean
  /** Rule that led to the state, for its cause. */
  readonly rule: string
  readonly reason: string
  readonly blocker: BlockerDecision | null
  /** New attempts, each committed before anything is sent. */
  readonly open: readonly {
    item_id: string
    instance_id: string
    number: number
    cloud_id: string
    batch: number
  }[]
  readonly items: readonly {
    id: string
    state: ItemState
    cloud_index?: number
    rounds?: number
    next_attempt_at?: number | null
    error?: AttemptError | null
  }[]
  /** Instance changes that no observation brings: `pending` again after a failed boot, `failed`, `terminating`, `terminated`. */
  readonly instances: readonly {
    id: string
    to: 'pending' | 'failed' | 'terminating' | 'terminated'
    rule: string
    reason: string
  }[]
  /** Attempts whose fate is settled here. `gone`: there never was, and never will be, a machine. */
  readonly attempts: readonly { id: string; state: 'lost' | 'unknown' | 'surplus'; gone: boolean; reason: string }[]
  /** Instances whose machine is restarted to heal it. */
  readonly restarts: readonly { id: string; reason: string }[]
  /** Instances that a person is to look at. */
  readonly attention: readonly { id: string; reason: string }[]
  readonly undo: readonly { attempt_id: string; undo_batch: number }[]
  readonly create_batches: readonly { batch: number; cloud_id: string; count: number }[]
  readonly delete_batches: readonly { undo_batch: number; cloud_id: string; count: number }[]
  /** Real time in ms of the next moment at which something is due by itself. */
  readonly due_at: number | null
  readonly done: boolean
}
