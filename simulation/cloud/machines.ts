/** A cloud and its machines: what it carries out, what it answers, and what of it reaches the caller. */
import { expectNews } from '../motion/watcher.ts'
import type { AttemptRow, CloudRow, ItemRow, OrderRow } from '../record/rows.ts'
import { after, strikes, type World } from '../world.ts'
import type { SpellKind } from './weather.ts'

export type MachineState = 'starting' | 'running' | 'failed' | 'terminating' | 'terminated'

export interface Machine {
  readonly provider_id: string
  readonly attempt_id: string
  readonly item: ItemRow
  readonly cloud: CloudModel
  readonly created_at: number
  /** Its states, each with its time; a list that lags tells an earlier one. */
  readonly history: { readonly at: number; readonly state: MachineState }[]
  /** So many requests to delete it come to nothing. */
  asks_left: number
  /** Its deletion was taken on. */
  doomed_at: number | null
  gone_at: number | null
  /** From then on the cloud knows nothing of it. May lie ahead. */
  forgotten_at: number | null
}

export interface CloudModel {
  readonly row: CloudRow
  readonly machines: Map<string, Machine>
  readonly tokens: Map<string, Machine>
  readonly capacity: number
  readonly boot_ms: readonly [number, number]
  readonly delete_ms: readonly [number, number]
  /** So long it shows what is terminated. */
  readonly visible_ms: number
  /** What is wrong with it now, and how often over. */
  readonly spells: Map<SpellKind, number>
  /** Since when nothing has been wrong; null: something is. */
  fine_since: number | null
  made: number
}

/** Alive as its cloud tells it, and not on its way out. */
export const isThere = (state: MachineState): boolean => state !== 'terminating' && state !== 'terminated'

export const stateOf = (machine: Machine): MachineState => machine.history.at(-1)!.state

/** Alive, and nobody has taken on its deletion. */
export const isInUse = (machine: Machine): boolean =>
  machine.gone_at === null && machine.doomed_at === null && stateOf(machine) !== 'failed'

export const machineAt = (world: World, row: CloudRow, provider_id: string): Machine | undefined =>
  world.clouds.get(row)!.machines.get(provider_id)

export const has = (cloud: CloudModel, kind: SpellKind): boolean => (cloud.spells.get(kind) ?? 0) > 0

interface Refusal {
  readonly class: string
  readonly retry_after_ms?: number
}

/** What meets every call before it is carried out; null: nothing. */
function refusal(world: World, cloud: CloudModel, order: OrderRow): (Refusal & { in_ms: number }) | null {
  const { chance } = world
  const { call_timeout_ms } = cloud.row.traits
  if (has(cloud, 'silent')) return { class: 'lost_reply', in_ms: call_timeout_ms }
  if (has(cloud, 'unreachable')) return { class: 'unavailable', in_ms: chance.whole(5, 200) }
  if (has(cloud, 'auth') || order.credential !== 'ok') return { class: 'auth', in_ms: chance.whole(20, 200) }
  if (has(cloud, 'throttled') && chance.happens(0.7)) {
    const told = chance.happens(0.7) ? { retry_after_ms: chance.spread(200, 30_000) } : {}
    return { class: 'throttled', in_ms: chance.whole(5, 100), ...told }
  }
  return null
}

export interface CreateAnswer {
  readonly in_ms: number
  readonly provider_id?: string
  readonly error?: Refusal
}

/** A create arrives at the cloud. */
export function answerCreate(world: World, attempt: AttemptRow): CreateAnswer {
  const { chance } = world
  const cloud = world.clouds.get(attempt.cloud)!
  const { call_timeout_ms, settle_ms } = cloud.row.traits
  const refused = refusal(world, cloud, attempt.item.order)
  if (refused) {
    const { in_ms, ...error } = refused
    return { in_ms, error }
  }
  if (strikes(world, 0.002)) return { in_ms: 50, error: { class: chance.pick(['invalid', 'not_found', 'conflict']) } }
  const loses = strikes(world, has(cloud, 'deaf') ? 0.6 : 0.01)
  if (!loses) {
    const made = make(world, cloud, attempt)
    const in_ms = chance.whole(20, Math.min(3_000, call_timeout_ms - 1))
    return typeof made === 'string' ? { in_ms, error: { class: made } } : { in_ms, provider_id: made.provider_id }
  }
  const fate = chance.next()
  if (fate < 0.4) make(world, cloud, attempt)
  else if (fate < 0.7) {
    // Seldom even later than the cloud declares.
    const latest = (call_timeout_ms + settle_ms) * (chance.happens(0.1) ? 5 : 1)
    after(world, chance.spread(500, latest), () => make(world, cloud, attempt))
  }
  return { in_ms: chance.happens(0.5) ? call_timeout_ms : chance.whole(10, 500), error: { class: 'lost_reply' } }
}

/** Makes a machine, or tells the one that was made for the same token, or refuses. */
function make(world: World, cloud: CloudModel, attempt: AttemptRow): Machine | 'capacity' | 'quota' {
  const { chance } = world
  const known = cloud.row.traits.idempotency_tokens ? cloud.tokens.get(attempt.id) : undefined
  if (known) return known
  let alive = 0
  for (const machine of cloud.machines.values()) if (machine.gone_at === null) alive++
  if (has(cloud, 'quota')) return 'quota'
  if (alive >= cloud.capacity || has(cloud, 'full')) return 'capacity'
  const machine: Machine = {
    provider_id: `${cloud.row.name}-${++cloud.made}`,
    attempt_id: attempt.id,
    item: attempt.item,
    cloud,
    created_at: world.now,
    history: [{ at: world.now, state: 'starting' }],
    asks_left: strikes(world, 0.05) ? chance.whole(1, 8) : 0,
    doomed_at: null,
    gone_at: null,
    forgotten_at: null,
  }
  cloud.machines.set(machine.provider_id, machine)
  cloud.tokens.set(attempt.id, machine)
  world.made.set(attempt.item, [...(world.made.get(attempt.item) ?? []), machine])
  world.step.orders.add(attempt.item.order)
  world.step.clouds.add(cloud.row)
  world.say(attempt.id, `${machine.provider_id} is made`)
  expectNews(world, cloud.row)
  if (strikes(world, 0.002)) return machine // it never boots
  const fails = strikes(world, has(cloud, 'duds') ? 0.5 : 0.01)
  after(world, chance.spread(...cloud.boot_ms), () => boot(world, machine, fails))
  if (strikes(world, 0.01)) after(world, chance.spread(100, 60_000), () => vanish(world, machine))
  return machine
}

function boot(world: World, machine: Machine, fails: boolean): void {
  if (machine.doomed_at !== null || machine.gone_at !== null) return
  move(world, machine, fails ? 'failed' : 'running')
  if (strikes(world, 0.06)) after(world, world.chance.spread(10_000, 200 * 86_400_000), () => die(world, machine))
  if (strikes(world, 0.04)) after(world, world.chance.spread(10_000, 200 * 86_400_000), () => vanish(world, machine))
}

function die(world: World, machine: Machine): void {
  if (!world.calm && isInUse(machine)) move(world, machine, 'failed')
}

function vanish(world: World, machine: Machine): void {
  if (world.calm || machine.gone_at !== null) return
  machine.forgotten_at = world.now
  depart(world, machine, 'vanished')
}

function move(world: World, machine: Machine, state: MachineState): void {
  machine.history.push({ at: world.now, state })
  world.say(machine.attempt_id, `${machine.provider_id} is ${state}`)
  world.step.orders.add(machine.item.order)
  expectNews(world, machine.cloud.row)
}

function depart(world: World, machine: Machine, how: string): void {
  machine.gone_at = world.now
  move(world, machine, 'terminated')
  world.say(machine.attempt_id, `${machine.provider_id} ${how}`)
  world.step.clouds.add(machine.cloud.row)
  const others = world.made.get(machine.item)!.filter((other) => other !== machine)
  world.made.set(machine.item, others)
}

export interface DeleteAnswer {
  readonly in_ms: number
  readonly outcome: 'accepted' | 'not_found' | Refusal
}

/** A request to delete a machine arrives at the cloud. */
export function answerDelete(world: World, attempt: AttemptRow): DeleteAnswer {
  const { chance } = world
  const { cloud: row, provider_id, item } = attempt
  const cloud = world.clouds.get(row)!
  const refused = refusal(world, cloud, item.order)
  if (refused) {
    const { in_ms, ...outcome } = refused
    return { in_ms, outcome }
  }
  const in_ms = chance.whole(20, 500)
  const machine = cloud.machines.get(provider_id!)
  const is_forgotten = !machine || (machine.forgotten_at !== null && machine.forgotten_at <= world.now)
  if (is_forgotten || has(cloud, 'lies_in_gets')) return { in_ms, outcome: 'not_found' }
  if (machine.doomed_at === null && strikes(world, has(cloud, 'stubborn') ? 0.8 : 0.01))
    return { in_ms, outcome: { class: 'conflict' } }
  if (machine.doomed_at === null && machine.asks_left > 0) machine.asks_left--
  else if (machine.doomed_at === null) doom(world, cloud, machine)
  const loses = strikes(world, has(cloud, 'deaf') ? 0.4 : 0.01)
  return loses
    ? { in_ms: row.traits.call_timeout_ms, outcome: { class: 'lost_reply' } }
    : { in_ms, outcome: 'accepted' }
}

function doom(world: World, cloud: CloudModel, machine: Machine): void {
  machine.doomed_at = world.now
  if (machine.gone_at !== null) return
  move(world, machine, 'terminating')
  const in_ms = world.chance.spread(...cloud.delete_ms)
  machine.forgotten_at = world.now + in_ms + cloud.visible_ms
  after(world, in_ms, () => {
    if (machine.gone_at === null) depart(world, machine, 'is deleted')
  })
}

/** One line of a list. */
export interface Listed {
  readonly provider_id: string
  readonly attempt_id: string
  readonly state: MachineState
}

/** A complete list, as old as the cloud declares at most; a cloud that lies leaves out some of it. */
export function answerList(world: World, row: CloudRow): Listed[] | { error: 'auth' | 'unreachable' } {
  const { chance } = world
  const cloud = world.clouds.get(row)!
  if (has(cloud, 'silent') || has(cloud, 'unreachable')) return { error: 'unreachable' }
  if (has(cloud, 'auth')) return { error: 'auth' }
  if (has(cloud, 'throttled') && chance.happens(0.3)) return { error: 'unreachable' }
  const { list_lag_ms } = row.traits
  const as_of = world.now - (world.calm ? 0 : chance.whole(0, list_lag_ms))
  const listed: Listed[] = []
  for (const machine of cloud.machines.values()) {
    const { provider_id, attempt_id, forgotten_at, created_at, history } = machine
    if (forgotten_at !== null && forgotten_at <= as_of) {
      if (forgotten_at + list_lag_ms < world.now) cloud.machines.delete(provider_id)
      continue
    }
    if (created_at > as_of || (has(cloud, 'lies') && chance.happens(0.8))) continue
    listed.push({ provider_id, attempt_id, state: history.findLast(({ at }) => at <= as_of)!.state })
  }
  return listed
}

interface Bound {
  readonly item: ItemRow
  readonly cloud: CloudRow | null
  readonly provider_id: string | null
}

/** A machine as it is told by itself; null: there is none, undefined: nobody can say. */
export function answerGet(world: World, { item, cloud: row, provider_id }: Bound): MachineState | null | undefined {
  const cloud = world.clouds.get(row!)!
  if (refusal(world, cloud, item.order)) return undefined
  const machine = cloud.machines.get(provider_id!)
  if (!machine || stateOf(machine) === 'terminated' || has(cloud, 'lies_in_gets')) return null
  return stateOf(machine)
}
