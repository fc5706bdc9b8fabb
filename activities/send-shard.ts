/**
 * The sender of one shard: one long loop for all its healthy hooks. It claims what is due, sends side by side without
 * waiting for the slowest, and stores outcomes in batches. What it has in hand survives an absence of the record.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isAway, type Store } from '../store/database.ts'
import { beginShard, claimHeads, type Head, holdsShard, settleLostClaims, tidyShard } from '../store/delivery-claims.ts'
import type { AttemptResult, Claimed } from '../store/delivery-outcomes.ts'
import type { Hints } from '../store/hints.ts'
import { wakeLanes } from '../store/hook-lanes.ts'
import { keepOutcomes } from './outcome-store.ts'

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
/** An idle sender stores nothing that would tell it that another took its shard: it looks this often. */
const HELD_EVERY_MS = 1_000
const AWAY_PAUSE_MS = 250
/** After giving up: for the outcomes of that to be stored. */
const GIVE_UP_MS = 1_000
const DRAIN_LOOK_MS = 10

/** Runs until the limits are reached, the signal fires, or another sender has taken the shard. */
export async function sendShard(
  needs: SenderNeeds,
  shard: number,
  signal: AbortSignal,
  limits: SenderLimits = SENDER_LIMITS,
): Promise<SenderReport> {
  const { store } = needs
  const give_up = new AbortController()
  const bell = new Bell()
  const hooks = new Set<string>()
  let sends = 0
  let failures = 0
  let claim_lost = false
  const in_hand = new Set<Claimed>()

  const epoch = await beginShard(store, shard)
  const outcomes = keepOutcomes({ store, shard, epoch, given_up: give_up.signal }, (stored) => {
    for (const { claimed } of stored) in_hand.delete(claimed)
    bell.ring()
  })
  const start = (head: Head): void => {
    in_hand.add(head)
    sends++
    hooks.add(head.hook_id)
    void needs.send(head, give_up.signal).then((result) => {
      if (result.verdict !== 'success') failures++
      outcomes.add({ claimed: head, result, random: Math.random() })
    })
  }
  const claim = async (): Promise<Head[]> => {
    try {
      if (claim_lost) await settleLostClaims(store, shard, epoch, [...in_hand])
      claim_lost = false
      return await claimHeads(store.db, shard, epoch, IN_FLIGHT_MAX - in_hand.size)
    } catch (error) {
      if (!isAway(error)) throw error
      claim_lost = true // It may have been stored all the same: deliveries nobody would send before the next epoch.
      await delay(AWAY_PAUSE_MS)
      bell.ring()
      return []
    }
  }
  const over = stopper(bell, signal, limits.duration_ms)
  const ended = (): boolean => over.stopped() || outcomes.overtaken() || outcomes.failure() !== undefined
  const beside = [listen(needs.hints, bell, give_up.signal, over.stopped), sweep(store, shard, epoch, over)]
  try {
    while (!ended() && sends < limits.sends_max) {
      await bell.rung(() => in_hand.size < IN_FLIGHT_MAX || ended())
      if (ended()) break
      const heads = await claim()
      heads.forEach(start)
      if (!heads.length) await delay(CLAIM_SPACING_MS)
    }
    // What is in flight may end; the rest is given up, that is: handed back as unknown. If the record is away as well,
    // the next epoch settles it.
    const deadline = performance.now() + limits.drain_ms
    while (in_hand.size > 0 && !outcomes.failure() && performance.now() < deadline + GIVE_UP_MS) {
      if (performance.now() > deadline) give_up.abort()
      await delay(DRAIN_LOOK_MS)
    }
    if (outcomes.failure()) throw outcomes.failure()
  } finally {
    over.stop()
    give_up.abort()
    await Promise.all(beside)
  }
  return { sends, failures, hooks: hooks.size }
}

/** "Look again": rung by hints and by places that became free; a ring while nobody waits is not lost. */
class Bell {
  private due = true
  private waiting = (): void => {}
  ring(): void {
    this.due = true
    this.waiting()
  }
  /** Resolves once it was rung, now or since the last time, and `ready` holds. */
  async rung(ready: () => boolean): Promise<void> {
    while (!this.due || !ready()) {
      await new Promise<void>((resolve) => {
        this.waiting = resolve
      })
    }
    this.due = false
  }
}

interface Stopper {
  readonly stopped: () => boolean
  readonly stop: () => void
}

/** Stops after a time or when the signal fires. */
function stopper(bell: Bell, signal: AbortSignal, duration_ms: number): Stopper {
  let stopped = signal.aborted
  const stop = (): void => {
    stopped = true
    clearTimeout(timer)
    signal.removeEventListener('abort', stop)
    bell.ring()
  }
  const timer = setTimeout(stop, duration_ms)
  signal.addEventListener('abort', stop, { once: true })
  return { stopped: () => stopped, stop }
}

async function listen(hints: Hints, bell: Bell, signal: AbortSignal, stopped: () => boolean): Promise<void> {
  while (!stopped()) {
    await hints.wait(['deliveries'], LOOK_MS, signal)
    bell.ring()
  }
}

/** Beside the claims: wakes lanes that have something new, settles what was left over; ends a sender that was overtaken. */
async function sweep(store: Store, shard: number, epoch: number, over: Stopper): Promise<void> {
  let tidy_at = performance.now() + TIDY_EVERY_MS
  let look_at = performance.now() + HELD_EVERY_MS
  while (!over.stopped()) {
    try {
      if (performance.now() > look_at) {
        look_at = performance.now() + HELD_EVERY_MS
        if (!(await holdsShard(store.db, shard, epoch))) return over.stop()
      }
      await wakeLanes(store, shard)
      if (performance.now() > tidy_at) {
        tidy_at = performance.now() + TIDY_EVERY_MS
        await tidyShard(store, shard, epoch)
      }
    } catch {
      // Away, or overtaken in a conflict: looked at again in a moment, and by the next epoch at the latest.
    }
    await delay(LANES_EVERY_MS)
  }
}
