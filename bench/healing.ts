/**
 * Two hundred machines of one order vanish at once, with no trace at the cloud: when each is noticed, when all are replaced,
 * and how many were being replaced at the same time.
 */
import { sql } from 'kysely'
import { type BenchOptions, type BenchResult, countOf, Ledger } from './support/bench.ts'
import { openControl } from './support/cloud-control.ts'
import { openHouse } from './support/house.ts'
import { inParallel, Latencies, round, until } from './support/measure.ts'
import { order, untilSettled } from './support/orders.ts'

const MACHINES = 200
/** Share of its order that may be healed at once. */
const CAP_SHARE = 0.2
const SETTLE_TIMEOUT_MS = 120_000
/** Machines tell how they are after a list at the latest: the calm period and some. */
const HEAL_TIMEOUT_MS = 240_000

export async function healing(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const service = await house.start('all')
    const api = house.api(service.url)
    await house.cloud(api, 'bench')
    const control = openControl(house.engine.simulated_url!, 'bench')
    const count = countOf(options, MACHINES, 20)
    const cap = Math.max(1, Math.floor(count * CAP_SHARE))
    const id = await order(api, 'healed', count, undefined, { healing: 'replace', healing_max: cap })
    ledger.check(await untilSettled(house.store, 1, SETTLE_TIMEOUT_MS), 'the order did not settle')

    const machines = await control.machines()
    const vanished_at = Date.now()
    await inParallel(machines.length, 16, async (index) => {
      await control.send('POST', `/machines/${machines[index]!.id}/vanish`)
    })
    const vanishing_ms = Date.now() - vanished_at
    const told = async () => {
      const { rows } = await sql<{ to: string; at: Date }>`
        select to_state as to, events.at from events join instances on instances.id = resource_id
        where resource_type = 'instance' and order_id = ${id} and events.at >= ${new Date(vanished_at)}
          and type = 'instance.state_changed' order by number`.execute(house.store.db)
      return rows
    }
    const healed = await until(
      async () => (await told()).filter(({ to }) => to === 'running').length >= count,
      HEAL_TIMEOUT_MS,
      500,
    )
    ledger.check(healed, 'they were not all replaced')
    const events = await told()
    const of = (state: string) => events.filter(({ to }) => to === state).map(({ at }) => at.getTime() - vanished_at)
    const alive = (await control.machines()).filter(({ gone_at }) => gone_at === null).length
    ledger.check(alive === count, `${alive} machines live, ${count} were asked for`)
    ledger.check(of('missing').length === count, `${of('missing').length} of ${count} were noticed`)
    let [now, most] = [0, 0]
    for (const { to } of events) {
      now += to === 'pending' ? 1 : to === 'running' ? -1 : 0
      most = Math.max(most, now)
    }
    const replaced_s = round(Math.max(...of('running')) / 1_000)
    return {
      figures: {
        vanishing_ms,
        noticed_ms: { ...Latencies.of(of('missing')).quantiles() },
        replaced_s,
        replaced_per_second: round(count / (replaced_s - Math.min(...of('missing')) / 1_000)),
        cap,
        most_at_once: most,
        over_the_cap: Math.max(0, most - cap),
      },
      floor: {},
      ratio: {},
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}
