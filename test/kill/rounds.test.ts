/**
 * Rounds of `kill -9` under load, on real processes: the service as a person starts it, its own PostgreSQL and Temporal,
 * clouds in a process of their own. Each round kills while something is really under way. At the end everything
 * settles, and the outside checker judges. HOLDFAST_KILL_SEED and HOLDFAST_KILL_ROUNDS repeat or lengthen a run.
 */
import type { ChildProcess } from 'node:child_process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Chance, chanceOf } from '../../chaos/chance.ts'
import { collect } from '../../chaos/checker/collect.ts'
import { judge } from '../../chaos/checker/judge.ts'
import { CloudControl, endProcess, spawnSimulatedCloud } from '../providers/simulated-control.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'
import { type InFlight, type Motion, openRecordView, type RecordView } from './in-flight.ts'
import {
  databaseUrl,
  dataFolder,
  dropFolder,
  type EngineName,
  enginePid,
  freePort,
  killHard,
  operatorToken,
  type ServerProcess,
  startServer,
} from './server.ts'
import { openWitness, type Told, type Witness } from './witness.ts'

const SEED = Number(process.env.HOLDFAST_KILL_SEED ?? Date.now() % 1_000_000)
const ROUNDS = Number(process.env.HOLDFAST_KILL_ROUNDS ?? 20)
const ROUND_TIMEOUT_MS = 60_000
const SETTLE_TIMEOUT_MS = 120_000
/** So long a round waits for the kind of motion it wants to kill; then any will do. */
const WANTED_TIMEOUT_MS = 2_000
const IN_FLIGHT_TIMEOUT_MS = 5_000
/** What the clouds declare: no create is carried out later than this. */
const SETTLE_MS = 2_000
/** Two looks at a calm cloud are this far apart. */
const WATCH_PERIOD_MS = 31_000

type Victim = 'all' | EngineName
const DECK: readonly (readonly Victim[])[] = [
  ['all'],
  ['all', 'all'], // again as soon as it is ready, in the middle of finding its way back
  ['postgres'],
  ['temporal'],
  ['all', 'postgres'],
  ['all', 'temporal'],
  ['temporal', 'postgres'],
]
const WANTED: Readonly<Record<string, (seen: InFlight) => number>> = {
  attempts: (seen) => seen.attempts_sent + seen.attempts_unknown,
  boots: (seen) => seen.starting,
  removals: (seen) => seen.terminating,
  deliveries: (seen) => seen.deliveries_in_flight,
  leases: (seen) => seen.leases_due,
}

const PROJECT = 'research'
const chance = chanceOf(SEED)
let data: string
let cloud_data: string
let port: number
let server: ServerProcess
let simulated: { url: string; process: ChildProcess }
let record: RecordView
let receiver: Receiver
let hook_id: string
let operator: Witness
let member: Witness
let member_token: string
let controls: CloudControl[]

const say = (line: string): void => void process.stderr.write(`${line}\n`)
const start = (): Promise<ServerProcess> =>
  startServer({ arguments: ['--role', 'all', '--port', String(port), '--data', data] })

beforeAll(async () => {
  say(`HOLDFAST_KILL_SEED=${SEED} HOLDFAST_KILL_ROUNDS=${ROUNDS}`)
  data = await dataFolder()
  cloud_data = await dataFolder()
  port = await freePort()
  simulated = await spawnSimulatedCloud(cloud_data)
  receiver = await startReceiver()
  server = await start()
  record = openRecordView(await databaseUrl(data))
  const url = () => server.url
  operator = openWitness(url, await operatorToken(data))
  await makeClouds()
  await setUp('POST', '/api/projects', { name: PROJECT })
  const token = await setUp('POST', '/api/tokens', { project: PROJECT, user: 'member', role: 'member' })
  member_token = String(token.body.token!.text)
  for (const name of ['crowded', 'tokens']) await setUp('PUT', `/api/clouds/${name}/grants/${PROJECT}`)
  member = openWitness(url, member_token)
  const { body } = await member.ask({
    kind: 'hook',
    method: 'POST',
    path: '/api/hooks',
    body: { uri: receiver.uri },
  })
  hook_id = String(body.hook!.id)
  receiver.secrets = [String(body.hook!.secret)]
  const answers = chanceOf(SEED + 1)
  receiver.answer = (received) => ({ status: received.attempt === 1 && answers.next() < 0.05 ? 500 : 200 })
})

afterAll(async () => {
  await record?.close()
  await receiver?.close()
  if (simulated) await endProcess(simulated.process, 'SIGTERM')
  if (data) await dropFolder(data, server)
  if (cloud_data) await dropFolder(cloud_data)
})

/** Something that is not judged. */
async function setUp(method: string, path: string, body?: unknown): Promise<Told> {
  const told = await operator.ask({ kind: 'order', method, path, body })
  if (told.status >= 300) throw new Error(`${method} ${path} answered ${told.status}: ${JSON.stringify(told.body)}`)
  return told
}

/** One that is soon full, boots slowly and loses replies; one with idempotency tokens that loses some, too. */
async function makeClouds(): Promise<void> {
  const [crowded, tokens] = [new CloudControl(simulated.url, 'crowded'), new CloudControl(simulated.url, 'tokens')]
  controls = [crowded, tokens]
  await crowded.configure({
    presents_as: 'openstack',
    seed: SEED,
    capacity: 6,
    boot_latency_ms: { uniform_ms: [500, 2_500] },
    create_latency_ms: { uniform_ms: [0, 300] },
    delete_latency_ms: 300,
  })
  await tokens.configure({
    presents_as: 'aws',
    seed: SEED,
    boot_latency_ms: { uniform_ms: [100, 800] },
    create_latency_ms: { uniform_ms: [0, 200] },
    terminated_visible_ms: 1_000,
  })
  await crowded.fault({
    match: { verb: ['create', 'delete'] },
    probability: 0.2,
    effect: { kind: 'lost_reply' },
  })
  await tokens.fault({ match: { verb: 'create' }, probability: 0.1, effect: { kind: 'lost_reply', how: 'truncate' } })
  for (const [name, size, idempotency_tokens] of [
    ['crowded', 'm1.small', false],
    ['tokens', 't3.small', true],
  ] as const) {
    await setUp('POST', '/api/clouds', {
      name,
      provider: 'simulated',
      endpoint: `${simulated.url}/clouds/${name}`,
      sizes: { small: size },
      images: { debian: 'debian-13' },
      settings: { settle_ms: SETTLE_MS, call_timeout_ms: 1_500, idempotency_tokens },
    })
  }
}

// The load -----------------------------------------------------------------------------------------------------------

const PLACES = [['crowded', 'tokens'], ['tokens', 'crowded'], ['crowded'], ['tokens']]
/** Orders that were accepted and that nobody has ended. */
const standing: string[] = []
const refused: string[] = []

function expectAccepted(told: Told, ...also: readonly number[]): boolean {
  const accepted = told.status < 300
  if (!accepted && !also.includes(told.status)) refused.push(JSON.stringify(told))
  return accepted
}

async function order(draw: Chance): Promise<string> {
  const count = draw.whole(1, 3)
  const policy = draw.pick(['all', 'any', 'at_least'] as const)
  const promised = { count, policy, ...(policy === 'at_least' ? { at_least: draw.whole(1, count) } : {}) }
  const clouds = draw.pick(PLACES)
  const body = { name: `web-${draw.whole(1, 1e9)}`, size: 'small', image: 'debian', clouds, ...promised }
  const told = await member.ask({ kind: 'order', method: 'POST', path: '/api/launch-orders', body, promised })
  expectAccepted(told)
  return String(told.body.launch_order?.id)
}

async function cancel(id: string): Promise<void> {
  expectAccepted(
    await member.ask({ kind: 'cancel', method: 'DELETE', path: `/api/launch-orders/${id}`, resource_id: id }),
  )
}

/** Ends one instance of an order, if it has one. */
async function terminateOne(order_id: string): Promise<void> {
  const response = await fetch(`${server.url}/api/launch-orders/${order_id}/instances`, {
    headers: { authorization: `Bearer ${member_token}` },
  }).catch(() => null)
  if (!response?.ok) return
  const { instances } = (await response.json()) as { instances: { id: string }[] }
  const [id] = instances.map((instance) => instance.id)
  if (!id) return
  const path = `/api/instances/${id}/actions`
  const body = { action: 'terminate' }
  expectAccepted(await member.ask({ kind: 'terminate', method: 'POST', path, body, resource_id: id }), 409)
}

/** A lease of a few seconds; what its moments are worth is the judge's to say. A repeat may come too late for them. */
async function lease(draw: Chance, with_order: boolean): Promise<void> {
  const start_in_ms = draw.pick([0, 800, 1_600])
  const end_at_ms = Date.now() + start_in_ms + draw.whole(1_500, 3_500)
  const before_end_at_ms = end_at_ms - 500
  const start_at_ms = Date.now() + start_in_ms
  const iso = (ms: number) => new Date(ms).toISOString()
  const body = {
    name: `night-${draw.whole(1, 1e9)}`,
    start_at: start_in_ms ? iso(start_at_ms) : 'now',
    end_at: iso(end_at_ms),
    before_end_at: iso(before_end_at_ms),
    ...(with_order ? { order: { name: 'leased', count: draw.whole(1, 2), size: 'small', image: 'debian' } } : {}),
  }
  const promised = { end_at_ms, before_end_at_ms, ...(start_in_ms ? { start_at_ms } : {}) }
  const told = await member.ask({ kind: 'lease', method: 'POST', path: '/api/leases', body, promised })
  const id = told.body.lease?.id
  if (!expectAccepted(told, 400) || draw.next() < 0.5) return
  const later = { end_at_ms: end_at_ms + draw.whole(500, 2_000), before_end_at_ms: end_at_ms - 200 }
  const extended = await member.ask({
    kind: 'extend',
    method: 'PATCH',
    path: `/api/leases/${id}`,
    body: { end_at: iso(later.end_at_ms), before_end_at: iso(later.before_end_at_ms) },
    resource_id: String(id),
    promised: later,
  })
  expectAccepted(extended, 400, 409)
}

/** A round's requests, all at once. */
function load(round: number): Promise<unknown> {
  const jobs: (() => Promise<unknown>)[] = [
    async (draw = chanceOf(SEED + 100 * round + 1)) => standing.push(await order(draw)),
    async (draw = chanceOf(SEED + 100 * round + 2)) => standing.push(await order(draw)),
    async (draw = chanceOf(SEED + 100 * round + 3)) => cancel(await order(draw)),
    () => lease(chanceOf(SEED + 100 * round + 4), true),
    () => lease(chanceOf(SEED + 100 * round + 5), false),
  ]
  const leaving = standing.length > 3 ? standing.splice(0, 2) : []
  for (const id of leaving) jobs.push(() => cancel(id))
  if (standing.length && chance.next() < 0.5) {
    const id = chance.pick(standing)
    jobs.push(() => terminateOne(id))
  }
  return Promise.all(jobs.map((job) => job()))
}

// The rounds ---------------------------------------------------------------------------------------------------------

const describe = (seen: InFlight): string =>
  Object.entries(seen)
    .filter(([, count]) => count)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ')
const total = (seen: InFlight): number => Object.values(seen).reduce((sum, count) => sum + count, 0)

/** What is under way at the moment of the kill, preferably of the kind wanted; null: nothing. */
async function lookForMotion(wanted: string): Promise<InFlight | null> {
  const begun_at = performance.now()
  const found = waitFor(
    async () => {
      const seen = await record.inFlight()
      const any_will_do = performance.now() - begun_at > WANTED_TIMEOUT_MS
      return (WANTED[wanted]!(seen) || (any_will_do && total(seen))) && seen
    },
    { what: 'something in flight', timeout_ms: IN_FLIGHT_TIMEOUT_MS },
  )
  return found.catch(() => null)
}

/** Kills, and starts again what nobody else starts. */
async function kill(victims: readonly Victim[]): Promise<void> {
  const engine = victims.filter((victim) => victim !== 'all')
  const pids = await Promise.all(engine.map((name) => enginePid(data, name)))
  const deaths = victims.filter((victim) => victim === 'all').length
  await Promise.all([...pids, ...(deaths ? [server.pid] : [])].map(killHard))
  for (let death = 1; death <= deaths; death++) {
    await server.ended
    server = await start()
    if (death < deaths) await killHard(server.pid)
  }
}

/** The service says that nothing is missing, and flows go on, or flows and senders do. */
async function untilMoving(before: Motion, senders_too: boolean): Promise<void> {
  await waitFor(
    async () => {
      const response = await fetch(`${server.url}/readyz`)
      const { degraded } = (await response.json()) as { degraded: string[] }
      if (!response.ok || degraded.length) return false
      const { flows, sends } = await record.motion()
      return flows > before.flows && (!senders_too || sends > before.sends)
    },
    { what: 'the work to go on', timeout_ms: ROUND_TIMEOUT_MS, interval_ms: 50 },
  )
}

/** Asks again while the record is away. */
const motionNow = (): Promise<Motion> =>
  waitFor(() => record.motion(), { what: 'the record to answer', timeout_ms: ROUND_TIMEOUT_MS })

test(`${ROUNDS} rounds of kill -9 under load: nothing lost, doubled, leaked, early, out of order or stuck`, async () => {
  let hands: (readonly Victim[])[] = []
  let counted = 0
  for (let round = 1; counted < ROUNDS; round++) {
    expect(round, 'too many rounds had nothing in flight').toBeLessThanOrEqual(3 * ROUNDS)
    if (!hands.length) hands = chance.shuffled(DECK)
    const victims = hands.pop()!
    const wanted = chance.pick(Object.keys(WANTED))
    const loading = load(round)
    const seen = await lookForMotion(wanted)
    if (!seen) {
      say(`round not counted: nothing in flight`)
      await loading
      continue
    }
    const killed_at = performance.now()
    await kill(victims)
    // Every other time the next kill comes before the senders are back.
    await untilMoving(await motionNow(), chance.next() < 0.5)
    const recovered_ms = Math.round(performance.now() - killed_at)
    await loading
    say(`${++counted}. kill -9 ${victims.join('+')} for ${wanted} while ${describe(seen)}; back in ${recovered_ms} ms`)
  }

  receiver.answer = () => ({ status: 200 })
  for (const control of controls) await control.noFaults()
  await settle()
  await judgeAll()
}, 400_000)

async function settle(): Promise<void> {
  let left: unknown
  await waitFor(
    async () => {
      const open = await record.open()
      const machines = (await Promise.all(controls.map((control) => control.machines()))).flat()
      const alive = machines.flatMap((machine) => (machine.gone_at === null ? [machine.id] : []))
      const bound = await record.boundMachines()
      const surplus = alive.filter((id) => !bound.includes(id))
      const missing = bound.filter((id) => !alive.includes(id))
      left = { open, surplus, missing }
      return !Object.keys(open).length && !surplus.length && !missing.length
    },
    { what: 'everything to settle', timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 200 },
  ).catch((error: Error) => {
    say(server.stderr().slice(-4_000))
    throw new Error(`${error.message}: ${JSON.stringify(left)}`, { cause: error })
  })
}

async function judgeAll(): Promise<void> {
  const ledgers = await collect({
    api_url: server.url,
    projects: [
      { name: PROJECT, token: member_token },
      { name: 'default', token: await operatorToken(data) },
    ],
    simulated_url: simulated.url,
    cloud_names: ['crowded', 'tokens'],
    installation_id: await record.installationId(),
    client: member.entries,
    receivers: [
      {
        hook_id,
        deliveries: receiver.ledger.map((received) => ({
          at_ms: performance.timeOrigin + received.at_ms,
          webhook_id: received.event_id,
          attempt: received.attempt,
          body: received.body.toString('utf8'),
          answered_status: received.status || null,
        })),
      },
    ],
  })
  const verdict = judge(ledgers, { settle_ms: SETTLE_MS, watch_period_ms: WATCH_PERIOD_MS, faults: true })
  const { violations, unjudged, ...figures } = verdict
  const { orders, instances, attempts, leases, events, deliveries } = ledgers.record
  const sizes = { orders, instances, attempts, leases, events, deliveries }
  const counts = Object.fromEntries(Object.entries(sizes).map(([name, rows]) => [name, rows.length]))
  say(JSON.stringify({ seed: SEED, ...figures, ...counts, answers: Object.fromEntries(member.statuses) }))
  // A kill between a send and its note brings the event again: the one thing that is allowed.
  expect(violations.filter((line) => !line.startsWith('duplicates: '))).toEqual([])
  expect(unjudged).toEqual([])
  expect(figures).toMatchObject({ ok: true })
  expect(receiver.judge().bad_signatures).toBe(0)
  expect(refused).toEqual([])
  expect([...member.complaints, ...operator.complaints]).toEqual([])
}
