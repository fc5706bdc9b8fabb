/**
 * The rules of one instance's actions. Pure. A terminate supersedes whatever else was asked for; where no machine is
 * bound yet, the order's flow ends its attempts and this one waits for that.
 */

import type { BlockerDecision } from './blocker.ts'

export interface InstanceView {
  readonly state: string
  /** The kind of the oldest action that is not over; null: none. */
  readonly action: 'terminate' | null
  /** A machine is bound to it and not confirmed gone. */
  readonly has_machine: boolean
  /** Real time in ms before which its deletion is not asked for again; null: now. */
  readonly next_try_at: number | null
  readonly last_error: string | null
}

export interface InstanceDecision {
  /** `terminating` before a deletion is asked for, `terminated` where there was nothing to delete. */
  readonly to: 'terminating' | 'terminated' | null
  readonly terminate: boolean
  readonly action_done: boolean
  readonly wake_order: boolean
  readonly due_at: number | null
  readonly blocker: BlockerDecision | null
  readonly waiting_for: string
  readonly done: boolean
}

/** Decides what an instance needs at `now` (real time, ms). */
export function decideInstance(view: InstanceView, now: number): InstanceDecision {
  const nothing = {
    to: null,
    terminate: false,
    action_done: false,
    wake_order: false,
    due_at: null,
    blocker: null,
    waiting_for: '',
    done: true,
  }
  if (view.action === null) return nothing
  if (!view.has_machine) {
    if (view.state === 'terminated') return { ...nothing, action_done: true }
    if (view.state === 'missing' || view.state === 'failed')
      return { ...nothing, to: 'terminated', action_done: true, wake_order: true }
    return { ...nothing, wake_order: true, waiting_for: 'its order to withdraw what was asked of a cloud', done: false }
  }
  const to = view.state === 'terminating' ? null : 'terminating'
  if (view.next_try_at !== null && view.next_try_at > now) {
    const waiting_for = 'the cloud to confirm its deletion'
    const blocker: BlockerDecision | null = view.last_error
      ? { code: 'deletion_refused', reason: view.last_error, next_try_at: view.next_try_at }
      : null
    return { ...nothing, to, due_at: view.next_try_at, blocker, waiting_for, done: false }
  }
  return { ...nothing, to, terminate: true, waiting_for: 'its deletion', done: false }
}
