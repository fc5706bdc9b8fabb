/** One seed: a year of orders on clouds where everything goes wrong, judged after each step. */
import { createHash } from 'node:crypto'
import { decideInstance } from '../domain/instance.ts'
import { decideLease } from '../domain/lease.ts'
import { decideOrder } from '../domain/order/decide.ts'
import { newAgenda } from './agenda.ts'
import { chanceOf } from './chance.ts'
import { drawWeather, makeClouds } from './cloud/weather.ts'
import { AT_THE_END } from './judge/at-the-end.ts'
import { INVARIANTS, type Invariant } from './judge/invariants.ts'
import { drawBusyTimes, drawPeople, removalOn } from './motion/people.ts'
import { bindMachines, markSent } from './record/attempts.ts'
import { releaseClaims } from './record/claims.ts'
import { markMissing } from './record/watch.ts'
import type { Rules, Store, World } from './world.ts'

const BEGINS_AT = Date.UTC(2026, 0, 1)
const YEAR_MS = 365 * 86_400_000
/** Before the end everything is healthy for so long. */
const CALM_MS = 2 * 86_400_000
/** A run that does not come to its end is a finding of its own. */
const STEPS_MAX = 2_000_000

export interface RunOptions {
  readonly seed: number
  readonly years: number
  /** Rules and functions of the record to be used instead of the real ones. */
  readonly rules?: Partial<Rules>
  readonly store?: Partial<Store>
  /** The only invariant to judge by. */
  readonly invariant?: string
  /** Hears of every line of the run. */
  readonly trace?: (line: Line) => void
}

export interface Line {
  readonly step: number
  readonly at: number
  readonly noun: string
  readonly what: string
}

export interface Violation extends Line {
  readonly seed: number
  readonly invariant: string
}

export interface RunResult {
  readonly steps: number
  readonly orders: number
  readonly machines: number
  readonly digest: string
  /** Of the first step that has any: what comes after would only follow from it. */
  readonly violations: readonly Violation[]
}

export function runSeed(options: RunOptions): RunResult {
  const digest = createHash('sha256')
  let text = ''
  const world = makeWorld(options, (noun, what) => {
    text += `${world.step.number} ${world.now} ${noun} ${what}\n`
    if (text.length > 65_536) {
      digest.update(text)
      text = ''
    }
    options.trace?.({ step: world.step.number, at: world.now, noun, what })
  })
  const violations = live(world, options)
  let machines = 0
  for (const cloud of world.clouds.values()) machines += cloud.made
  return {
    steps: world.step.number,
    orders: world.record.orders.length,
    machines,
    digest: digest.update(text).digest('hex'),
    violations,
  }
}

function makeWorld({ seed, years, rules, store }: RunOptions, say: World['say']): World {
  return {
    now: BEGINS_AT,
    ends_at: BEGINS_AT + years * YEAR_MS,
    chance: chanceOf(seed),
    agenda: newAgenda(),
    rules: { decideOrder, decideInstance, decideLease, ...rules },
    store: { markSent, bindMachines, releaseClaims, markMissing, ...store },
    record: {
      clouds: [],
      orders: [],
      leases: [],
      hosts: [],
      attempts: new Map(),
      automatic_removal: true,
      removal_on_at: 0,
    },
    clouds: new Map(),
    watchers: new Map(),
    made: new Map(),
    flows: new Map(),
    outbox: new Map(),
    minded: new Map(),
    step: { number: 0, acts: [], orders: new Set(), clouds: new Set() },
    watched: new Map(),
    looks: new Map(),
    calm: false,
    say,
  }
}

function live(world: World, { seed, years, invariant }: RunOptions): Violation[] {
  const calm_at = world.ends_at - CALM_MS
  makeClouds(world)
  const busy = drawBusyTimes(world, years, calm_at)
  drawWeather(world, years, busy, calm_at)
  drawPeople(world, years, busy, calm_at)
  world.agenda.put(calm_at, () => calmDown(world))
  const { step, agenda } = world
  const only = (all: Named): Named => (invariant ? all.filter(([name]) => name === invariant) : all)
  const after_each_step = only(Object.entries(INVARIANTS))
  for (;;) {
    const entry = agenda.next()
    if (!entry || entry.at > world.ends_at) break
    world.now = entry.at
    step.number++
    entry.run()
    if (step.acts.length || step.orders.size || step.clouds.size) {
      const found = judge(world, seed, after_each_step)
      if (found.length) return found
      step.acts.length = 0
      step.orders.clear()
      step.clouds.clear()
    }
    if (step.number >= STEPS_MAX * years) {
      const what = `takes more than ${STEPS_MAX} steps`
      return [{ seed, invariant: 'comes_to_an_end', step: step.number, at: world.now, noun: 'year', what }]
    }
  }
  world.now = world.ends_at
  return judge(world, seed, only(Object.entries(AT_THE_END)))
}

type Named = readonly (readonly [string, Invariant])[]

function judge(world: World, seed: number, invariants: Named): Violation[] {
  const found: Violation[] = []
  for (const [invariant, holds] of invariants)
    holds(world, (noun, what) => {
      found.push({ seed, invariant, step: world.step.number, at: world.now, noun, what })
    })
  return found
}

/** From here on nothing goes wrong, and clouds have room. */
function calmDown(world: World): void {
  world.calm = true
  world.say('year', 'everything is healthy from here on')
  for (const row of world.record.clouds) Object.assign(row, { enabled: true, allocation: null })
  removalOn(world)
}
