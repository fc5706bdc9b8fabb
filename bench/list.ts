/** Pages of a long list: a hundred thousand instances, read from end to end, a hundred a page. */
import { sql } from 'kysely'
import type { Store } from '../store/database.ts'
import { type BenchOptions, type BenchResult, Ledger, secondsOf } from './support/bench.ts'
import { cpuPer, openHouse } from './support/house.ts'
import { Latencies } from './support/measure.ts'

const ORDERS = 100
const INSTANCES_EACH = 1_000
const PAGE = 100
const SECONDS = 60

export async function list(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const service = await house.start('api')
    const api = house.api(service.url)
    const orders = options.seconds === undefined ? ORDERS : Math.ceil(ORDERS / 10)
    await fill(house.store, orders)
    const latencies = new Latencies()
    const before = house.cpu({ service: service.pid })
    const deadline = performance.now() + secondsOf(options, SECONDS) * 1_000
    const seen = new Set<string>()
    let pages = 0
    let next: string | null = null
    do {
      const begun_at = performance.now()
      const path: string = `/api/instances?limit=${PAGE}${next ? `&cursor=${encodeURIComponent(next)}` : ''}`
      const page: { instances: { id: string }[]; next: string | null } = await api.send('GET', path)
      latencies.add(performance.now() - begun_at)
      for (const { id } of page.instances) seen.add(id)
      pages++
      next = page.next
    } while (next && performance.now() < deadline)
    const cpu_ms_per_page = cpuPer(pages, before, house.cpu({ service: service.pid }))
    const there = orders * INSTANCES_EACH
    ledger.check(seen.size === (next ? pages * PAGE : there), `${pages} pages showed ${seen.size} instances`)
    return {
      figures: { instances: there, pages, page_ms: { ...latencies.quantiles() }, cpu_ms_per_page },
      floor: {},
      ratio: {},
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}

/** Writes running instances straight into the record, of the project that the bench's token belongs to. */
async function fill(store: Store, orders: number): Promise<void> {
  const { rows } = await sql<{ project_id: string; user_id: string }>`
    select projects.id as project_id, users.id as user_id from projects join users on users.project_id = projects.id
    where projects.name = 'default' limit 1`.execute(store.db)
  const { project_id, user_id } = rows[0]!
  for (let number = 0; number < orders; number++) {
    await sql`
      with deployment as (
        insert into deployments (id, project_id, name, state, sequence)
        values (gen_random_uuid(), ${project_id}, ${`filled-${number}`}, 'running', 1) returning id
      ), placed as (
        insert into launch_orders (id, project_id, user_id, deployment_id, name, state, count, cloud_ids, size, image, settled_at)
        select gen_random_uuid(), ${project_id}, ${user_id}, deployment.id, ${`filled-${number}`}::text, 'running', ${INSTANCES_EACH}::int,
          '{}', 'small', 'debian', record_now() from deployment returning id, deployment_id
      )
      insert into instances (id, project_id, deployment_id, order_id, name, state, size, image, provider_id, public_addresses,
        private_addresses, running_at, sequence)
      select gen_random_uuid(), ${project_id}, placed.deployment_id, placed.id, 'filled-' || n, 'running', 'small', 'debian',
        'i-' || n, array['192.0.2.1'], array['10.0.0.1'], record_now(), 4
      from placed, generate_series(1, ${INSTANCES_EACH}::int) n`.execute(store.db)
  }
  await sql`analyze`.execute(store.db)
}
