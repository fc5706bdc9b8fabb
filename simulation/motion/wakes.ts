/** Wakes: "look again at this". They come doubled, late, or not at all. */
import type { InstanceRow, LeaseRow, OrderRow } from '../record/rows.ts'
import { after, strikes, type World } from '../world.ts'
import { lookAgain } from './flows.ts'
import { mindSettled } from './housekeeping.ts'

/** A flow, by its id and what it looks after. */
export type Target =
  | { readonly kind: 'order'; readonly id: string; readonly row: OrderRow }
  | { readonly kind: 'instance'; readonly id: string; readonly row: InstanceRow }
  | { readonly kind: 'lease'; readonly id: string; readonly row: LeaseRow }

export const orderFlow = (row: OrderRow): Target => ({ kind: 'order', id: row.id, row })
export const instanceFlow = (row: InstanceRow): Target => ({ kind: 'instance', id: row.id, row })
export const leaseFlow = (row: LeaseRow): Target => ({ kind: 'lease', id: row.id, row })

/** A row of the outbox. */
export interface WakeRow {
  readonly at: number
  answered: boolean
}

const LOST = 0.01
const LATE = 0.02
const DOUBLED = 0.02

/** Queues a wake; `until`: the noun is attended until then and looks again by itself. */
export function wake(world: World, target: Target, delay_ms = 0, until: number | null = null): void {
  const { chance, outbox } = world
  if (target.kind === 'order') mindSettled(world, target.row)
  if (strikes(world, LOST)) {
    world.say(target.id, 'a wake is lost')
    return
  }
  const relay_ms = strikes(world, LATE) ? chance.spread(1_000, 60_000) : chance.whole(1, 40)
  const at = Math.max(world.now + delay_ms, until ?? 0) + relay_ms
  const waiting = outbox.get(target.id) ?? []
  if (waiting.some((row) => !row.answered && row.at <= at)) return
  const row: WakeRow = { at, answered: false }
  outbox.set(target.id, [...waiting.filter(({ answered }) => !answered), row])
  world.agenda.put(at, () => {
    if (row.answered) return
    row.answered = true
    lookAgain(world, target)
    if (strikes(world, DOUBLED)) after(world, chance.spread(1, 10_000), () => lookAgain(world, target))
  })
}

/** A plan answers every wake that it can see. */
export function answerWakes(world: World, target: Target): void {
  for (const row of world.outbox.get(target.id) ?? []) row.answered = true
  world.outbox.delete(target.id)
}

/** A step of the order is about to look again by itself: wakes of others wait for that. */
export function attend(world: World, order: OrderRow, for_ms: number): void {
  order.attended_until = world.now + for_ms
}
