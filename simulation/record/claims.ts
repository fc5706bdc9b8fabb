/** Claims, as in store/claims.ts: a row for each attempt, released once. */
import { orderFlow, wake } from '../motion/wakes.ts'
import { tell, type World } from '../world.ts'
import { isFinal } from './change.ts'
import type { AttemptRow } from './rows.ts'

export function claim(world: World, attempt: AttemptRow): void {
  attempt.cloud.claims.add(attempt)
  world.step.clouds.add(attempt.cloud)
  tell(world, { act: 'claimed', attempt, claimed: attempt.cloud.claims.size })
}

/** Releases capacity and wakes orders that wait for some, the oldest first. */
export function releaseClaims(world: World, attempts: readonly AttemptRow[]): void {
  const released = attempts.filter((attempt) => attempt.cloud.claims.delete(attempt))
  if (!released.length) return
  const clouds = new Set(released.map(({ cloud }) => cloud))
  for (const attempt of released) {
    world.step.clouds.add(attempt.cloud)
    tell(world, { act: 'released', attempt })
  }
  const waiting = world.record.orders.filter(
    (order) =>
      order.blocker?.code === 'allocation_exhausted' &&
      !isFinal(order.state) &&
      order.clouds.some((cloud) => clouds.has(cloud)),
  )
  for (const order of waiting.slice(0, released.length)) wake(world, orderFlow(order))
}
