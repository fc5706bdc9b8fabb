/**
 * What an attempt's outcome means and what comes next: the retry schedule, Retry-After, exhaustion.
 * Pure: the time, the random number and the header's text are parameters.
 */

/** Gaps before attempts 2 to 15, from the end of the attempt before. The first hour is dense because a failed event
 *  holds up the later ones of its resource; the whole covers a weekend. */
export const SCHEDULE_MS: readonly number[] = [
  5_000, 15_000, 45_000, 120_000, 300_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 28_800_000, 43_200_000,
  86_400_000, 86_400_000,
]
export const JITTER = 0.2
export const RETRY_AFTER_MAX_MS = 86_400_000
/** How often in a row an attempt of unknown outcome is repeated without taking a place of the schedule. */
export const UNKNOWN_IN_ROW_MAX = 3
/** Wait after a fault of our own (no key, no body): nothing is charged to the receiver. */
export const OWN_FAULT_MS = 5_000

/** `unknown`: sent, perhaps, by somebody who is gone. `own_fault`: never sent, and not because of the receiver. */
export type Verdict = 'success' | 'failure' | 'abort' | 'disable' | 'unknown' | 'own_fault'

/** What becomes of a delivery. Times are in ms from now, in the record's clock. */
export interface NextStep {
  readonly state: 'delivered' | 'waiting' | 'pending' | 'exhausted' | 'aborted' | 'parked'
  /** Takes a place of the schedule. */
  readonly charged: boolean
  readonly in_ms: number
  readonly reason: string | null
  /** The hook as a whole is to be left alone for so long. */
  readonly pause_ms: number
  readonly disable: boolean
}

/** The verdict on an answer; null status: no answer came. `delivery` is the header `webhook-delivery`. */
export function judge(status: number | null, delivery?: string): Verdict {
  if (status === null) return 'failure'
  if (status >= 200 && status <= 299) return 'success'
  const wish = delivery?.trim().toLowerCase()
  if (status === 410 || wish === 'disable') return 'disable'
  return wish === 'abort-message' ? 'abort' : 'failure'
}

/** Milliseconds a Retry-After header asks for, at most a day; undefined when past, absent or not understood. */
export function parseRetryAfter(value: string | undefined, now: Date): number | undefined {
  const text = value?.trim()
  if (!text) return undefined
  const ms = /^\d+(\.\d+)?$/.test(text)
    ? Number(text) * 1000
    : /^[A-Z]/i.test(text)
      ? Date.parse(text) - now.getTime()
      : Number.NaN
  return ms > 0 ? Math.min(Math.ceil(ms), RETRY_AFTER_MAX_MS) : undefined
}

/**
 * What comes after an attempt. `attempts` counts the charged ones before it; `schedule_ms` is the hook's own, null: the
 * default; `random` is uniform in 0…1.
 */
export function afterAttempt(input: {
  readonly verdict: Verdict
  readonly status: number | null
  readonly attempts: number
  readonly unknown_in_row: number
  readonly retry_after_ms?: number | undefined
  readonly schedule_ms?: readonly number[] | null
  readonly random: number
}): NextStep {
  const step = { charged: true, in_ms: 0, reason: null, pause_ms: 0, disable: false }
  switch (input.verdict) {
    case 'success':
      return { ...step, state: 'delivered' }
    case 'abort':
      return { ...step, state: 'aborted' }
    case 'disable':
      return { ...step, state: 'parked', reason: 'endpoint_disabled', disable: true }
    case 'own_fault':
      return { ...step, state: 'waiting', charged: false, in_ms: OWN_FAULT_MS, reason: 'own_fault' }
    case 'unknown':
      if (input.unknown_in_row < UNKNOWN_IN_ROW_MAX) return { ...step, state: 'pending', charged: false }
      return afterFailure(input)
    case 'failure':
      return afterFailure(input)
  }
}

function afterFailure(input: {
  readonly status: number | null
  readonly attempts: number
  readonly retry_after_ms?: number | undefined
  readonly schedule_ms?: readonly number[] | null
  readonly random: number
}): NextStep {
  const asked_ms = input.retry_after_ms ?? 0
  const pause_ms = input.status === 429 || input.status === 503 ? asked_ms : 0
  const gap_ms = (input.schedule_ms ?? SCHEDULE_MS)[input.attempts]
  if (gap_ms === undefined) {
    return { state: 'exhausted', charged: true, in_ms: 0, reason: null, pause_ms, disable: false }
  }
  const scheduled_ms = Math.ceil(gap_ms * (1 + JITTER * input.random))
  return {
    state: 'waiting',
    charged: true,
    in_ms: Math.max(scheduled_ms, asked_ms),
    reason: asked_ms > scheduled_ms ? 'retry_after' : 'schedule',
    pause_ms,
    disable: false,
  }
}
