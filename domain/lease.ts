/**
 * The rules of a lease: start, before-end, end, each at its moment and never before. Pure; times are the record's, in
 * ms. A lease touches no machine: its start launches an order, its end wishes that order's end. Hosts that it has booked
 * it holds from its start until its machines are gone; what another lease still holds is waited for.
 */
import type { BlockerDecision } from './blocker.ts'
import { isOrderOver } from './order/view.ts'
import { LOST_WAKE_MS } from './plan.ts'

export type LeaseState = 'PENDING' | 'STARTING' | 'ACTIVE' | 'TERMINATING' | 'TERMINATED' | 'ERROR'

export interface LeaseView {
  readonly state: LeaseState
  readonly wish: 'run' | 'end'
  /** When it was wished to end. */
  readonly wished_at: number
  readonly start_at: number
  readonly end_at: number
  readonly before_end_at: number | null
  /** The before-end event has been told. */
  readonly before_end_done: boolean
  /** State of the order that was launched; null: none yet. */
  readonly order_state: string | null
  /** Its order is over and machines of it are left: dead ones of one that failed, or late ones. */
  readonly machines_left: boolean
  /** A cloud at which a create of it stayed without an answer and nobody could look since; null: none, or it has no hosts. */
  readonly unseen: string | null
  /** Who holds a host that it has booked, as a sentence; null: nobody else, or it has none. */
  readonly host_held: string | null
}

/** What is due now; each is done in the transaction that decided it. */
export type LeaseAct = 'start' | 'before_end' | 'end' | 'finish' | 'miss'

export interface LeaseDecision {
  /** To be done now, in this order. */
  readonly acts: readonly LeaseAct[]
  /** When something is due by itself; null: only when woken. */
  readonly due_at: number | null
  readonly waiting_for: string
  readonly blocker: BlockerDecision | null
  readonly done: boolean
}

const LOOK_AGAIN_MAX_MS = 3_600_000

/** Decides what a lease needs at `now`. */
export function decideLease(view: LeaseView, now: number): LeaseDecision {
  const ends = view.wish === 'end' || now >= view.end_at
  const over_and_gone = view.order_state === null || (isOrderOver(view.order_state) && !view.machines_left)
  const undone = over_and_gone && view.unseen === null
  switch (view.state) {
    case 'PENDING':
    case 'STARTING':
      if (view.wish === 'end') return over(['finish'])
      if (ends) return over(['miss'])
      if (now < view.start_at) return waiting([], view.start_at, 'its start')
      if (view.host_held === null) return whileActive(view, now, ['start'])
      return {
        ...waiting([], Math.min(view.end_at, now + LOST_WAKE_MS), 'a host'),
        blocker: { code: 'host_held', reason: view.host_held, next_try_at: null },
      }
    case 'ACTIVE':
      if (!ends) return whileActive(view, now, [])
      return undone ? over(['end', 'finish']) : whileEnding(view, now, ['end'])
    case 'TERMINATING':
      return undone ? over(['finish']) : whileEnding(view, now, [])
    default:
      return over([])
  }
}

function whileActive(view: LeaseView, now: number, acts: LeaseAct[]): LeaseDecision {
  const before_end_at = view.before_end_done ? null : view.before_end_at
  if (before_end_at !== null && now >= before_end_at) return waiting([...acts, 'before_end'], view.end_at, 'its end')
  return before_end_at !== null && before_end_at < view.end_at
    ? waiting(acts, before_end_at, 'the notice before its end')
    : waiting(acts, view.end_at, 'its end')
}

/**
 * Its order wakes it when its machines are gone. Should that be lost it looks by itself, ever later; where it waits for a
 * look at a cloud nobody wakes it.
 */
function whileEnding(view: LeaseView, now: number, acts: LeaseAct[]): LeaseDecision {
  const ending_ms = now - (view.wish === 'end' ? view.wished_at : view.end_at)
  const wait_ms = view.unseen === null ? Math.min(LOOK_AGAIN_MAX_MS, Math.max(LOST_WAKE_MS, ending_ms)) : LOST_WAKE_MS
  const reason = `nobody could look at cloud ${view.unseen} since a create there stayed without an answer; its machine may be there`
  return {
    ...waiting(acts, now + wait_ms, 'the end of its machines'),
    blocker: view.unseen === null ? null : { code: 'cloud_unseen', reason, next_try_at: null },
  }
}

const waiting = (acts: LeaseAct[], due_at: number | null, waiting_for: string): LeaseDecision => ({
  acts,
  due_at,
  waiting_for,
  blocker: null,
  done: false,
})

const over = (acts: LeaseAct[]): LeaseDecision => ({ acts, due_at: null, waiting_for: '', blocker: null, done: true })
