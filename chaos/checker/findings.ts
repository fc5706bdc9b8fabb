/** The verdict, and how violations are gathered for it: each counted once, however many proofs there are. */

export interface JudgeOptions {
  /** The longest declared time after which an unanswered create can no longer be carried out. */
  readonly settle_ms: number
  /** The longest time between two looks at a cloud, outages included. */
  readonly watch_period_ms: number
  /** What the record's clock is ahead of real time. */
  readonly clock_offset_ms?: number
  /** Faults were injected: duplicates are allowed. */
  readonly faults?: boolean
}

export const COUNTERS = [
  'lost',
  'twins',
  'leaked',
  'early',
  'gaps',
  'inversions',
  'phantoms',
  'stuck',
  'receipts',
  'shared_hosts',
  'uncaused',
  'disagreements',
  'duplicates',
] as const
export type Counter = (typeof COUNTERS)[number]

export interface Verdict extends Readonly<Record<Counter, number>> {
  readonly ok: boolean
  /** How long after its moment each act of a lease came. */
  readonly late_ms: { readonly p50: number; readonly p99: number; readonly max: number }
  /** The longest time in which two machines of one item were both in use, within the grace or beyond. */
  readonly longest_twin_ms: number
  /** One line for each proof: counter, resource, what, and the times. */
  readonly violations: readonly string[]
  /** What could not be judged, because its ledger was not to be read. */
  readonly unjudged: readonly string[]
}

export class Findings {
  readonly #keys = new Map<Counter, Set<string>>(COUNTERS.map((counter) => [counter, new Set<string>()]))
  readonly #lines = new Set<string>()
  readonly #late_ms: number[] = []
  #longest_twin_ms = 0
  readonly unjudged = new Set<string>()

  /** Notes a violation of `subject`. The same subject counts once; every different line of evidence is kept. */
  note(counter: Counter, subject: string, evidence: string): void {
    this.#keys.get(counter)!.add(subject)
    this.#lines.add(`${counter}: ${subject}: ${evidence}`)
  }

  late(late_ms: number): void {
    this.#late_ms.push(Math.max(0, late_ms))
  }

  twin(both_ms: number): void {
    this.#longest_twin_ms = Math.max(this.#longest_twin_ms, both_ms)
  }

  verdict(options: JudgeOptions): Verdict {
    const count = (counter: Counter): number => this.#keys.get(counter)!.size
    const counts = Object.fromEntries(COUNTERS.map((counter) => [counter, count(counter)])) as Record<Counter, number>
    const late = this.#late_ms.toSorted((a, b) => a - b)
    const percentile = (share: number): number => late[Math.max(0, Math.ceil(late.length * share) - 1)] ?? 0
    return {
      ok: COUNTERS.every((counter) => counts[counter] === 0 || (counter === 'duplicates' && options.faults === true)),
      ...counts,
      late_ms: { p50: percentile(0.5), p99: percentile(0.99), max: late.at(-1) ?? 0 },
      longest_twin_ms: this.#longest_twin_ms,
      violations: [...this.#lines].toSorted(),
      unjudged: [...this.unjudged].toSorted(),
    }
  }
}

/** A moment as evidence shows it. */
export const at = (ms: number | null | undefined): string =>
  ms === null || ms === undefined ? 'never' : new Date(ms).toISOString()
