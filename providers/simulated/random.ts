/**
 * Randomness that repeats: every draw is a hash of the cloud's seed, what is drawn, and the how-manieth draw it is.
 * Nothing depends on timing or on what other draws were made, and nothing needs to be saved over a restart.
 */
import { hash } from 'node:crypto'
import type { Latency } from './configuration.ts'

/** A number in [0, 1) that is the same for the same arguments. */
export function draw(seed: number, what: string, number: number | string): number {
  return Number.parseInt(hash('sha256', `${seed}/${what}/${number}`).slice(0, 12), 16) / 2 ** 48
}

/** A time drawn from its distribution, in whole milliseconds. */
export function drawLatency(latency: Latency, seed: number, what: string, number: number | string): number {
  if (typeof latency === 'number') return Math.round(latency)
  const random = draw(seed, what, number)
  if ('uniform_ms' in latency) {
    const [low_ms, high_ms] = latency.uniform_ms
    return Math.round(low_ms + (high_ms - low_ms) * random)
  }
  return Math.round(-Math.log(1 - random) * latency.exponential_ms)
}
