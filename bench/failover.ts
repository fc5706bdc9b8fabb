/**
 * A thousand instances over four clouds: one refuses, one takes ten calls a second, one loses every twentieth reply, one is
 * well. Four orders, each of which begins with another of them, so that a quarter of the machines is first sought at each.
 */
import { sql } from 'kysely'
import { type BenchOptions, type BenchResult, countOf, Ledger } from './support/bench.ts'
import { openControl } from './support/cloud-control.ts'
import { openHouse } from './support/house.ts'
import { inParallel, round } from './support/measure.ts'
import { order, untilSettled } from './support/orders.ts'

const INSTANCES = 1_000
const WARM_UP = 20
const SETTLE_TIMEOUT_MS = 240_000
const CALLS_PER_S = 10
/** What the operator declares: less than the cloud takes, as the way there is of uneven length. */
const DECLARED_PER_S = 8
const LOST = 0.05
/** Whoever comes after one in these rotations gets what that one refuses. */
const ROTATIONS = [
  ['refusing', 'well', 'throttled', 'lossy'],
  ['throttled', 'lossy', 'well', 'refusing'],
  ['lossy', 'well', 'throttled', 'refusing'],
  ['well', 'lossy', 'throttled', 'refusing'],
]

export async function failover(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const service = await house.start('all')
    const api = house.api(service.url)
    const control = (name: string) => openControl(house.engine.simulated_url!, name)
    await house.cloud(api, 'well')
    await house.cloud(api, 'lossy')
    await house.cloud(api, 'refusing', { configuration: { capacity: 0 } })
    await house.cloud(api, 'throttled', {
      configuration: { rate_limit: { calls_per_s: CALLS_PER_S, burst: 3 } },
      settings: { calls_per_s: DECLARED_PER_S },
    })
    await inParallel(WARM_UP, 4, async (index) => void (await order(api, `warm-${index}`, 1, ['well'])))
    ledger.check(await untilSettled(house.store, WARM_UP, SETTLE_TIMEOUT_MS), 'the first orders did not settle')
    await control('lossy').send('POST', '/faults', {
      match: { verb: 'create' },
      probability: LOST,
      effect: { kind: 'lost_reply' },
    })

    const each = Math.ceil(countOf(options, INSTANCES, 100) / ROTATIONS.length)
    const begun_at = Date.now()
    await Promise.all(ROTATIONS.map((clouds, index) => order(api, `failover-${index}`, each, clouds)))
    const settled = await untilSettled(house.store, WARM_UP + ROTATIONS.length, SETTLE_TIMEOUT_MS)
    ledger.check(settled, 'the orders did not settle')

    const { rows } = await sql<{ cloud: string; count: number; last: Date }>`
      select clouds.name as cloud, count(*)::int as count, max(instances.running_at) as last
      from instances join clouds on clouds.id = cloud_id
      where instances.state = 'running' and instances.created_at >= ${new Date(begun_at)} group by clouds.name`.execute(
      house.store.db,
    )
    const at = (names: readonly string[]) => {
      const own = rows.filter(({ cloud }) => names.includes(cloud))
      const count = own.reduce((sum, row) => sum + row.count, 0)
      const took_ms = Math.max(...own.map(({ last }) => last.getTime())) - begun_at
      return { count, took_s: round(took_ms / 1_000), per_second: round((count * 1_000) / took_ms) }
    }
    const running = rows.reduce((sum, { count }) => sum + count, 0)
    ledger.check(running === each * ROTATIONS.length, `${running} of ${each * ROTATIONS.length} instances run`)
    let alive = -WARM_UP
    for (const name of ['well', 'lossy', 'refusing', 'throttled'])
      alive += (await control(name).machines()).filter(({ gone_at }) => gone_at === null).length
    const books = await control('throttled').ledger()
    return {
      figures: {
        healthy_per_second: at(['well', 'lossy']).per_second,
        well: at(['well']),
        lossy: at(['lossy']),
        throttled: {
          ...at(['throttled']),
          calls_in_a_second: busiestSecond(books.filter(({ kind }) => kind === 'request').map((line) => line.at)),
          refused: books.filter(({ status }) => status === 429).length,
        },
        twins: alive - running,
      },
      floor: {},
      ratio: {},
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}

/** Most moments that lie within one second. */
function busiestSecond(moments: readonly number[]): number {
  let [most, first] = [0, 0]
  for (const [index, at] of moments.entries()) {
    while (at - moments[first]! >= 1_000) first++
    most = Math.max(most, index - first + 1)
  }
  return most
}
