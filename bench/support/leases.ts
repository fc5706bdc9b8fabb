/** Leases as benches make them, and what the record says came of them. */
import { sql } from 'kysely'
import type { Store } from '../../store/database.ts'
import type { Api } from './house.ts'
import { until } from './measure.ts'

/** A lease without machines: what is measured is its time. Moments are ms since 1970; gives its id. */
export async function lease(api: Api, name: string, start_at: number | 'now', end_at: number): Promise<string> {
  const body = {
    name,
    start_at: start_at === 'now' ? start_at : new Date(start_at).toISOString(),
    end_at: new Date(end_at).toISOString(),
  }
  return (await api.send<{ lease: { id: string } }>('POST', '/api/leases', body)).lease.id
}

/** How many leases of these names (`prefix-…`) are in a state. */
export async function countLeases(store: Store, prefix: string, state: string): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*) as count from leases where name like ${`${prefix}-%`} and state = ${state}`.execute(store.db)
  return rows[0]!.count
}

export const untilLeases = (store: Store, prefix: string, state: string, count: number, timeout_ms: number) =>
  until(async () => (await countLeases(store, prefix, state).catch(() => 0)) >= count, timeout_ms)

export interface Act {
  /** When it was due and when it was done, by the record, ms since 1970. */
  readonly due_at: number
  readonly acted_at: number
}

/** The acts of one kind that were done. */
export async function actsOf(store: Store, prefix: string, type: 'start_lease' | 'end_lease'): Promise<Act[]> {
  const { rows } = await sql<{ due_at: number; acted_at: number }>`
    select extract(epoch from time)::float8 * 1000 as due_at, extract(epoch from acted_at)::float8 * 1000 as acted_at
    from lease_events join leases on leases.id = lease_id
    where name like ${`${prefix}-%`} and type = ${type} and acted_at is not null`.execute(store.db)
  return rows
}
