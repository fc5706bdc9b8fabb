/** Two simulated clouds that misbehave by seed, told so through their control API. */
import type { Chance } from './chance.ts'

/** No create is carried out later than this after it was sent; what is late comes well before. */
const SETTLE_MS = 4_000
const LATE_MS = 2_000
const CALL_TIMEOUT_MS = 1_500
const LIST_LAG_MS = 300

type Fields = Readonly<Record<string, unknown>>

/** Keys to the two accounts of each cloud: ours, and one that orders may bring along. */
const OWN_KEY = 'house'
export const GUEST_KEY = 'guest'
const ACCOUNTS = [OWN_KEY, GUEST_KEY].map((key) => ({ key, account: key }))

interface CloudPlan {
  readonly name: string
  readonly size: string
  readonly idempotency_tokens: boolean
  /** That leases can have for themselves: so few that they come one right behind the other. */
  readonly hosts: readonly string[]
  readonly configuration: Fields
  readonly faults: readonly Fields[]
}

const sometimes = (verb: string | readonly string[], probability: number, effect: Fields): Fields => ({
  match: { verb },
  probability,
  effect,
})
const SWITCHING = ['start', 'stop', 'reboot']
const MISBEHAVIOUR: readonly Fields[] = [
  sometimes('create', 0.06, { kind: 'error', class: 'capacity' }),
  sometimes(['create', 'delete', 'list', ...SWITCHING], 0.04, {
    kind: 'error',
    class: 'throttled',
    retry_after_ms: 400,
  }),
  sometimes(['create', 'delete', ...SWITCHING], 0.08, { kind: 'lost_reply' }),
  sometimes('create', 0.04, { kind: 'lost_reply', how: 'truncate' }),
  sometimes('create', 0.05, { kind: 'late', after_ms: LATE_MS }),
  sometimes(['create', 'delete', 'list', 'get', ...SWITCHING], 0.02, { kind: 'hang' }),
  sometimes(['create', 'delete', 'list', 'get', ...SWITCHING], 0.02, { kind: 'down', how: '503' }),
  sometimes('list', 0.1, { kind: 'list', lag_ms: LIST_LAG_MS, shuffle: true }),
  sometimes('create', 0.03, { kind: 'boot', outcome: 'fails' }),
]

/** One that is soon full, boots slowly and has no idempotency tokens; one that has them. */
export const CLOUDS: readonly CloudPlan[] = [
  {
    name: 'crowded',
    size: 'm1.small',
    idempotency_tokens: false,
    hosts: ['compute-1', 'compute-2'],
    configuration: {
      presents_as: 'openstack',
      capacity: 40,
      boot_latency_ms: { uniform_ms: [300, 2_500] },
      create_latency_ms: { uniform_ms: [0, 300] },
      delete_latency_ms: { uniform_ms: [100, 800] },
    },
    faults: MISBEHAVIOUR,
  },
  {
    name: 'tokens',
    size: 't3.small',
    idempotency_tokens: true,
    hosts: ['metal-1'],
    configuration: {
      presents_as: 'aws',
      hosts: ['metal-1', 'metal-2', 'metal-3'].map((name) => ({
        id: name,
        name,
        vcpus: 8,
        memory_mib: 65_536,
        disk_gib: 500,
      })),
      boot_latency_ms: { uniform_ms: [100, 1_000] },
      create_latency_ms: { uniform_ms: [0, 200] },
      terminated_visible_ms: 1_000,
    },
    faults: MISBEHAVIOUR,
  },
]

/** What an operator registers for a cloud. */
export const registrationOf = ({ name, size, idempotency_tokens }: CloudPlan, simulated_url: string): Fields => ({
  name,
  provider: 'simulated',
  endpoint: `${simulated_url}/clouds/${name}`,
  credential: OWN_KEY,
  sizes: { small: size },
  images: { debian: 'debian-13' },
  settings: {
    settle_ms: SETTLE_MS,
    call_timeout_ms: CALL_TIMEOUT_MS,
    list_lag_ms: LIST_LAG_MS,
    idempotency_tokens,
    hosts: true,
  },
})

export interface CloudMachine {
  readonly id: string
  readonly state: string
  readonly gone_at: number | null
}

export const DEATHS = ['die', 'vanish'] as const

export interface Clouds {
  /** Sets one machine's death, if there is one that runs. */
  strike(chance: Chance): Promise<void>
  /** Takes a machine away, or lets it fail. */
  lose(name: string, machine_id: string, how: (typeof DEATHS)[number]): Promise<void>
  /** For some seconds one of them takes nothing new. */
  refuse(chance: Chance): Promise<void>
  /** From now on they behave. */
  calm(): Promise<void>
  /** Machines that are there, as `cloud/id`, and their states. */
  alive(): Promise<Map<string, string>>
}

export async function openClouds(simulated_url: string, seed: number, signal: AbortSignal): Promise<Clouds> {
  const send = async (name: string, method: string, path: string, body?: unknown): Promise<Fields> => {
    const response = await fetch(`${simulated_url}/control/clouds/${name}${path}`, {
      method,
      signal,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path} of cloud ${name} answered ${response.status}: ${text}`)
    return text ? (JSON.parse(text) as Fields) : {}
  }
  const machinesOf = async (name: string): Promise<CloudMachine[]> =>
    (await send(name, 'GET', '/machines')).machines as CloudMachine[]

  for (const [number, cloud] of CLOUDS.entries()) {
    await send(cloud.name, 'PUT', '', { ...cloud.configuration, api_keys: ACCOUNTS, seed: seed + number })
    for (const fault of cloud.faults) await send(cloud.name, 'POST', '/faults', fault)
  }
  // It may have gone by itself meanwhile.
  const lose: Clouds['lose'] = (name, machine_id, how) =>
    send(name, 'POST', `/machines/${machine_id}/${how}`).then(
      () => {},
      () => {},
    )
  return {
    lose,
    async strike(chance) {
      const { name } = chance.pick(CLOUDS)
      const [how, at] = [chance.pick(DEATHS), chance.next()]
      const running = (await machinesOf(name)).filter(({ state, gone_at }) => state === 'running' && gone_at === null)
      const victim = running[Math.floor(at * running.length)]
      if (victim) await lose(name, victim.id, how)
    },
    async refuse(chance) {
      const [{ name }, refusal] = [chance.pick(CLOUDS), chance.pick(['capacity', 'quota', 'unavailable'])]
      const effect = { kind: 'error', class: refusal }
      await send(name, 'POST', '/faults', { match: { verb: 'create' }, for_ms: chance.whole(3_000, 12_000), effect })
    },
    async calm() {
      for (const { name } of CLOUDS) await send(name, 'DELETE', '/faults')
    },
    async alive() {
      const alive = new Map<string, string>()
      for (const { name } of CLOUDS)
        for (const { id, state, gone_at } of await machinesOf(name))
          if (gone_at === null) alive.set(`${name}/${id}`, state)
      return alive
    },
  }
}
