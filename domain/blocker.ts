/** What holds a noun up: as decided, and as kept in the record. */
import type { Failing, Step } from './plan.ts'
import type { Blocker } from './record.ts'

export interface BlockerDecision {
  readonly code:
    | 'allocation_exhausted'
    | 'cloud_disabled'
    | 'cloud_unreachable'
    | 'cloud_unseen'
    | 'credentials_refused'
    | 'credentials_expired'
    | 'create_unanswered'
    | 'machine_starting'
    | 'undo_unconfirmed'
    | 'deletion_refused'
    | 'action_unconfirmed'
    | 'healing_capped'
    | 'clouds_refuse'
    | 'realm_unavailable'
    | 'removal_off'
    | 'step_failing'
    | 'tags_unconfirmed'
    | 'name_missing'
    | 'record_unconfirmed'
    | 'host_held'
  readonly reason: string
  /** Real time in ms; null: when something else happens. */
  readonly next_try_at: number | null
}

/** A step that fails by itself, not by a cloud's answer: told by its flow, which tries it again if it is still wanted. */
export const stepBlocker = (failing: Failing | null, steps: readonly Step[]): BlockerDecision | null =>
  failing && steps.some(({ key }) => key === failing.step)
    ? { code: 'step_failing', reason: failing.reason, next_try_at: null }
    : null

/** The blocker to be kept: with the same code as before it goes on since then. */
export function toBlocker(before: Blocker | null, decided: BlockerDecision | null, now: Date): Blocker | null {
  if (!decided) return null
  const { code, reason, next_try_at } = decided
  return {
    code,
    reason,
    since: before?.code === code ? before.since : now.toISOString(),
    ...(next_try_at === null ? {} : { next_try_at: new Date(next_try_at).toISOString() }),
  }
}
