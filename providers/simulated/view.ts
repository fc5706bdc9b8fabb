/** Machines and lists as a caller sees them: in the provider's words, complete or not, recent or not. */
import type { CloudConfiguration, ListBehaviour } from './configuration.ts'
import { stateAt } from './ledger.ts'
import { RAW_STATES, type RawState } from './presentation.ts'
import { draw } from './random.ts'
import type { MachineRow } from './records.ts'
import type { Cloud, World } from './world.ts'

/** A machine on the wire. */
export interface WireMachine extends RawState {
  readonly id: string
  readonly name: string
  readonly size: string
  readonly image: string
  readonly realm: string | null
  readonly host: string | null
  readonly tags: Readonly<Record<string, string>>
  readonly public_addresses: readonly string[]
  readonly private_addresses: readonly string[]
  readonly created_at: string
}
export interface WirePage {
  readonly machines: readonly WireMachine[]
  readonly next: string | null
}

/** One machine as the cloud tells it. */
export function showMachine(configuration: CloudConfiguration, machine: MachineRow): WireMachine {
  const { id, name, size, image, realm, host, number, state } = machine
  const invented = machine.raw_state_override ?? configuration.raw_states[state]
  const raw = invented === undefined ? RAW_STATES[configuration.presents_as][state] : null
  const octets = `${(number >> 16) & 255}.${(number >> 8) & 255}.${number & 255}`
  const has_addresses = machine.booted_at !== null && state !== 'terminated' && configuration.addresses !== 'none'
  return {
    id,
    name,
    size,
    image,
    realm,
    host,
    raw_state: raw?.raw_state ?? invented ?? '',
    detail: raw?.detail ?? null,
    tags: configuration.tags ? (JSON.parse(machine.tags) as Record<string, string>) : {},
    // Addresses of the range for benchmarks: nobody's, so nothing is ever reached by mistake.
    public_addresses:
      has_addresses && configuration.addresses === 'both'
        ? [`198.${18 + ((number >> 16) & 1)}.${(number >> 8) & 255}.${number & 255}`]
        : [],
    private_addresses: has_addresses ? [`10.${octets}`] : [],
    created_at: new Date(machine.created_at).toISOString(),
  }
}

/** A tag wanted in a list, written `key:value`. */
export interface TagFilter {
  readonly key: string
  readonly value: string
}

/** One page of the list, with all its lies. A cursor is the place in the order, not a snapshot. */
export function listMachines(
  world: World,
  cloud: Cloud,
  { account, filter }: { account: string; filter: TagFilter | null },
  cursor: number | null,
  lies: ListBehaviour,
): WirePage {
  const { configuration } = cloud
  const seen_at = Date.now() - lies.lag_ms
  const order = lies.shuffle ? 'shuffle_key' : 'number'
  const seen = lies.lag_ms > 0 ? '(listed = 1 OR unlisted_at > ?)' : 'listed = 1'
  // A cloud without tags takes the filter and ignores it.
  const wanted = filter && configuration.tags ? 'AND json_extract(tags, ?) = ?' : ''
  const rows = world.store.all<MachineRow>(
    `SELECT * FROM machines WHERE cloud = ? AND account = ? AND ${seen} AND ${order} > ? ${wanted} ORDER BY ${order} LIMIT ?`,
    cloud.name,
    account,
    ...(lies.lag_ms > 0 ? [seen_at] : []),
    cursor ?? -1,
    ...(filter && configuration.tags ? [`$."${filter.key}"`, filter.value] : []),
    configuration.page_size + 1,
  )
  const has_more = rows.length > configuration.page_size
  const page = rows.slice(0, configuration.page_size)
  const is_drawn = (what: string, machine: MachineRow, probability: number) =>
    draw(configuration.seed, what, machine.number) < probability
  const shown = page.flatMap((machine) => {
    if (is_drawn('omit', machine, lies.omit_probability)) return []
    const state = lies.lag_ms > 0 ? stateAt(world.store, machine, seen_at) : machine.state
    if (state === null) return []
    return [{ row: machine, wire: showMachine(configuration, { ...machine, state }) }]
  })
  const is_double = ({ row }: { row: MachineRow }) => is_drawn('duplicate', row, lies.duplicate_probability)
  const machines = [...shown, ...shown.filter(is_double)].map(({ wire }) => wire)
  if (!has_more) return { machines, next: null }
  // A page is at least two long, so that going back by one still gets on.
  const last = page.at(-1)!
  const resume = is_drawn('duplicate', last, lies.duplicate_probability) ? page.at(-2)! : last
  return { machines, next: String(resume[order]) }
}

/** What the machine has written to its console so far. */
export function consoleText(machine: MachineRow): string {
  const lines = [
    `[    0.000000] Booting ${machine.image} on ${machine.size} (${machine.host ?? 'no host'})`,
    ...(machine.booted_at === null
      ? []
      : [`[${((machine.booted_at - machine.created_at) / 1000).toFixed(6).padStart(12)}] ${machine.name} login:`]),
    ...(machine.state === 'failed' ? ['Kernel panic - not syncing: Fatal exception'] : []),
  ]
  return `${lines.join('\n')}\n`
}
