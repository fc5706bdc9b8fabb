/**
 * Deliveries to a hundred healthy hooks of ten projects: from the moment when an event should have happened to the first
 * byte at the receiver. Events come from a process that writes them as the service would.
 */
import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { SENDER_SHARDS, senderWorkflowId } from '../domain/workflow-ids.ts'
import { type BenchOptions, type BenchResult, Ledger, secondsOf } from './support/bench.ts'
import type { GeneratorInput, GeneratorOutput } from './support/event-generator.ts'
import { countFlows, transitionsOf } from './support/flows.ts'
import { cpuPer, type House, openHouse, type ServiceProcess } from './support/house.ts'
import { Latencies, round, until } from './support/measure.ts'
import { judgeReceived, openReceiver, type ReceiverProcess } from './support/receiver-process.ts'

const GENERATOR = fileURLToPath(new URL('./support/event-generator.ts', import.meta.url))
const RATES = [
  { per_second: 50, seconds: 30 },
  { per_second: 300, seconds: 60 },
] as const
const PROJECTS = 10
const HOOKS_EACH = 10
const RESOURCES = 1_000
const WARM_UP = { per_second: 50, seconds: 3 }
const DELIVERY_TIMEOUT_MS = 30_000
const OUTPUT_BYTES_MAX = 64 * 2 ** 20

export async function hooks(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  const receiver = await openReceiver()
  try {
    const service = await house.start('all')
    const resources = await subscribe(house, service.url, receiver.uri)
    const parts = { house, service, receiver, resources, ledger }
    let sequence = (await runAt(parts, { ...WARM_UP, sequence: 0 })).sequence
    const figures: Record<string, Omit<Run, 'sequence'>> = {}
    for (const rate of RATES) {
      const { sequence: next, ...run } = await runAt(parts, {
        per_second: rate.per_second,
        seconds: secondsOf(options, rate.seconds),
        sequence,
      })
      sequence = next
      figures[`at_${rate.per_second}`] = run
    }
    return { figures: { ...figures }, floor: {}, ratio: {}, ...ledger.result }
  } finally {
    await receiver.stop()
    await house.close()
  }
}

/** Hooks that take one type of event each, so that every event goes to exactly one. */
async function subscribe(house: House, url: string, uri: string): Promise<GeneratorInput['resources']> {
  const projects: string[] = []
  for (let number = 0; number < PROJECTS; number++) {
    const api = house.api(url, await house.token(`bench-${number}`))
    for (let hook = 0; hook < HOOKS_EACH; hook++) {
      await api.send('POST', '/api/hooks', {
        uri: `${uri}/${number}/${hook}`,
        filter: { types: [`instance.h${hook}`] },
      })
    }
    const { id } = await house.store.db
      .selectFrom('projects')
      .select('id')
      .where('name', '=', `bench-${number}`)
      .executeTakeFirstOrThrow()
    projects.push(id)
  }
  return Array.from({ length: RESOURCES }, (_, index) => ({
    project_id: projects[index % PROJECTS]!,
    id: randomUUID(),
    type: `instance.h${Math.floor(index / PROJECTS) % HOOKS_EACH}`,
  }))
}

interface Run {
  readonly first_byte_ms: { readonly p50: number; readonly p99: number; readonly p999: number; readonly max: number }
  readonly committed_ms: { readonly p50: number; readonly p99: number }
  readonly transitions_per_1000: number
  readonly cpu_ms_per_delivery: Record<string, number>
  readonly lost: number
  readonly doubled: number
  readonly inversions: number
  /** Of every resource, after this. */
  readonly sequence: number
}

async function runAt(
  {
    house,
    service,
    receiver,
    resources,
    ledger,
  }: {
    house: House
    service: ServiceProcess
    receiver: ReceiverProcess
    resources: GeneratorInput['resources']
    ledger: Ledger
  },
  { per_second, seconds, sequence }: { per_second: number; seconds: number; sequence: number },
): Promise<Run> {
  await receiver.reset()
  // Rounds are whole, so that all resources are at the same sequence afterwards; few events take few resources.
  const wanted = Math.ceil(per_second * seconds)
  const taken = wanted >= resources.length ? resources : resources.slice(0, wanted)
  const count = Math.ceil(wanted / taken.length) * taken.length
  const fresh = taken.length < resources.length ? taken.map((one) => ({ ...one, id: randomUUID() })) : taken
  const first = fresh === taken ? sequence : 0
  const before = { cpu: house.cpu({ service: service.pid }), transitions: await transitionsOfHooks(house) }
  const input: GeneratorInput = {
    database_url: house.database_url,
    resources: fresh,
    sequence: first,
    per_second,
    count,
  }
  const generated = await generate(input)
  await until(async () => (await receiver.count()) >= count, DELIVERY_TIMEOUT_MS)
  const cpu = cpuPer(count, before.cpu, house.cpu({ service: service.pid }))
  const transitions = (await transitionsOfHooks(house)) - before.transitions
  const told = await receiver.ledger()
  const { doubled, inversions } = judgeReceived(told)

  const arrived = new Map(told.toReversed().map(({ resource, sequence: number, at }) => [`${resource}/${number}`, at]))
  const first_byte = new Latencies()
  let lost = 0
  for (const [event, due] of generated.due) {
    const at = arrived.get(`instance/${event}`)
    if (at === undefined) lost++
    else first_byte.add(at - due)
  }
  ledger.check(lost === 0, `${lost} of ${count} deliveries at ${per_second}/s were lost`)
  ledger.check(doubled === 0 && told.length === count - lost, `${told.length} requests for ${count} events`)
  ledger.check(inversions === 0, `${inversions} first attempts at ${per_second}/s out of order`)
  return {
    first_byte_ms: { ...first_byte.quantiles() },
    committed_ms: { p50: generated.committed_ms.p50, p99: generated.committed_ms.p99 },
    transitions_per_1000: round((transitions * 1_000) / count),
    cpu_ms_per_delivery: cpu,
    lost,
    doubled,
    inversions,
    sequence: fresh === taken ? sequence + count / taken.length : sequence,
  }
}

/** Of the senders, which stay, and of the lanes, which should not be needed at all. */
async function transitionsOfHooks(house: House): Promise<number> {
  const senders = Array.from({ length: SENDER_SHARDS }, (_, shard) => senderWorkflowId(shard))
  const lanes = await countFlows(house.temporal, `WorkflowType = 'hookLane'`)
  return (await transitionsOf(house.temporal, senders)) + lanes.transitions
}

async function generate(input: GeneratorInput): Promise<GeneratorOutput> {
  const args = ['--disable-warning=ExperimentalWarning', GENERATOR, JSON.stringify(input)]
  const { stdout } = await promisify(execFile)(process.execPath, args, { maxBuffer: OUTPUT_BYTES_MAX })
  return JSON.parse(stdout) as GeneratorOutput
}
