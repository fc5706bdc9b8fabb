/**
 * Watchers, as in activities/watch.ts: list a cloud, compare, write down. Only looks that can find something new are
 * simulated: between those a watcher looks on in its period and changes nothing.
 */
import { answerGet, answerList, type CloudModel, isThere, type Listed } from '../cloud/machines.ts'
import type { CloudRow } from '../record/rows.ts'
import { countAbsent, observeList, takeBack } from '../record/watch.ts'
import { after, strikes, type World } from '../world.ts'

const PERIOD_MS = { fresh: 100, pending: 1_000, calm: 28_000, empty: 300_000, unreachable: 5_000 }
const DIES = 0.002

export interface Watcher {
  /** When it looks next; null: not before there is news. */
  looks_at: number | null
  /** What may be new shows in lists that are sent after this. */
  news_until: number
  /** Away until then: it died and comes up again. */
  away_until: number
  /** Drawn once: the place of its looks in its period. */
  readonly phase: number
}

const watcherOf = (world: World, row: CloudRow): Watcher => {
  let watcher = world.watchers.get(row)
  if (!watcher) {
    watcher = { looks_at: null, news_until: 0, away_until: 0, phase: world.chance.next() }
    world.watchers.set(row, watcher)
  }
  return watcher
}

/** How often a cloud is looked at: by what is going on there. */
function periodOf(world: World, row: CloudRow): number {
  const { now } = world
  let pending = false
  let alive = row.given_up.size > 0
  let fresh = false
  if (row.state === 'unreachable' || row.state === 'refused') return PERIOD_MS.unreachable
  for (const { state } of row.open) if (state === 'sent' || state === 'unknown') pending = true
  for (const { state, absent_lists, acknowledged_at } of row.instances) {
    if (state === 'failed') continue
    alive = true
    if (state === 'starting' || absent_lists > 0) pending = true
    if (state === 'starting' && acknowledged_at! > now - 5_000) fresh = true
  }
  const period = fresh ? 'fresh' : pending ? 'pending' : alive ? 'calm' : 'empty'
  return Math.max(PERIOD_MS[period], row.traits.list_interval_ms)
}

/** When the last complete list was sent, those that nothing new was found in included. */
export function listedAt(world: World, row: CloudRow): number | null {
  if (row.state !== 'ok') return null
  const watcher = watcherOf(world, row)
  const known = row.last_list_sent_at ?? world.now
  if (watcher.away_until > world.now || !canBeListed(world.clouds.get(row)!)) return known
  return Math.max(known, world.now - Math.ceil(watcher.phase * periodOf(world, row)))
}

const canBeListed = ({ spells }: CloudModel): boolean =>
  !(['unreachable', 'silent', 'auth'] as const).some((kind) => (spells.get(kind) ?? 0) > 0)

/** Something changed at a cloud, or with the cloud itself: lists will show it. */
export function expectNews(world: World, row: CloudRow): void {
  const watcher = watcherOf(world, row)
  watcher.news_until = Math.max(watcher.news_until, world.now + row.traits.list_lag_ms)
  lookIn(world, row, watcher, world.chance.next() * periodOf(world, row))
}

/** The record has something to be looked for: the watcher is told, unless the hint is lost. */
export function hintWatch(world: World, row: CloudRow): void {
  const watcher = watcherOf(world, row)
  watcher.news_until = Math.max(watcher.news_until, world.now + row.traits.list_lag_ms)
  const in_ms = strikes(world, 0.05) ? world.chance.next() * 5_000 : row.traits.list_interval_ms
  lookIn(world, row, watcher, in_ms)
}

function lookIn(world: World, row: CloudRow, watcher: Watcher, in_ms: number): void {
  const at = Math.ceil(Math.max(world.now + in_ms, watcher.away_until))
  if (watcher.looks_at !== null && watcher.looks_at <= at) return
  watcher.looks_at = at
  world.agenda.put(at, () => {
    if (watcher.looks_at !== at) return
    watcher.looks_at = null
    look(world, row, watcher)
  })
}

function look(world: World, row: CloudRow, watcher: Watcher): void {
  const { chance } = world
  if (strikes(world, DIES)) {
    restart(world, row, watcher)
    return
  }
  const sent_at = world.now
  const epoch = row.watch_epoch
  const answer = answerList(world, row)
  after(world, chance.whole(5, 300), () => {
    if (row.watch_epoch !== epoch) return world.say(row.name, 'a watcher that was replaced writes nothing')
    if ('error' in answer) {
      note(world, row, answer.error === 'auth' ? 'refused' : 'unreachable')
      return lookIn(world, row, watcher, PERIOD_MS.unreachable)
    }
    const found = write(world, row, answer, sent_at)
    if (found || sent_at <= watcher.news_until) lookIn(world, row, watcher, periodOf(world, row))
  })
}

/** Writes down what a list showed; true: another look may find more. */
function write(world: World, row: CloudRow, listed: readonly Listed[], sent_at: number): boolean {
  const { chance } = world
  const { news, returned } = observeList(world, listed, sent_at)
  note(world, row, 'ok')
  row.last_list_sent_at = sent_at
  const { counted, absent } = countAbsent(row, listed, sent_at)
  const epoch = row.watch_epoch
  const missing = absent.filter((instance) => answerGet(world, instance) === null)
  const back = returned.map((attempt) => ({ attempt, state: answerGet(world, attempt) }))
  const proved_at = world.now
  if (absent.length + returned.length)
    after(world, chance.whole(5, 300), () => {
      if (row.watch_epoch !== epoch) return
      world.store.markMissing(world, row, missing, proved_at)
      for (const { attempt, state } of back) if (state && isThere(state)) takeBack(world, attempt, state)
    })
  return news || counted || returned.length > 0
}

function note(world: World, row: CloudRow, state: CloudRow['state']): void {
  if (row.state === state) return
  world.say(row.name, `${row.state} → ${state}`)
  row.state = state
}

/** The watcher dies and comes up again with a new epoch; now and then while the old one still believes in itself. */
function restart(world: World, row: CloudRow, watcher: Watcher): void {
  world.say(row.name, 'its watcher dies')
  watcher.away_until = world.now + world.chance.spread(200, 60_000)
  row.watch_epoch++
  watcher.news_until = Math.max(watcher.news_until, watcher.away_until)
  lookIn(world, row, watcher, 0)
}
