/** What operators watch: backlog and age of the outbox, open nouns by state, deliveries by state, stale clouds. */
import { sql } from 'kysely'
import { collectDefaultMetrics, Gauge, type Registry } from 'prom-client'
import type { Store } from '../store/database.ts'
import type { EngineSide } from './engine-side.ts'

/** Gauges are read from the record when they are scraped; a record that is away leaves them out. */
export function registerMetrics(registry: Registry, store: Store, engine: EngineSide | undefined): void {
  collectDefaultMetrics({ register: registry })
  const read = <R>(query: ReturnType<typeof sql<R>>) =>
    query.execute(store.db).then(
      ({ rows }) => rows,
      () => [] as R[],
    )
  new Gauge({
    name: 'holdfast_outbox_age_seconds',
    help: 'Age of the oldest wake that is due and not handed over',
    registers: [registry],
    async collect() {
      const [row] = await read(sql<{ age: number }>`
        select coalesce(extract(epoch from clock_timestamp() - min(not_before)), 0)::float8 as age from outbox where not_before <= clock_timestamp()`)
      if (row) this.set(row.age)
    },
  })
  const states = (name: string, help: string, table: string): void => {
    new Gauge({
      name,
      help,
      labelNames: ['state'],
      registers: [registry],
      async collect() {
        this.reset()
        for (const row of await read(
          sql<{
            state: string
            count: number
          }>`select state, count(*)::int as count from ${sql.table(table)} group by state`,
        )) {
          this.set({ state: row.state }, row.count)
        }
      },
    })
  }
  states('holdfast_orders', 'Launch orders by state', 'launch_orders')
  states('holdfast_instances', 'Instances by state', 'instances')
  states('holdfast_leases', 'Leases by state', 'leases')
  states('holdfast_clouds', 'Clouds by state', 'clouds')
  states('holdfast_deliveries', 'Deliveries by state', 'deliveries')
  if (!engine) return
  new Gauge({
    name: 'holdfast_relay_in_flight',
    help: 'Hand-overs to Temporal in flight',
    registers: [registry],
    collect() {
      this.set(engine.relay()?.state.in_flight ?? 0)
    },
  })
  new Gauge({
    name: 'holdfast_engine_healthy',
    help: '1 while Temporal answers and the worker polls',
    registers: [registry],
    collect() {
      this.set(engine.healthy() ? 1 : 0)
    },
  })
}
