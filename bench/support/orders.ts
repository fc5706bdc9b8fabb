/** Launch orders as benches make them, and what the record says came of them. */
import { sql } from 'kysely'
import type { Store } from '../../store/database.ts'
import type { Api } from './house.ts'
import { until } from './measure.ts'

/** Asks for an order of one instance, or more; gives its id. */
export async function order(
  api: Api,
  name: string,
  count = 1,
  clouds?: readonly string[],
  more: object = {},
): Promise<string> {
  const body = { name, count, size: 'small', image: 'debian', ...(clouds ? { clouds } : {}), ...more }
  const answer = await api.send<{ launch_order: { id: string } }>('POST', '/api/launch-orders', body)
  return answer.launch_order.id
}

export interface OrderCount {
  readonly accepted: number
  readonly settled: number
}

export async function countOrders(store: Store): Promise<OrderCount> {
  const { rows } = await sql<{ accepted: number; settled: number }>`
    select count(*)::int as accepted, count(settled_at)::int as settled from launch_orders`.execute(store.db)
  return rows[0]!
}

/** Waits until so many orders have settled; false when they do not in time. */
export const untilSettled = (store: Store, count: number, timeout_ms: number): Promise<boolean> =>
  until(async () => (await countOrders(store)).settled >= count, timeout_ms, 50)

/** Accepted and settled by the record, ms since 1970, in order of acceptance. */
export async function settlements(
  store: Store,
  since: Date,
): Promise<readonly { accepted_at: number; settled_at: number }[]> {
  const { rows } = await sql<{ created_at: Date; settled_at: Date }>`
    select created_at, settled_at from launch_orders where settled_at is not null and created_at >= ${since}
    order by id`.execute(store.db)
  return rows.map((row) => ({ accepted_at: row.created_at.getTime(), settled_at: row.settled_at.getTime() }))
}

/** Keeps new orders from every relay, as if it were paused. */
export async function holdOrders(store: Store): Promise<void> {
  await sql`
    create or replace function bench_hold() returns trigger language plpgsql as $$
    begin
      if new.kind = 'start' then new.not_before := 'infinity'; end if;
      return new;
    end $$`.execute(store.db)
  await sql`create or replace trigger bench_hold before insert on outbox for each row execute function bench_hold()`.execute(
    store.db,
  )
}

/** Lets them go, all at once; gives the moment by the record's clock. */
export async function releaseOrders(store: Store): Promise<number> {
  await sql`drop trigger bench_hold on outbox`.execute(store.db)
  const { rows } = await sql<{ now: Date }>`
    with released as (update outbox set not_before = clock_timestamp() where not_before = 'infinity')
    select clock_timestamp() as now`.execute(store.db)
  await sql`select pg_notify('holdfast', '')`.execute(store.db)
  return rows[0]!.now.getTime()
}
