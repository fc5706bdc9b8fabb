/**
 * The rules of telling a machine whose it is: one that was adopted gets our tags, one that was released loses them. Pure.
 * Either is asked for until its cloud confirms it, however long that takes; nothing else waits for it.
 */
import type { BlockerDecision } from './blocker.ts'

/** What is to be told; times are real, in ms. */
export interface TaggingView {
  readonly wish: 'adopt' | 'release'
  /** The machine is gone: there is nobody to be told. */
  readonly pointless: boolean
  readonly next_try_at: number
  /** Why it came to nothing when it was last asked for. */
  readonly error: string | null
  readonly cloud: string
}

export interface TaggingDecision {
  /** Ask the cloud now. */
  readonly step: boolean
  /** It is to be forgotten. */
  readonly drop: boolean
  readonly due_at: number | null
  readonly blocker: BlockerDecision | null
  readonly waiting_for: string
}

const NOTHING: TaggingDecision = { step: false, drop: false, due_at: null, blocker: null, waiting_for: '' }

/** Decides what the tags of an instance's machine need at `now`; null: nothing is to be told. */
export function decideTagging(view: TaggingView | null, now: number): TaggingDecision {
  if (view === null) return NOTHING
  if (view.pointless) return { ...NOTHING, drop: true }
  const { wish, cloud, error, next_try_at } = view
  const waiting_for = `cloud ${cloud} to ${wish === 'adopt' ? 'tag its machine as ours' : 'take our tags off its machine'}`
  const blocker: BlockerDecision | null = error
    ? {
        code: 'tags_unconfirmed',
        reason: `cloud ${cloud} has not confirmed the tags of its machine: ${error}`,
        next_try_at,
      }
    : null
  const step = next_try_at <= now
  return { ...NOTHING, step, due_at: step ? null : next_try_at, blocker, waiting_for }
}
