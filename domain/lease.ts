/**
 * The rules of a lease: start, before-end, end, each at its moment and never before. Pure; times are the record's, in
 * ms. A lease touches no machine: its start launches an order, its end wishes that order's end.
 */

export type LeaseState = 'PENDING' | 'STARTING' | 'ACTIVE' | 'TERMINATING' | 'TERMINATED' | 'ERROR'

export interface LeaseView {
  readonly state: LeaseState
  readonly wish: 'run' | 'end'
  readonly start_at: number
  readonly end_at: number
  readonly before_end_at: number | null
  /** The before-end event has been told. */
  readonly before_end_done: boolean
  /** State of the order that was launched; null: none yet. */
  readonly order_state: string | null
}

/** What is due now; each is done in the transaction that decided it. */
export type LeaseAct = 'start' | 'before_end' | 'end' | 'finish' | 'miss'

export interface LeaseDecision {
  /** To be done now, in this order. */
  readonly acts: readonly LeaseAct[]
  /** When something is due by itself; null: only when woken. */
  readonly due_at: number | null
  readonly waiting_for: string
  readonly done: boolean
}

const ORDER_OVER = new Set(['cancelled', 'terminated', 'failed'])

/** Decides what a lease needs at `now`. */
export function decideLease(view: LeaseView, now: number): LeaseDecision {
  const ends = view.wish === 'end' || now >= view.end_at
  switch (view.state) {
    case 'PENDING':
    case 'STARTING':
      if (view.wish === 'end') return over(['finish'])
      if (ends) return over(['miss'])
      if (now < view.start_at) return { acts: [], due_at: view.start_at, waiting_for: 'its start', done: false }
      return whileActive(view, now, ['start'])
    case 'ACTIVE':
      if (!ends) return whileActive(view, now, [])
      if (view.order_state === null || ORDER_OVER.has(view.order_state)) return over(['end', 'finish'])
      return { acts: ['end'], due_at: null, waiting_for: 'the end of its machines', done: false }
    case 'TERMINATING':
      if (view.order_state === null || ORDER_OVER.has(view.order_state)) return over(['finish'])
      return { acts: [], due_at: null, waiting_for: 'the end of its machines', done: false }
    default:
      return over([])
  }
}

function whileActive(view: LeaseView, now: number, acts: LeaseAct[]): LeaseDecision {
  const before_end_at = view.before_end_done ? null : view.before_end_at
  if (before_end_at !== null && now >= before_end_at) {
    return { acts: [...acts, 'before_end'], due_at: view.end_at, waiting_for: 'its end', done: false }
  }
  return before_end_at !== null && before_end_at < view.end_at
    ? { acts, due_at: before_end_at, waiting_for: 'the notice before its end', done: false }
    : { acts, due_at: view.end_at, waiting_for: 'its end', done: false }
}

const over = (acts: LeaseAct[]): LeaseDecision => ({ acts, due_at: null, waiting_for: '', done: true })
