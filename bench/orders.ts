/**
 * Orders of one instance on a cloud without latency. From a backlog: accepted by a process of role `api` while the relay
 * is kept from them, then let go at once and settled by a process of role `all`. And at a calm rate: how long from the
 * request to the hook that says `running`.
 */
import { type BenchOptions, type BenchResult, countOf, Ledger, roundsOf, secondsOf } from './support/bench.ts'
import { type Floor, openFloor } from './support/floor.ts'
import { countEndedFlows } from './support/flows.ts'
import { type Api, cpuPer, type House, openHouse, type ServiceProcess, untilHandedOver } from './support/house.ts'
import { atRate, inParallel, Latencies, round } from './support/measure.ts'
import { holdOrders, order, releaseOrders, settlements, untilSettled } from './support/orders.ts'
import { openReceiver } from './support/receiver-process.ts'

const WIDTH = 20
const ROUNDS = 2
const COUNT = 200
const WARM_UP = 30
const CALM_PER_S = 2
const CALM_SECONDS = 30
const SETTLE_TIMEOUT_MS = 120_000
const DELIVERY_TIMEOUT_MS = 20_000

export async function orders(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const service = await house.start('all')
    const door = await house.start('api')
    const floor = await openFloor(house)
    const api = house.api(door.url)
    const eager = house.api(service.url)
    await house.cloud(eager, 'bench')
    const warm_up = countOf(options, WARM_UP, 5)
    await inParallel(warm_up, 4, async (index) => void (await order(eager, `warm-${index}`)))
    ledger.check(await untilSettled(house.store, warm_up, SETTLE_TIMEOUT_MS), 'the first orders did not settle')

    const calm = await calmly(eager, secondsOf(options, CALM_SECONDS), ledger)
    const count = countOf(options, COUNT, 10)
    const backlogs: Backlog[] = []
    const floors: number[] = []
    for (let turn = 0; turn < roundsOf(options, ROUNDS); turn++) {
      floors.push((await floor.run({ shape: 'regular_activity', count, width: WIDTH })).per_second)
      backlogs.push(await backlog(house, { service, floor, api }, count, ledger))
    }
    await floor.stop()

    const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
    const settled_per_second = mean(backlogs.map((one) => one.per_second))
    const floor_per_second = mean(floors)
    return {
      figures: {
        settled_per_second: round(settled_per_second),
        transitions_per_order: round(mean(backlogs.map((one) => one.transitions))),
        events_per_order: round(mean(backlogs.map((one) => one.events))),
        flows_per_order: round(mean(backlogs.map((one) => one.flows))),
        cpu_ms_per_order: backlogs.at(-1)!.cpu,
        calm,
      },
      floor: { regular_activity_per_second: round(floor_per_second) },
      ratio: { settled: round(settled_per_second / floor_per_second) },
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}

interface Backlog {
  readonly per_second: number
  readonly transitions: number
  readonly events: number
  readonly flows: number
  readonly cpu: Record<string, number>
}

async function backlog(
  house: House,
  { service, floor, api }: { service: ServiceProcess; floor: Floor; api: Api },
  count: number,
  ledger: Ledger,
): Promise<Backlog> {
  const since = new Date()
  await holdOrders(house.store)
  await inParallel(count, 8, async (index) => void (await order(api, `backlog-${index}`)))
  const before = house.cpu({ service: service.pid, floor: floor.pid })
  const released_at = await releaseOrders(house.store)
  const settled = async () => (await settlements(house.store, since)).length >= count
  const deadline = performance.now() + SETTLE_TIMEOUT_MS
  while (!(await settled()) && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 250))
  const cpu = cpuPer(count, before, house.cpu({ service: service.pid, floor: floor.pid }))
  const rows = await settlements(house.store, since)
  ledger.check(rows.length === count, `${count - rows.length} of ${count} orders of the backlog did not settle`)
  await untilHandedOver(house.store, DELIVERY_TIMEOUT_MS)
  // All flows of these orders: nothing else is started here but what stays, which is counted where it stays.
  const query = `StartTime >= '${since.toISOString()}' and WorkflowType in ('launchOrder', 'instance')`
  const flows = await countEndedFlows(house.temporal, query)
  const last = Math.max(...rows.map((row) => row.settled_at))
  return {
    per_second: (rows.length * 1_000) / (last - released_at),
    transitions: flows.transitions / count,
    events: flows.events / count,
    flows: flows.runs / count,
    cpu,
  }
}

/** Latency at a rate that leaves the machine idle: accepted and `running` by the first byte at the hook. */
async function calmly(api: Api, seconds: number, ledger: Ledger) {
  const receiver = await openReceiver()
  try {
    const filter = { types: ['order.state_changed', 'instance.state_changed'] }
    const { hook } = await api.send<{ hook: { id: string } }>('POST', '/api/hooks', { uri: receiver.uri, filter })
    const accepted = new Latencies()
    const due_of = new Map<string, number>()
    await atRate(CALM_PER_S, Math.ceil(CALM_PER_S * seconds), async (index, due) => {
      due_of.set(`calm-${index}`, due)
      await order(api, `calm-${index}`)
      accepted.add(performance.timeOrigin + performance.now() - due)
    })
    const [order_running, instance_running] = [new Latencies(), new Latencies()]
    const deadline = performance.now() + DELIVERY_TIMEOUT_MS
    let told = await receiver.ledger()
    const running = () => told.filter(({ to, name }) => to === 'running' && due_of.has(name))
    while (running().length < 2 * due_of.size && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 100))
      told = await receiver.ledger()
    }
    for (const { resource, name, at } of running()) {
      const latencies = resource.startsWith('order/') ? order_running : instance_running
      latencies.add(at - due_of.get(name)!)
    }
    ledger.check(order_running.count === due_of.size, `${due_of.size} orders, ${order_running.count} told as running`)
    await api.send('DELETE', `/api/hooks/${hook.id}`)
    return {
      accepted_ms: { ...accepted.quantiles() },
      instance_running_ms: { ...instance_running.quantiles() },
      order_running_ms: { ...order_running.quantiles() },
    }
  } finally {
    await receiver.stop()
  }
}
