/**
 * The sender of one shard: one long loop for all its healthy hooks. It claims what is due, sends side by side without
 * waiting for the slowest, and stores outcomes in batches. What it has in hand survives an absence of the record.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isAway, type Store } from '../store/database.ts'
import { beginShard, claimHeads, type Head, storeShardOutcomes, tidyShard } from '../store/delivery-claims.ts'
import type { AttemptResult, Outcome } from '../store/delivery-outcomes.ts'
import type { Hints } from '../store/hints.ts'
import { wakeLanes } from '../store/hook-lanes.ts'

export interface SenderNeeds {
  readonly store: Store
  readonly hints: Hints
  /** Sends one claimed delivery; never throws. */
  readonly send: (head: Head, signal: AbortSignal) => Promise<AttemptResult>
}

export interface SenderLimits {
  readonly duration_ms: number
  readonly sends_max: number
  /** From the stop on: what has not been answered by then is handed back. */
  readonly drain_ms: number
}

export const SENDER_LIMITS: SenderLimits = { duration_ms: 600_000, sends_max: 50_000, drain_ms: 3_000 }
/** What one run of a sender did, for its workflow's details. */
export interface SenderReport {
  readonly sends: number
  readonly failures: number
  readonly hooks: number
}

const IN_FLIGHT_MAX = 200
/** Looks by itself this often, hint or not. */
const LOOK_MS = 500
/** Claims are at least so far apart: what comes within is claimed together. */
const CLAIM_SPACING_MS = 5
const LANES_EVERY_MS = 200
const TIDY_EVERY_MS = 10_000
const AWAY_PAUSE_MS = 250
/** Outcomes that fit one transaction well. */
const STORE_MAX = 500

/** Runs until the limits are reached, the signal fires, or another sender has taken the shard. */
export async function sendShard(
  needs: SenderNeeds,
  shard: number,
  signal: AbortSignal,
  limits: SenderLimits = SENDER_LIMITS,
): Promise<SenderReport> {
  const { store, hints } = needs
  const give_up = new AbortController()
  const counts = { sends: 0, failures: 0, hooks: new Set<string>() }
  let outcomes: Outcome[] = []
  let in_flight = 0
  let storing = false
  let overtaken = false
  let failed: unknown
  let stopped = false
  let look = true
  let ring = (): void => {}
  const bell = (): void => {
    look = true
    ring()
  }

  const storeAll = async (): Promise<void> => {
    while (outcomes.length) {
      const batch = outcomes.slice(0, STORE_MAX)
      try {
        if (!(await storeShardOutcomes(store, shard, epoch, batch))) overtaken = true
      } catch (error) {
        if (!isAway(error) || give_up.signal.aborted) throw error
        await delay(AWAY_PAUSE_MS) // kept in hand until the record is back
        continue
      }
      outcomes = outcomes.slice(batch.length)
      in_flight -= batch.length
      bell()
    }
  }
  const storeSoon = (): void => {
    if (storing || failed) return
    storing = true
    void storeAll()
      .catch((error: unknown) => {
        failed = error
        bell()
      })
      .finally(() => {
        storing = false
        if (outcomes.length) storeSoon()
      })
  }
  const start = (head: Head): void => {
    in_flight++
    counts.sends++
    counts.hooks.add(head.hook_id)
    void needs.send(head, give_up.signal).then((result) => {
      if (result.verdict !== 'success') counts.failures++
      outcomes.push({ claimed: head, result, random: Math.random() })
      storeSoon()
    })
  }
  const listen = async (): Promise<void> => {
    while (!stopped) {
      await hints.wait(LOOK_MS, give_up.signal)
      bell()
    }
  }

  const epoch = await beginShard(store, shard)
  const timer = setTimeout(stop, limits.duration_ms)
  signal.addEventListener('abort', stop, { once: true })
  function stop(): void {
    stopped = true
    bell()
  }
  if (signal.aborted) stop()
  const listening = listen()
  const beside = sweep(store, shard, epoch, () => stopped || overtaken)
  try {
    while (!stopped && !overtaken && !failed && counts.sends < limits.sends_max) {
      if (!look || in_flight >= IN_FLIGHT_MAX) {
        await new Promise<void>((resolve) => {
          ring = resolve
          if (look && in_flight < IN_FLIGHT_MAX) resolve()
        })
        continue
      }
      look = false
      const heads = await claimHeads(store.db, shard, epoch, IN_FLIGHT_MAX - in_flight).catch(
        async (error: unknown) => {
          if (!isAway(error)) throw error
          await delay(AWAY_PAUSE_MS)
          look = true
          return []
        },
      )
      heads.forEach(start)
      if (!heads.length) await delay(CLAIM_SPACING_MS)
    }
    await drain()
    if (failed) throw failed
  } finally {
    stopped = true
    clearTimeout(timer)
    signal.removeEventListener('abort', stop)
    give_up.abort()
    await Promise.all([listening, beside])
  }
  return { sends: counts.sends, failures: counts.failures, hooks: counts.hooks.size }

  /** Lets what is in flight end; gives up the rest, which is handed back as unknown. */
  async function drain(): Promise<void> {
    const deadline = Date.now() + limits.drain_ms
    while (in_flight > 0 && !failed) {
      if (Date.now() > deadline) give_up.abort()
      if (Date.now() > deadline + 1_000) return // the record is away as well: the next epoch settles it
      await delay(10)
    }
  }
}

/** Beside the claims: wakes lanes that have something new, settles what was left over. */
async function sweep(store: Store, shard: number, epoch: number, stopped: () => boolean): Promise<void> {
  let tidy_at = Date.now() + TIDY_EVERY_MS
  while (!stopped()) {
    try {
      await wakeLanes(store, shard)
      if (Date.now() > tidy_at) {
        tidy_at = Date.now() + TIDY_EVERY_MS
        await tidyShard(store, shard, epoch)
      }
    } catch {
      // Away, or overtaken in a conflict: looked at again in a moment, and by the next epoch at the latest.
    }
    await delay(LANES_EVERY_MS)
  }
}
