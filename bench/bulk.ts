/** One order of a thousand instances on a cloud without latency. */
import { type BenchOptions, type BenchResult, countOf, Ledger } from './support/bench.ts'
import { countEndedFlows } from './support/flows.ts'
import { cpuPer, openHouse } from './support/house.ts'
import { inParallel, round } from './support/measure.ts'
import { order, settlements, untilSettled } from './support/orders.ts'

const INSTANCES = 1_000
const WARM_UP = 20
const SETTLE_TIMEOUT_MS = 120_000

export async function bulk(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const service = await house.start('all')
    const api = house.api(service.url)
    await house.cloud(api, 'bench')
    await inParallel(WARM_UP, 4, async (index) => void (await order(api, `warm-${index}`)))
    ledger.check(await untilSettled(house.store, WARM_UP, SETTLE_TIMEOUT_MS), 'the first orders did not settle')

    const count = countOf(options, INSTANCES, 100)
    const since = new Date()
    const before = house.cpu({ service: service.pid })
    const id = await order(api, 'bulk', count)
    ledger.check(await untilSettled(house.store, WARM_UP + 1, SETTLE_TIMEOUT_MS), 'the order did not settle')
    const cpu_ms_per_instance = cpuPer(count, before, house.cpu({ service: service.pid }))
    const [row] = await settlements(house.store, since)
    const flows = await countEndedFlows(house.temporal, `WorkflowId = 'order/${id}'`)
    const running = await house.store.db
      .selectFrom('instances')
      .select((e) => e.fn.countAll<number>().as('count'))
      .where('order_id', '=', id)
      .where('state', '=', 'running')
      .executeTakeFirstOrThrow()
    ledger.check(Number(running.count) === count, `${running.count} of ${count} instances run`)
    return {
      figures: {
        instances_per_second: round(row ? (count * 1_000) / (row.settled_at - row.accepted_at) : 0),
        history_events: flows.events,
        transitions: flows.transitions,
        cpu_ms_per_instance,
      },
      floor: {},
      ratio: {},
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}
