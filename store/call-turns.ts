/** Turns of calls to a cloud that takes only so many a second, shared by all processes. */
import { type Kysely, sql } from 'kysely'
import type { Tables } from './tables.ts'

export interface Turn {
  /** Until it comes. */
  readonly wait_ms: number
  /** Whether it was taken; otherwise the next one comes later than the caller would wait. */
  readonly taken: boolean
}

/** Nobody is patient for longer: a turn further away was given by a clock that has been set back since. */
const AHEAD_MAX = sql`interval '10 minutes'`

/** Takes the next turn, unless it is further away than `patience_ms`; turns are `interval_ms` apart. */
export async function takeTurn(
  db: Kysely<Tables>,
  cloud_id: string,
  interval_ms: number,
  patience_ms: number,
): Promise<Turn> {
  const { rows } = await sql<{ wait_ms: number; taken: boolean }>`
    with taken as (
      insert into call_turns as turns (cloud_id, next_at) values (${cloud_id}, clock_timestamp() + ${interval_ms} * interval '1 ms')
      on conflict (cloud_id) do update
        set next_at = ${interval_ms} * interval '1 ms' + case when turns.next_at > clock_timestamp() + ${AHEAD_MAX} + ${interval_ms} * interval '1 ms'
          then clock_timestamp() else greatest(turns.next_at, clock_timestamp()) end
        where turns.next_at <= clock_timestamp() + ${patience_ms} * interval '1 ms'
          or turns.next_at > clock_timestamp() + ${AHEAD_MAX} + ${interval_ms} * interval '1 ms'
      returning next_at - ${interval_ms} * interval '1 ms' as at)
    select true as taken, extract(epoch from at - clock_timestamp())::float8 * 1000 as wait_ms from taken
    union all
    select false, extract(epoch from next_at - clock_timestamp())::float8 * 1000 from call_turns
      where cloud_id = ${cloud_id} and not exists (select from taken)`.execute(db)
  const { wait_ms, taken } = rows[0]!
  return { taken, wait_ms: Math.max(0, wait_ms) }
}
