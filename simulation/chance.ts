/** Chance that can be repeated: the same seed gives the same draws, in the same order. */
export interface Chance {
  /** Uniform in 0…1. */
  next(): number
  /** True so often. */
  happens(probability: number): boolean
  /** Uniform, whole, both included. */
  whole(low: number, high: number): number
  /** Spread evenly over the orders of magnitude between the two; whole. */
  spread(low: number, high: number): number
  pick<T>(from: readonly T[]): T
  shuffled<T>(from: readonly T[]): T[]
}

/** mulberry32 */
export function chanceOf(seed: number): Chance {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const whole = (low: number, high: number): number => low + Math.floor(next() * (high - low + 1))
  return {
    next,
    happens: (probability) => next() < probability,
    whole,
    spread: (low, high) => Math.round(low * (high / low) ** next()),
    pick: (from) => from[whole(0, from.length - 1)]!,
    shuffled(from) {
      const cards = [...from]
      for (let last = cards.length - 1; last > 0; last--) {
        const other = whole(0, last)
        ;[cards[last], cards[other]] = [cards[other]!, cards[last]!]
      }
      return cards
    },
  }
}
