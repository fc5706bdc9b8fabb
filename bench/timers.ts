/**
 * Deadlines: leases that end one after the other, and five hundred that end at one moment against as many bare timers of
 * the engine. When an act was due and when it was done stands in the record.
 */
import type { Client } from '@temporalio/client'
import { type BenchOptions, type BenchResult, countOf, type Figures, Ledger, secondsOf } from './support/bench.ts'
import { type Floor, openFloor } from './support/floor.ts'
import { countFlows } from './support/flows.ts'
import { type Api, cpuPer, type House, openHouse } from './support/house.ts'
import { actsOf, lease, untilLeases } from './support/leases.ts'
import { inParallel, Latencies, round, until } from './support/measure.ts'

const PER_SECOND = 20
const SECONDS = 60
const AT_ONCE = 500
const WIDTH = 8
const CALIBRATION = 60
/** Between the last lease opened and the first that ends. */
const REST_MS = 5_000
/** The machine may become busier than it was when opening was tried. */
const SPARE = 1.6
/** So many times with twice the time each: leases that are opened too late would be ended late for that alone. */
const TRIES = 3
const END_TIMEOUT_MS = 120_000
const DAY_MS = 86_400_000

export async function timers(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const service = await house.start('all')
    const api = house.api(service.url)
    const floor = await openFloor(house)
    const open_ms = await openingTakes(house, api)
    const pids = { service: service.pid }
    const ends = await endAtRate(house, api, { seconds: secondsOf(options, SECONDS), open_ms, ledger, pids })
    const count = countOf(options, AT_ONCE, 20)
    const bare_per_second = await bareTimers(house.temporal, floor, count, open_ms)
    const leases_per_second = await endAtOnce(house, api, { count, open_ms, ledger })
    await floor.stop()
    return {
      figures: { ends, at_one_moment_per_second: round(leases_per_second) },
      floor: { timers_at_one_moment_per_second: round(bare_per_second) },
      ratio: { at_one_moment: round(leases_per_second / bare_per_second) },
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}

/** How long opening one takes on this machine now, so that all are open before the first is due. */
async function openingTakes(house: House, api: Api): Promise<number> {
  const begun_at = performance.now()
  await inParallel(CALIBRATION, WIDTH, async (i) => void (await lease(api, `first-${i}`, 'now', Date.now() + DAY_MS)))
  await untilLeases(house.store, 'first', 'ACTIVE', CALIBRATION, END_TIMEOUT_MS)
  return (performance.now() - begun_at) / CALIBRATION
}

interface EndOptions {
  readonly open_ms: number
  readonly ledger: Ledger
}

/** Opens leases in good time before the first of them ends; gives the names' prefix and that moment. */
async function openInTime(
  house: House,
  api: Api,
  name: string,
  { count, open_ms, apart_ms }: { count: number; open_ms: number; apart_ms: number },
): Promise<{ prefix: string; due_at: number }> {
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const prefix = `${name}${attempt}`
    const due_at = Math.round(Date.now() + count * open_ms * SPARE * 2 ** attempt + REST_MS)
    let late = false
    await inParallel(count, WIDTH, async (index) => {
      late ||= Date.now() > due_at - REST_MS / 2
      if (!late) await lease(api, `${prefix}-${index}`, 'now', due_at + index * apart_ms)
    })
    late ||= !(await untilLeases(house.store, prefix, 'ACTIVE', count, Math.max(1, due_at - Date.now())))
    if (!late) {
      await until(async () => Date.now() >= due_at, due_at - Date.now() + 1_000, 10)
      return { prefix, due_at }
    }
  }
  throw new Error(`${count} leases could not be opened in time: the machine is too busy`)
}

async function endAtRate(
  house: House,
  api: Api,
  { seconds, open_ms, ledger, pids }: EndOptions & { seconds: number; pids: Record<string, number> },
): Promise<Figures> {
  const count = Math.ceil(PER_SECOND * seconds)
  const { prefix } = await openInTime(house, api, 'rate', { count, open_ms, apart_ms: 1_000 / PER_SECOND })
  const before = house.cpu(pids)
  await untilLeases(house.store, prefix, 'TERMINATED', count, seconds * 1_000 + END_TIMEOUT_MS)
  const cpu_ms = cpuPer(count, before, house.cpu(pids))
  const acts = await actsOf(house.store, prefix, 'end_lease')
  ledger.check(acts.length === count, `${count - acts.length} of ${count} leases did not end`)
  const late = Latencies.of(acts.map(({ due_at, acted_at }) => acted_at - due_at))
  return {
    early: acts.filter(({ due_at, acted_at }) => acted_at < due_at).length,
    late_ms: { ...late.quantiles() },
    cpu_ms,
  }
}

async function endAtOnce(house: House, api: Api, { count, open_ms, ledger }: EndOptions & { count: number }) {
  const { prefix, due_at } = await openInTime(house, api, 'once', { count, open_ms, apart_ms: 0 })
  await untilLeases(house.store, prefix, 'TERMINATED', count, END_TIMEOUT_MS)
  const acts = await actsOf(house.store, prefix, 'end_lease')
  ledger.check(acts.length === count, `${count - acts.length} of ${count} leases did not end`)
  ledger.check(
    acts.every((act) => act.acted_at >= act.due_at),
    'a lease ended early',
  )
  return (count * 1_000) / (Math.max(...acts.map((act) => act.acted_at)) - due_at)
}

/** The engine's own: so many timers due at one moment, until the last of their workflows is over. */
async function bareTimers(temporal: Client, floor: Floor, count: number, open_ms: number): Promise<number> {
  const due_at = Math.round(Date.now() + count * open_ms * SPARE + REST_MS)
  await floor.run({ shape: 'timer', count, width: WIDTH, due_ms: due_at, wait: false })
  const query = `WorkflowType = 'timer' and ExecutionStatus = 'Running'`
  await until(async () => Date.now() >= due_at, END_TIMEOUT_MS, 100)
  await until(async () => (await countFlows(temporal, query)).runs === 0, END_TIMEOUT_MS, 500)
  let last = 0
  for await (const { closeTime } of temporal.workflow.list({ query: `WorkflowType = 'timer'`, pageSize: 1_000 }))
    last = Math.max(last, closeTime?.getTime() ?? 0)
  return (count * 1_000) / (last - due_at)
}
