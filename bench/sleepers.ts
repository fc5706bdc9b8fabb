/** Leases whose first moment is a month away: what opening, keeping and waking them costs. */
import { type BenchOptions, type BenchResult, countOf, Ledger } from './support/bench.ts'
import { openFloor } from './support/floor.ts'
import { cpuPer, openHouse, untilHandedOver } from './support/house.ts'
import { lease } from './support/leases.ts'
import { inParallel, Latencies, round, until, wallNow } from './support/measure.ts'

const OPEN = 5_000
const OPEN_FULL = 100_000
const FLOOR_COUNT = 800
const WIDTH = 8
const WAKES = 20
const DAY_MS = 86_400_000
const WAKE_TIMEOUT_MS = 30_000

export async function sleepers(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const service = await house.start('all')
    const api = house.api(service.url)
    const floor = await openFloor(house)
    const delayed = async () =>
      (await floor.run({ shape: 'delayed_start', count: countOf(options, FLOOR_COUNT, 50), width: WIDTH })).per_second
    const floors = [await delayed()]

    const count = options.full ? OPEN_FULL : countOf(options, OPEN, 50)
    const ids: string[] = []
    const start_at = Date.now() + 30 * DAY_MS
    const before = house.cpu({ service: service.pid })
    const begun_at = performance.now()
    await inParallel(count, WIDTH, async (i) => void ids.push(await lease(api, `s-${i}`, start_at, start_at + DAY_MS)))
    const accepted_ms = performance.now() - begun_at
    ledger.check(await untilHandedOver(house.store, 10 * count + 60_000), 'not all leases were handed over')
    const opened_per_second = (count * 1_000) / (performance.now() - begun_at)
    const cpu_ms = cpuPer(count, before, house.cpu({ service: service.pid }))
    floors.push(await delayed())
    await floor.stop()

    const memory = house.memory({ service: service.pid })
    const all = Object.values(memory).reduce((sum, mib) => sum + mib, 0)
    const opened = async () => (await house.temporal.workflow.count(`WorkflowType = 'lease'`)).count >= count
    ledger.check(await until(opened, 30_000, 1_000), 'not every lease has its flow')

    const wakes = new Latencies()
    for (let wake = 0; wake < WAKES; wake++) {
      const id = ids[Math.floor((wake * ids.length) / WAKES)]!
      const asked_at = wallNow()
      await api.send('DELETE', `/api/leases/${id}`)
      const ended_at = async () =>
        (await house.store.db.selectFrom('leases').select('ended_at').where('id', '=', id).executeTakeFirst())?.ended_at
      ledger.check(await until(async () => !!(await ended_at()), WAKE_TIMEOUT_MS, 10), `lease ${wake} did not end`)
      wakes.add((await ended_at())!.getTime() - asked_at)
    }
    const floor_per_second = floors.reduce((sum, value) => sum + value, 0) / floors.length
    return {
      figures: {
        open: count,
        accepted_per_second: round((count * 1_000) / accepted_ms),
        opened_per_second: round(opened_per_second),
        cpu_ms_per_lease: cpu_ms,
        memory_mib: { ...memory, all },
        wake_ms: { ...wakes.quantiles() },
      },
      floor: { delayed_starts_per_second: round(floor_per_second) },
      ratio: { opened: round(opened_per_second / floor_per_second) },
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}
