/**
 * Accepting orders. Closed loop: a process of role `api` alone, over a record of its own, so that no relay takes anything
 * up. Open loop: more than the engine settles, at a process of role `all`, while flows run; then all of it settles.
 */
import { sql } from 'kysely'
import { openStore } from '../store/database.ts'
import { type BenchOptions, type BenchResult, type Figures, Ledger, secondsOf } from './support/bench.ts'
import { type House, openHouse } from './support/house.ts'
import { atRate, forSeconds, inParallel, Latencies, round, wallNow } from './support/measure.ts'
import { countOrders, order, settlements, untilSettled } from './support/orders.ts'

const WIDTH = 10
const CLOSED_SECONDS = 8
const OPEN = { per_second: 50, seconds: 60 }
const WARM_UP = 30
const SETTLE_TIMEOUT_MS = 300_000

export async function accept(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const closed_loop_per_second = await closedLoop(house, secondsOf(options, CLOSED_SECONDS), ledger)
    const open_loop = await openLoop(house, secondsOf(options, OPEN.seconds), ledger)
    return { figures: { closed_loop_per_second, ...open_loop }, floor: {}, ratio: {}, ...ledger.result }
  } finally {
    await house.close()
  }
}

async function closedLoop(house: House, seconds: number, ledger: Ledger): Promise<number> {
  const database_url = await house.emptyDatabase('closed_loop')
  const door = await house.start('api', { database_url })
  const api = house.api(door.url)
  await house.cloud(api, 'closed')
  let accepted = 0
  const accepting = async (): Promise<void> => {
    await order(api, 'closed')
    accepted++
  }
  await forSeconds(Math.min(2, seconds), WIDTH, accepting)
  const per_second = await forSeconds(seconds, WIDTH, accepting)
  const { db, close } = openStore(database_url, { size: 1 })
  try {
    const { rows } = await sql<{ orders: number; wakes: number }>`
      select (select count(*) from launch_orders) as orders,
        (select count(distinct target) from outbox where kind = 'start') as wakes`.execute(db)
    const { orders, wakes } = rows[0]!
    ledger.check(orders === accepted && wakes === accepted, `${accepted} accepted, ${orders} orders, ${wakes} wakes`)
  } finally {
    await close()
    await door.stop()
  }
  return round(per_second)
}

async function openLoop(house: House, seconds: number, ledger: Ledger): Promise<Figures> {
  const service = await house.start('all')
  const api = house.api(service.url)
  await house.cloud(api, 'open')
  await inParallel(WARM_UP, 4, async (index) => void (await order(api, `warm-${index}`)))
  ledger.check(await untilSettled(house.store, WARM_UP, SETTLE_TIMEOUT_MS), 'the first orders did not settle')

  const since = new Date()
  const latencies = new Latencies()
  const count = OPEN.per_second * seconds
  let refused = 0
  await atRate(OPEN.per_second, count, async (index, due) => {
    try {
      await order(api, `open-${index}`)
      latencies.add(wallNow() - due)
    } catch {
      refused++
    }
  })
  const { settled: settled_meanwhile } = await countOrders(house.store)
  await untilSettled(house.store, WARM_UP + count - refused, SETTLE_TIMEOUT_MS)
  const rows = await settlements(house.store, since)
  ledger.check(refused === 0, `${refused} of ${count} requests were refused`)
  ledger.check(rows.length === count - refused, `${rows.length} of ${count - refused} accepted orders settled`)
  const [first, last] = [
    Math.min(...rows.map((row) => row.accepted_at)),
    Math.max(...rows.map((row) => row.settled_at)),
  ]
  return {
    open_loop_ms: { ...latencies.quantiles() },
    settled_meanwhile: settled_meanwhile - WARM_UP,
    settled_per_second: round((rows.length * 1_000) / (last - first)),
    overtaken_ms: { ...overtaken(rows).quantiles() },
  }
}

/** How much later than the first of its successors each order settled: 0 where the oldest always came first. */
function overtaken(rows: readonly { settled_at: number }[]): Latencies {
  const latencies = new Latencies()
  let first_of_later = Number.POSITIVE_INFINITY
  for (const { settled_at } of rows.toReversed()) {
    latencies.add(Math.max(0, settled_at - first_of_later))
    first_of_later = Math.min(first_of_later, settled_at)
  }
  return latencies
}
