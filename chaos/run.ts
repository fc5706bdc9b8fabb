/** One run: bring everything up, load and kill, calm down, wait until all is at rest, judge from outside. */
import { mkdirSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { chanceOf } from './chance.ts'
import { collect } from './checker/collect.ts'
import { judge, type Verdict } from './checker/judge.ts'
import type { Ledgers } from './checker/ledgers.ts'
import { type Client, type Notebook, openClient, openNotebook } from './client.ts'
import { CLOUDS, type Clouds, openClouds, registrationOf } from './clouds.ts'
import { type House, type Kind, kindOf, openHouse } from './house.ts'
import { type Kill, killAll } from './kills.ts'
import { startLoad } from './load.ts'
import { type Progress, watchProgress } from './progress.ts'
import { whatIsLeft } from './rest.ts'
import { openSubscribers, type Subscribers } from './subscribers.ts'

export interface RunOptions {
  readonly kills: number
  readonly seed: number
  readonly processes: readonly Kind[]
  readonly engine: 'sqlite' | 'postgres'
  readonly data: string
  readonly signal: AbortSignal
  /** Told what happens. */
  readonly say: (line: string) => void
  /** Told what the engine room does. */
  readonly log: (line: string) => void
}

export interface Outcome {
  readonly verdict: Verdict
  readonly ledgers: Ledgers
  /** Stood still for a minute in mid-run. */
  readonly stuck: ReadonlyMap<string, string>
  readonly recoveries: readonly (number | null)[]
  /** Faults of the service that no counter has a name for. */
  readonly complaints: readonly string[]
  readonly begun: Readonly<Record<string, number>>
  readonly statuses: Readonly<Record<string, number>>
}

const PROJECT = 'chaos'
const CLIENTS = 4
const WARM_UP_MS = 3_000
const COMPLETE_TIMEOUT_MS = 60_000
const REST_TIMEOUT_MS = 300_000
const LOOK_MS = 1_000
/** What is at rest is so at several looks, one after the other. */
const STILL_LOOKS = 3
/**
 * What "settled" may take under kills, for twins as for `stuck`: a flow whose process dies, and whose successor dies,
 * waits for the engine's time-outs each time.
 */
const SETTLE_UNDER_KILLS_MS = 60_000
/** Two looks at a calm cloud are this far apart. */
const WATCH_PERIOD_MS = 31_000

export async function run(options: RunOptions): Promise<Outcome> {
  const { data, seed, signal, say, log } = options
  mkdirSync(`${data}/logs`, { recursive: true })
  const subscribers = await openSubscribers(chanceOf(seed + 1))
  try {
    const house = await openHouse({ data, engine: options.engine, chance: chanceOf(seed + 2), signal, log })
    try {
      return await runIn(house, subscribers, options)
    } finally {
      say('stopping all processes')
      await house.stop()
    }
  } finally {
    await subscribers.close()
  }
}

async function runIn(house: House, subscribers: Subscribers, options: RunOptions): Promise<Outcome> {
  const { seed, signal, say } = options
  const notebook = openNotebook()
  const clouds = await openClouds(house.simulated_url, seed, signal)
  const token = await setUp(house, notebook, signal)
  const clients = Array.from({ length: CLIENTS }, (_, turn) =>
    openClient(house.api_urls, token, notebook, signal, turn),
  )
  for (const sort of ['steady', 'filtered', 'flaky'] as const) await subscribers.subscribe(clients[0]!, sort)

  const progress = watchProgress(
    openClient(house.api_urls, token, notebook, signal),
    notebook.actions,
    house.healthy,
    signal,
  )
  const { openOrders, openDeliveries } = progress
  const load = startLoad({ seed: seed + 3, clients, clouds, subscribers, openOrders, openDeliveries, signal })
  say('everything is up; load begins')
  await delay(WARM_UP_MS, undefined, { signal })
  const names = house.names.filter((name) => options.processes.includes(kindOf(name)))
  const kills = await killAll({ house, progress, names, kills: options.kills, chance: chanceOf(seed), signal, say })
  const recoveries = await Promise.all(kills.map(({ recovery }: Kill) => recovery))

  say('no more kills: faults are lifted, load ends')
  await clouds.calm()
  subscribers.calm()
  await load.stop()
  const given_up = await untilRest(house, progress, clouds, options)
  await progress.stop()
  say('reading the ledgers')
  const ledgers = await collect({
    api_url: house.api_urls[0]!,
    projects: [
      { name: PROJECT, token },
      { name: 'default', token: house.operator_token },
    ],
    simulated_url: house.simulated_url,
    cloud_names: CLOUDS.map(({ name }) => name),
    receivers: subscribers.ledgers(),
    client: notebook.entries,
  })
  return {
    ledgers,
    verdict: judge(ledgers, { settle_ms: SETTLE_UNDER_KILLS_MS, watch_period_ms: WATCH_PERIOD_MS, faults: true }),
    stuck: progress.stuck,
    recoveries,
    complaints: [...given_up, ...house.unasked, ...notebook.complaints, ...load.refused],
    begun: load.begun,
    statuses: Object.fromEntries(notebook.statuses),
  }
}

/** Clouds and a project of one member; gives the member's token. */
async function setUp(house: House, notebook: Notebook, signal: AbortSignal): Promise<string> {
  const operator: Client = openClient(house.api_urls, house.operator_token, notebook, signal)
  const ask = async (method: string, path: string, body?: unknown) => {
    const told = await operator.ask({ method, path, body })
    if (told.status >= 300) throw new Error(`${method} ${path} answered ${told.status}: ${JSON.stringify(told.body)}`)
    return told.body
  }
  await ask('POST', '/api/projects', { name: PROJECT })
  for (const cloud of CLOUDS) {
    await ask('POST', '/api/clouds', registrationOf(cloud, house.simulated_url))
    await ask('PUT', `/api/clouds/${cloud.name}/grants/${PROJECT}`)
    for (const name of cloud.hosts) await ask('POST', `/api/clouds/${cloud.name}/hosts`, { name })
  }
  const made = await ask('POST', '/api/tokens', { project: PROJECT, user: 'member', role: 'member' })
  return (made.token as { text: string }).text
}

/** Waits until nothing is open any more. Returns what did not come to that in time. */
async function untilRest(house: House, progress: Progress, clouds: Clouds, options: RunOptions): Promise<string[]> {
  const { signal, say } = options
  const given_up: string[] = []
  const wait = async (what: string, timeout_ms: number, look: () => Promise<string | null>) => {
    const until = performance.now() + timeout_ms
    for (let told = ''; ; ) {
      const left = await look()
      if (left === null) return
      if (left !== told) say(`waiting for ${what}: ${left}`)
      told = left
      if (performance.now() > until) {
        say(`${what}: given up after ${timeout_ms / 1000} s`)
        given_up.push(`${what} did not come within ${timeout_ms / 1000} s: ${left}`)
        return
      }
      await delay(LOOK_MS, undefined, { signal })
    }
  }
  await wait('all processes', COMPLETE_TIMEOUT_MS, async () => (house.complete() ? null : 'not all are back'))
  let still = 0
  await wait('rest', REST_TIMEOUT_MS, async () => {
    const left = await whatIsLeft(progress, clouds)
    still = left === null ? still + 1 : 0
    return left ?? (still < STILL_LOOKS ? 'whether it stays' : null)
  })
  return given_up
}
