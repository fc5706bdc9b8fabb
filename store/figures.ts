/**
 * Figures for operators, read from the record when somebody asks: what waits and why, what is late, what is stale. Each
 * query is bounded by itself, so that one that takes too long leaves out its own figures and no others.
 */
import { type RawBuilder, sql } from 'kysely'
import { isAway, type Store } from './database.ts'

/** No query of a scrape runs longer. */
const STATEMENT_TIMEOUT_MS = 500
/** Acts of so long ago count for lateness. */
export const LATENESS_WINDOW_S = 300
/** Deliveries looked at for lateness: the newest. */
const DELIVERIES_MAX = 2_000

/** One figure: its labels, and its value under `value`. */
export type Figure = { readonly value: number } & Readonly<Record<string, string | number>>

const OPEN_ORDER = sql`state not in ('running', 'cancelled', 'terminated', 'failed')`
const OPEN_LEASE = sql`state not in ('TERMINATED', 'ERROR')`
const byState = (table: string): RawBuilder<Figure> =>
  sql<Figure>`select state, count(*)::int as value from ${sql.table(table)} group by state`
/** A blocker's code, else the state: both are closed lists. */
const REASON = sql`coalesce(blocker ->> 'code', state)`

/** By name of the metric, without its prefix. */
const QUERIES = {
  outbox: sql<Figure>`select count(*)::int as value from outbox`,
  outbox_age_seconds: sql<Figure>`
    select coalesce(greatest(0, extract(epoch from clock_timestamp() - min(created_at))), 0)::float8 as value
    from outbox where not_before <= clock_timestamp() + interval '10 s'`, // what a relay has claimed counts as well
  orders: byState('launch_orders'),
  instances: byState('instances'),
  leases: byState('leases'),
  clouds: byState('clouds'),
  hooks: sql<Figure>`select state, count(*)::int as value from hooks where state <> 'deleted' group by state`,
  hook_lanes: sql<Figure>`select count(*)::int as value from hooks where owner = 'lane' and state = 'active'`,
  deliveries: sql<Figure>`
    select state, count(*)::int as value from deliveries
    where state in ('pending', 'in_flight', 'waiting', 'parked') group by state`,
  waiting: sql<Figure>`
    select 'order' as noun, ${REASON} as reason, count(*)::int as value from launch_orders where ${OPEN_ORDER} group by 2
    union all
    select 'lease', ${REASON}, count(*)::int from leases where ${OPEN_LEASE} group by 2
    union all
    select 'instance', ${REASON}, count(*)::int from instances
      where state in ('pending', 'starting', 'stopping', 'rebooting', 'terminating', 'missing') group by 2`,
  overdue_seconds: sql<Figure>`
    select noun, greatest(0, coalesce(extract(epoch from record_now() - min(due_at)), 0))::float8 as value from (
      select 'order' as noun, (select min(due_at) from launch_orders where ${OPEN_ORDER}) as due_at
      union all select 'lease', (select min(due_at) from leases where ${OPEN_LEASE})
      union all select 'delivery', (select min(next_attempt_at) from deliveries join hooks on hooks.id = hook_id
        where deliveries.state in ('pending', 'in_flight') and hooks.state = 'active' and hooks.owner = 'sender')
    ) due group by noun`,
  cloud_list_age_seconds: sql<Figure>`
    select name as cloud, extract(epoch from clock_timestamp() - coalesce(last_list_sent_at, created_at))::float8 as value
    from clouds`,
  cloud_up: sql<Figure>`select name as cloud, (state = 'ok')::int as value from clouds`,
  orphans: sql<Figure>`
    select name as cloud, count(orphans.provider_id)::int as value
    from clouds left join orphans on cloud_id = clouds.id and gone_at is null group by name`,
  lateness_seconds: sql<Figure>`
    with acts as (
      select type as kind, late_ms / 1000.0 as late from lease_events
        -- Asked once, not for each row.
        where late_ms is not null and acted_at > (select record_now()) - ${LATENESS_WINDOW_S} * interval '1 s'
      union all
      -- First attempts for healthy hooks; they are sent by real time, their deliveries made by the record's.
      select 'delivery', greatest(0, extract(epoch from
          started_at - (made.created_at - (select clock_offset from installation))))
        from (select id, hook_id, created_at from deliveries order by id desc limit ${DELIVERIES_MAX}) made
        join delivery_attempts on delivery_id = made.id and number = 1
        join hooks on hooks.id = made.hook_id and hooks.owner = 'sender'
        where started_at > clock_timestamp() - ${LATENESS_WINDOW_S} * interval '1 s'
    )
    select kind, quantile::text, percentile_cont(quantile) within group (order by late)::float8 as value
    from acts, unnest(array[0.5, 0.99, 1]) as quantile group by kind, quantile`,
} satisfies Record<string, RawBuilder<Figure>>

export type FigureName = keyof typeof QUERIES
export type Figures = ReadonlyMap<FigureName, readonly Figure[]>

/**
 * Reads all figures, one after the other on one connection. A query that fails or takes too long is missing; when the
 * record cannot be reached all are.
 */
export async function readFigures(store: Store): Promise<Figures> {
  const figures = new Map<FigureName, readonly Figure[]>()
  for (const [name, query] of Object.entries(QUERIES) as [FigureName, RawBuilder<Figure>][]) {
    // One after the other: side by side they would take the pool from requests.
    const rows = await store.db
      .transaction()
      .execute(async (trx) => {
        await sql`set local statement_timeout = ${sql.lit(STATEMENT_TIMEOUT_MS)}`.execute(trx)
        return (await query.execute(trx)).rows
      })
      .catch((error: unknown) => {
        if (isAway(error)) throw error
        return null
      })
    if (rows) figures.set(name, rows)
  }
  return figures
}
