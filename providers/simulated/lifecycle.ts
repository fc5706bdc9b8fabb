/** The life of machines: what a carried out command changes, and what then happens by itself. */
import { randomBytes, randomUUID } from 'node:crypto'
import { behaviourAt, canonicalPlace } from './behaviour.ts'
import type { Latency } from './configuration.ts'
import { appendLedger, appendMachineChange } from './ledger.ts'
import type { AnsweredClass, SimulatedState } from './presentation.ts'
import { draw, drawLatency } from './random.ts'
import type { BootOutcome, Command, Due, MachineRow, MachineVerb } from './records.ts'
import type { Cloud, World } from './world.ts'

export type Outcome =
  | { readonly machine: MachineRow; readonly refused?: undefined }
  | { readonly refused: AnsweredClass; readonly message?: string }

/** Carries out a write, all or nothing. What it returns is on file. */
export function carryOut(world: World, cloud: Cloud, command: Command): Outcome {
  return world.store.transaction(() => {
    switch (command.verb) {
      case 'create':
        return createMachine(world, cloud, command)
      case 'tag':
      case 'untag':
        return changeTags(world, cloud, command)
      default:
        return changeMachine(world, cloud, command)
    }
  })
}

function createMachine(world: World, cloud: Cloud, command: Extract<Command, { verb: 'create' }>): Outcome {
  const { store } = world
  const { configuration } = cloud
  const token = configuration.idempotency_tokens ? command.token : null
  const earlier =
    token === null
      ? undefined
      : store.one<MachineRow>('SELECT * FROM machines WHERE cloud = ? AND token = ?', cloud.name, token)
  if (earlier) {
    const same = earlier.name === command.name && earlier.size === command.size && earlier.image === command.image
    return same ? { machine: earlier } : { refused: 'invalid', message: 'The token was used for another request.' }
  }
  if (isFull(world, cloud, command)) return { refused: 'capacity' }

  const number = world.count(cloud, 'machines_made')
  const { seed } = configuration
  const host = command.host ?? roundRobin(configuration.hosts, number)
  const realm = command.realm ?? roundRobin(configuration.realms, number)
  const behaviour = behaviourAt(configuration, { ...command, realm, host })
  const fails = draw(seed, 'boot failure', number) < behaviour.boot_failure_probability
  const boot_outcome: BootOutcome = command.boot_outcome ?? (fails ? 'fails' : 'runs')
  const machine: MachineRow = {
    cloud: cloud.name,
    account: command.account,
    id: configuration.presents_as === 'aws' ? `i-0${randomBytes(8).toString('hex')}` : randomUUID(),
    number,
    shuffle_key: Math.floor(draw(seed, 'shuffle', number) * 2 ** 48),
    name: command.name,
    size: command.size,
    image: command.image,
    realm,
    host,
    tags: JSON.stringify(command.tags),
    token,
    state: 'pending',
    raw_state_override: null,
    boot_outcome,
    created_at: Date.now(),
    booted_at: null,
    delete_requested_at: null,
    gone_at: null,
    gone_how: null,
    listed: 1,
    unlisted_at: null,
  }
  store.insertMachine(machine)
  appendMachineChange(store, machine, 'created', 'create', command.request_seq)
  if (boot_outcome !== 'stuck') {
    const latency_ms = command.boot_latency_ms ?? drawLatency(behaviour.boot_latency_ms, seed, 'boot', number)
    const to = boot_outcome === 'runs' ? 'running' : 'failed'
    world.schedule(cloud, latency_ms, { kind: 'transition', machine_id: machine.id, from: 'pending', to, why: 'boot' })
  }
  return { machine }
}

/** Where a size, image, realm, host or the whole cloud has a capacity, each is a limit of its own. */
function isFull(world: World, cloud: Cloud, command: Extract<Command, { verb: 'create' }>): boolean {
  const { configuration } = cloud
  const limits = [{ match: {}, capacity: configuration.capacity }, ...configuration.rules]
  return limits.some(({ match, capacity }) => {
    if (capacity === null || capacity === undefined) return false
    const columns = Object.entries(canonicalPlace(configuration, match)) as ['size' | 'image', string][]
    if (columns.some(([column, value]) => command[column] !== value)) return false
    const row = world.store.one<{ alive: number }>(
      `SELECT count(*) AS alive FROM machines WHERE cloud = ? AND gone_at IS NULL
      ${columns.map(([column]) => `AND ${column} = ?`).join(' ')}`,
      cloud.name,
      ...columns.map(([, value]) => value),
    )
    return (row?.alive ?? 0) >= capacity
  })
}

function roundRobin(places: readonly { readonly name: string }[], number: number): string | null {
  return places[(number - 1) % places.length]?.name ?? null
}

function changeTags(world: World, cloud: Cloud, command: Extract<Command, { verb: 'tag' | 'untag' }>): Outcome {
  const machine = world.store.machine(cloud.name, command.machine_id)
  if (!machine?.listed) return { refused: 'not_found' }
  if (!cloud.configuration.tags) return { refused: 'invalid', message: 'This cloud has no tags.' }
  const before = JSON.parse(machine.tags) as Record<string, string>
  const after =
    command.verb === 'tag'
      ? { ...before, ...command.tags }
      : Object.fromEntries(Object.entries(before).filter(([key]) => !command.keys.includes(key)))
  const changed = { ...machine, tags: JSON.stringify(after) }
  if (changed.tags === machine.tags) return { machine }
  world.store.updateMachine(cloud.name, machine.id, { tags: changed.tags })
  appendMachineChange(world.store, changed, 'tagged', command.verb, command.request_seq)
  return { machine: changed }
}

function changeMachine(world: World, cloud: Cloud, command: Extract<Command, { verb: MachineVerb }>): Outcome {
  const { verb, request_seq } = command
  const machine = world.store.machine(cloud.name, command.machine_id)
  if (!machine?.listed) return { refused: 'not_found' }
  const { configuration } = cloud
  const behaviour = behaviourAt(configuration, machine)
  const begin = (state: SimulatedState, to: SimulatedState, latency: Latency): Outcome => {
    const changes = verb === 'delete' ? { delete_requested_at: Date.now() } : {}
    const changed = changeState(world, machine, state, verb, request_seq, changes)
    const latency_ms = drawLatency(latency, configuration.seed, verb, request_seq)
    world.schedule(cloud, latency_ms, { kind: 'transition', machine_id: machine.id, from: state, to, why: verb })
    return { machine: changed }
  }
  // EC2 takes a wish that is fulfilled already as done, Nova refuses it.
  const fulfilled = (...states: SimulatedState[]) =>
    configuration.presents_as === 'aws' && states.includes(machine.state)
  switch (verb) {
    case 'delete':
      if (machine.state === 'terminating' || machine.state === 'terminated') return { machine }
      return begin('terminating', 'terminated', behaviour.delete_latency_ms)
    case 'start':
      if (machine.state === 'stopped') return begin('starting', 'running', behaviour.start_latency_ms)
      return fulfilled('running', 'starting', 'pending') ? { machine } : { refused: 'conflict' }
    case 'stop':
      if (machine.state === 'running') return begin('stopping', 'stopped', behaviour.stop_latency_ms)
      return fulfilled('stopped', 'stopping') ? { machine } : { refused: 'conflict' }
    case 'reboot':
      if (machine.state === 'running' || (command.hard && machine.state === 'failed')) {
        return begin('rebooting', 'running', behaviour.reboot_latency_ms)
      }
      return fulfilled('rebooting') ? { machine } : { refused: 'conflict' }
  }
}

/** Carries out what was put on file for later. */
export function carryOutDue(world: World, cloud: Cloud, due: Due): void {
  if (due.kind === 'late') {
    const outcome = carryOut(world, cloud, due.command)
    const { verb, request_seq } = due.command
    const told = outcome.refused ? { refused: outcome.refused } : { machine_id: outcome.machine.id }
    appendLedger(world.store, cloud.name, 'control', { action: 'late', verb, request_seq, ...told })
    return
  }
  const machine = world.store.machine(cloud.name, due.machine_id)
  if (!machine) return
  switch (due.kind) {
    case 'forget':
      forget(world, machine)
      break
    case 'die':
      kill(world, machine, 'its time was up')
      break
    case 'vanish':
      vanish(world, machine, 'its time was up')
      break
    case 'transition':
      // A machine that went another way meanwhile has lost its claim to this step.
      if (machine.state === due.from) arrive(world, cloud, machine, due.to, due.why)
  }
}

function arrive(world: World, cloud: Cloud, machine: MachineRow, to: SimulatedState, why: string): void {
  if (to === 'terminated') {
    end(world, cloud, machine)
    return
  }
  const is_first_boot = to === 'running' && machine.booted_at === null
  changeState(world, machine, to, why, null, is_first_boot ? { booted_at: Date.now() } : {})
  if (is_first_boot) scheduleDeath(world, cloud, machine)
}

function scheduleDeath(world: World, cloud: Cloud, machine: MachineRow): void {
  const { seed } = cloud.configuration
  const { die_after_ms, vanish_after_ms } = behaviourAt(cloud.configuration, machine)
  for (const [kind, latency] of [
    ['die', die_after_ms],
    ['vanish', vanish_after_ms],
  ] as const) {
    if (latency === null) continue
    world.schedule(cloud, drawLatency(latency, seed, kind, machine.number), { kind, machine_id: machine.id })
  }
}

function end(world: World, cloud: Cloud, machine: MachineRow): void {
  const ended = { ...machine, state: 'terminated', gone_at: Date.now(), gone_how: 'deleted' } as const
  world.store.updateMachine(machine.cloud, machine.id, {
    state: ended.state,
    gone_at: ended.gone_at,
    gone_how: ended.gone_how,
  })
  appendMachineChange(world.store, ended, 'gone', 'delete', null)
  const { terminated_visible_ms } = cloud.configuration
  if (terminated_visible_ms > 0)
    world.schedule(cloud, terminated_visible_ms, { kind: 'forget', machine_id: machine.id })
  else forget(world, ended)
}

function forget(world: World, machine: MachineRow): void {
  if (!machine.listed) return
  world.store.updateMachine(machine.cloud, machine.id, { listed: 0, unlisted_at: Date.now() })
  appendMachineChange(world.store, machine, 'forgotten', 'shown long enough', null)
}

/** The machine fails where it stands; one that is gone or on its way is left alone. */
export function kill(world: World, machine: MachineRow, why: string): void {
  if (machine.gone_at !== null || machine.state === 'terminating' || machine.state === 'failed') return
  changeState(world, machine, 'failed', why, null)
}

/** The machine disappears without a trace: not listed, not found, never told as terminated. */
export function vanish(world: World, machine: MachineRow, why: string): void {
  if (machine.gone_at !== null) return
  const now = Date.now()
  const changes = { state: 'terminated', gone_at: now, gone_how: 'vanished', listed: 0, unlisted_at: now } as const
  world.store.updateMachine(machine.cloud, machine.id, changes)
  appendMachineChange(world.store, { ...machine, ...changes }, 'vanished', why, null)
}

function changeState(
  world: World,
  machine: MachineRow,
  state: SimulatedState,
  why: string,
  request_seq: number | null,
  changes: Partial<MachineRow> = {},
): MachineRow {
  const changed = { ...machine, ...changes, state }
  world.store.updateMachine(machine.cloud, machine.id, { ...changes, state })
  appendMachineChange(world.store, changed, 'state', why, request_seq)
  return changed
}
