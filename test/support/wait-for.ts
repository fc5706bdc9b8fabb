/** Waiting for a condition instead of for a time. */
import { setTimeout as delay } from 'node:timers/promises'

export interface WaitOptions {
  /** What is waited for, told when it does not come. */
  readonly what: string
  readonly timeout_ms?: number
  readonly interval_ms?: number
  /** A check that throws ends the wait: whoever is asked may die, and is not asked again. */
  readonly errors_end?: boolean
}

/**
 * Asks again and again until `check` returns something truthy, and returns that. A check that throws has not been
 * fulfilled yet; its last error is the cause of the time-out.
 */
export async function waitFor<Result>(
  check: () => Result | Promise<Result>,
  { what, timeout_ms = 5_000, interval_ms = 10, errors_end = false }: WaitOptions,
): Promise<NonNullable<Exclude<Result, false | 0 | ''>>> {
  const deadline = performance.now() + timeout_ms
  let cause: unknown
  for (;;) {
    try {
      const result = await check()
      if (result) return result as NonNullable<Exclude<Result, false | 0 | ''>>
      cause = undefined
    } catch (error) {
      if (errors_end) throw error
      cause = error
    }
    if (performance.now() >= deadline) throw new Error(`waited ${timeout_ms} ms in vain for ${what}`, { cause })
    await delay(interval_ms)
  }
}
