/** The clouds of one seed, and when what is wrong with them. */
import { expectNews } from '../motion/watcher.ts'
import type { CloudRow, Traits } from '../record/rows.ts'
import type { World } from '../world.ts'
import type { CloudModel } from './machines.ts'

/**
 * `silent` takes calls and never answers; `deaf` loses most replies, carried out or not, now or later; `duds` fail to
 * boot; `stubborn` refuses deletions; `lies` leaves machines out of complete lists, `lies_in_gets` denies them to gets and
 * deletions as well.
 */
export type SpellKind =
  | 'unreachable'
  | 'silent'
  | 'auth'
  | 'throttled'
  | 'full'
  | 'quota'
  | 'deaf'
  | 'duds'
  | 'stubborn'
  | 'lies'
  | 'lies_in_gets'

const S = 1_000
const MIN = 60 * S
const H = 60 * MIN
const D = 24 * H

/** How often a year, and for how long. */
const SPELLS: Record<SpellKind, { often: number; lasts: readonly [number, number] }> = {
  unreachable: { often: 10, lasts: [5 * S, 30 * MIN] },
  silent: { often: 6, lasts: [5 * S, 15 * MIN] },
  auth: { often: 3, lasts: [10 * S, 10 * MIN] },
  throttled: { often: 10, lasts: [10 * S, 30 * MIN] },
  full: { often: 8, lasts: [1 * MIN, 6 * H] },
  quota: { often: 4, lasts: [1 * MIN, 6 * H] },
  deaf: { often: 12, lasts: [1 * MIN, 2 * H] },
  duds: { often: 6, lasts: [1 * MIN, 2 * H] },
  stubborn: { often: 6, lasts: [10 * S, 30 * MIN] },
  lies: { often: 5, lasts: [10 * S, 1 * MIN] },
  lies_in_gets: { often: 3, lasts: [10 * S, 1 * MIN] },
}
/** One of so many clouds is away for days, once. */
const LONG_OUTAGE = 1 / 40

/** Four clouds of different make. */
export function makeClouds(world: World): void {
  const { chance } = world
  for (const name of ['north', 'east', 'south', 'west']) {
    const slow = chance.happens(0.5)
    const traits: Traits = {
      idempotency_tokens: name === 'north' || name === 'south',
      settle_ms: chance.spread(5 * S, 120 * S),
      call_timeout_ms: chance.pick([5 * S, 10 * S, 30 * S]),
      boot_timeout_ms: chance.pick([1 * MIN, 4 * MIN, 15 * MIN]),
      list_lag_ms: slow ? chance.spread(500, 20 * S) : 0,
      list_interval_ms: chance.pick([100, 500, 1_000]),
    }
    const row: CloudRow = {
      name,
      traits,
      enabled: true,
      allocation: chance.happens(0.5) ? chance.whole(10, 60) : null,
      state: 'unknown',
      last_list_sent_at: null,
      watch_epoch: 1,
      claims: new Set(),
      open: new Set(),
      given_up: new Set(),
      instances: new Set(),
    }
    const cloud: CloudModel = {
      row,
      machines: new Map(),
      tokens: new Map(),
      capacity: chance.spread(15, 300),
      boot_ms: [chance.spread(500, 5 * S), chance.spread(6 * S, 5 * MIN)],
      delete_ms: [chance.spread(50, 1 * S), chance.spread(2 * S, 60 * S)],
      visible_ms: chance.happens(0.3) ? chance.spread(1 * S, 10 * MIN) : 0,
      spells: new Map(),
      fine_since: world.now,
      made: 0,
    }
    world.record.clouds.push(row)
    world.record.hosts.push({ id: `host of ${name}`, cloud: row, held_by: null })
    world.clouds.set(row, cloud)
    world.say(name, JSON.stringify({ ...traits, allocation: row.allocation, capacity: cloud.capacity }))
    expectNews(world, row)
  }
}

/** Puts down what goes wrong in the year: for the most part while something is going on. */
export function drawWeather(world: World, years: number, busy: readonly number[], calm_at: number): void {
  const { chance } = world
  const begun_at = world.now
  for (const cloud of world.clouds.values()) {
    for (const [kind, { often, lasts }] of Object.entries(SPELLS) as [SpellKind, (typeof SPELLS)[SpellKind]][]) {
      for (let count = chance.whole(0, 2 * often * years); count > 0; count--) {
        const from = chance.happens(0.7)
          ? chance.pick(busy) + chance.whole(-30 * MIN, 2 * H)
          : chance.whole(begun_at, calm_at)
        spell(world, cloud, kind, Math.max(begun_at, from), chance.spread(...lasts), calm_at)
      }
    }
    if (chance.happens(LONG_OUTAGE))
      spell(world, cloud, 'unreachable', chance.pick(busy), chance.spread(6 * H, 3 * D), calm_at)
  }
}

function spell(world: World, cloud: CloudModel, kind: SpellKind, from: number, lasts: number, calm_at: number): void {
  const until = Math.min(calm_at, from + lasts)
  if (until <= from) return
  if (kind === 'lies_in_gets') spell(world, cloud, 'lies', from, lasts, calm_at)
  const turn = (by: 1 | -1) => (): void => {
    cloud.spells.set(kind, (cloud.spells.get(kind) ?? 0) + by)
    const wrong = [...cloud.spells.values()].some((count) => count > 0)
    cloud.fine_since = wrong ? null : world.now
    world.say(cloud.row.name, `${kind} ${by > 0 ? 'begins' : 'ends'}`)
    expectNews(world, cloud.row)
  }
  world.agenda.put(from, turn(1))
  world.agenda.put(until, turn(-1))
}
