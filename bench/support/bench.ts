/** What a bench is: takes how long to measure, gives figures, its floor, and their ratio. */

export interface BenchOptions {
  /** Length of the timed parts, when asked for; counts are cut in proportion. */
  readonly seconds: number | undefined
  /** The large shape, where there is one. */
  readonly full: boolean
}

/** Numbers, perhaps in groups. */
export interface Figures {
  readonly [name: string]: number | Figures
}

export interface BenchResult {
  readonly figures: Figures
  /** The engine's own, measured in the same run. */
  readonly floor: Figures
  readonly ratio: Figures
  /** Why nothing of this counts: the ledger does not balance. */
  readonly void?: string
}

export type Bench = (options: BenchOptions) => Promise<BenchResult>

/** The usual length, or what was asked for. */
export const secondsOf = (options: BenchOptions, usual: number): number => Math.min(options.seconds ?? usual, usual)

/** The usual count, or less where shorter parts were asked for: so many a second asked. */
export const countOf = (options: BenchOptions, usual: number, per_second: number): number =>
  options.seconds === undefined ? usual : Math.min(usual, Math.ceil(options.seconds * per_second))

/** How often a measurement is taken: once where shorter parts were asked for. */
export const roundsOf = (options: BenchOptions, usual: number): number => (options.seconds === undefined ? usual : 1)

/** Collects what does not balance. */
export class Ledger {
  readonly #faults: string[] = []

  check(balances: boolean, fault: string): void {
    if (!balances) this.#faults.push(fault)
  }

  get result(): { void?: string } {
    return this.#faults.length ? { void: this.#faults.join('; ') } : {}
  }
}
