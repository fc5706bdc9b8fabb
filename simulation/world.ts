/** Everything that one simulated year consists of, and the steps that it advances by. */
import type { decideInstance } from '../domain/instance.ts'
import type { decideLease } from '../domain/lease.ts'
import type { decideOrder } from '../domain/order/decide.ts'
import type { Agenda } from './agenda.ts'
import type { Chance } from './chance.ts'
import type { CloudModel, Machine } from './cloud/machines.ts'
import type { Act } from './judge/acts.ts'
import type { Flow } from './motion/flows.ts'
import type { WakeRow } from './motion/wakes.ts'
import type { Watcher } from './motion/watcher.ts'
import type { bindMachines, markSent } from './record/attempts.ts'
import type { releaseClaims } from './record/claims.ts'
import type { CloudRow, ItemRow, OrderRow, RecordModel } from './record/rows.ts'
import type { markMissing } from './record/watch.ts'

/** The rules under test. */
export interface Rules {
  readonly decideOrder: typeof decideOrder
  readonly decideInstance: typeof decideInstance
  readonly decideLease: typeof decideLease
}

/** Functions of the model record that a test may replace by worse ones. */
export interface Store {
  readonly markSent: typeof markSent
  readonly bindMachines: typeof bindMachines
  readonly markMissing: typeof markMissing
  readonly releaseClaims: typeof releaseClaims
}

/** What one step did, for the judge. */
export interface Step {
  number: number
  readonly acts: Act[]
  readonly orders: Set<OrderRow>
  readonly clouds: Set<CloudRow>
}

export interface World {
  /** Simulated time, in ms. */
  now: number
  readonly ends_at: number
  readonly chance: Chance
  readonly agenda: Agenda
  readonly rules: Rules
  readonly store: Store
  readonly record: RecordModel
  readonly clouds: Map<CloudRow, CloudModel>
  readonly watchers: Map<CloudRow, Watcher>
  /** Machines of an item that are not gone. */
  readonly made: Map<ItemRow, Machine[]>
  readonly flows: Map<string, Flow>
  /** Wakes on their way, by flow. */
  readonly outbox: Map<string, WakeRow[]>
  /** When housekeeping looks at a noun next. */
  readonly minded: Map<string, number>
  readonly step: Step
  /** Orders that are judged again at a moment. */
  readonly watched: Map<OrderRow, number>
  /** How often each noun was planned in its last second. */
  readonly looks: Map<string, { second: number; count: number }>
  /** Nothing goes wrong any more. */
  calm: boolean
  /** One line of the run, about a noun. */
  readonly say: (noun: string, what: string) => void
}

/** Puts something down for later. */
export function after(world: World, delay_ms: number, run: () => void): void {
  world.agenda.put(world.now + Math.max(0, delay_ms), run)
}

/** True so often, and never in calm times. */
export const strikes = (world: World, probability: number): boolean => !world.calm && world.chance.happens(probability)

/** The order is judged after this step. */
export const touch = (world: World, order: OrderRow): void => {
  world.step.orders.add(order)
}

/** What happened in this step, for the judge. */
export const tell = (world: World, act: Act): void => {
  world.step.acts.push(act)
}
