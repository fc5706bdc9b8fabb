/**
 * Outcomes of one sender on their way into the record: in batches, one at a time, kept in hand while the record is
 * away.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isAway, type Store } from '../store/database.ts'
import { storeShardOutcomes } from '../store/delivery-claims.ts'
import type { Outcome } from '../store/delivery-outcomes.ts'

/** Outcomes that fit one transaction well. */
const STORE_MAX = 500
const AWAY_PAUSE_MS = 250

export interface OutcomeStore {
  /** Takes an outcome; it is stored soon, with those that come meanwhile. */
  add(outcome: Outcome): void
  /** Another sender has the shard: outcomes no longer count. */
  overtaken(): boolean
  /** What ended storing for good, if anything did. */
  failure(): unknown
}

/** `onStored` hears what left the hand; `given_up` ends the patience with an absent record. */
export function keepOutcomes(
  sender: { store: Store; shard: number; epoch: number; given_up: AbortSignal },
  onStored: (stored: readonly Outcome[]) => void,
): OutcomeStore {
  let outcomes: Outcome[] = []
  let storing = false
  let overtaken = false
  let failure: unknown

  const storeAll = async (): Promise<void> => {
    while (outcomes.length) {
      const batch = outcomes.slice(0, STORE_MAX)
      try {
        if (!(await storeShardOutcomes(sender.store, sender.shard, sender.epoch, batch))) overtaken = true
      } catch (error) {
        if (!isAway(error) || sender.given_up.aborted) throw error
        await delay(AWAY_PAUSE_MS)
        continue
      }
      outcomes = outcomes.slice(batch.length)
      onStored(batch)
    }
  }
  const storeSoon = (): void => {
    if (storing || failure) return
    storing = true
    void storeAll()
      .catch((error: unknown) => {
        failure = error
        onStored([])
      })
      .finally(() => {
        storing = false
        if (outcomes.length) storeSoon()
      })
  }
  return {
    add(outcome) {
      outcomes.push(outcome)
      storeSoon()
    },
    overtaken: () => overtaken,
    failure: () => failure,
  }
}
