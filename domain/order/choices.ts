/** In which order each instance of an order tries its clouds. */
import type { Placement } from '../launch-order.ts'

/**
 * Places in the order's list of clouds as an instance tries them. `allowed`: those it may go to, by preference; `turn`: how
 * manieth instance it is; `price`: what its size costs at one of them, undefined where nobody says, which comes last.
 */
export function choicesOf(
  placement: Placement,
  allowed: readonly number[],
  turn: number,
  price: (index: number) => number | undefined,
): readonly number[] {
  if (placement === 'spread') {
    const first = turn % allowed.length
    return [...allowed.slice(first), ...allowed.slice(0, first)]
  }
  if (placement === 'cheapest')
    return allowed.toSorted((a, b) => (price(a) ?? Number.MAX_VALUE) - (price(b) ?? Number.MAX_VALUE))
  return allowed
}
