/**
 * The host's clock may be set under a running record. Deadlines that people named are meant by the clock and stay; after
 * a step back, what was "now" or "in two seconds" would lie an hour ahead, and is moved back by as much.
 */
import { sql } from 'kysely'
import { type Store, write } from './database.ts'
import { wakeOpen } from './housekeeping.ts'

/** Less than this is the usual correction of a clock, and as long as a retry at most. */
const JUMP_S = 5

/**
 * Remembers the real time; where it lies behind what was remembered, mends the record, and where it lies further ahead
 * than time has passed, wakes whoever sleeps. Called by every worker all the time; `unseen_ms`: how long ago, by a clock
 * that nobody sets, this one called before (Infinity: never). Returns by how many ms the clock was set (negative: back),
 * 0 as a rule.
 */
export async function watchClock(store: Store, unseen_ms: number): Promise<number> {
  const { rows } = await sql<{ behind: boolean; old: boolean }>`
    select clock_seen_at > clock_timestamp() + ${JUMP_S} * interval '1 s' as behind,
      clock_seen_at < clock_timestamp() - ${JUMP_S} * interval '1 s' as old from installation`.execute(store.db)
  const { behind, old } = rows[0]!
  if (behind) return mendClock(store)
  return old ? advanceClock(store, unseen_ms) : 0
}

/** Dates are meant by the new clock, and so are the timers of those who sleep: set by the old one, they would be late. */
function advanceClock(store: Store, unseen_ms: number): Promise<number> {
  return write(store, async (trx) => {
    const { rows } = await sql<{ ms: number }>`
      with seen as (select clock_seen_at from installation for update)
      update installation set clock_seen_at = clock_timestamp() from seen where seen.clock_seen_at < clock_timestamp()
      returning (extract(epoch from clock_timestamp() - seen.clock_seen_at) * 1000)::float8 as ms`.execute(trx)
    const ahead_ms = (rows[0]?.ms ?? 0) - unseen_ms
    // What is remembered may be that much older than the last look itself, which writes only what is news.
    if (ahead_ms < 2 * JUMP_S * 1_000) return 0 // or another worker was faster
    await wakeOpen(trx)
    return Math.round(ahead_ms)
  })
}

function mendClock(store: Store): Promise<number> {
  return write(store, async (trx) => {
    const { rows } = await sql<{ ms: number }>`
      with seen as (select clock_seen_at from installation for update)
      update installation set clock_seen_at = clock_timestamp() from seen
      where seen.clock_seen_at > clock_timestamp() + ${JUMP_S} * interval '1 s'
      returning (extract(epoch from seen.clock_seen_at - clock_timestamp()) * 1000)::float8 as ms`.execute(trx)
    const ms = rows[0]?.ms
    if (ms === undefined) return 0 // another worker was faster
    const back = sql`${ms} * interval '1 ms'`
    const past = sql`clock_timestamp()`
    await sql`update outbox set not_before = ${past} where not_before > ${past}`.execute(trx)
    // When something was last seen or changed: newer observations must count again.
    await sql`
      update instances set changed_at = least(changed_at, ${past}), acknowledged_at = least(acknowledged_at, ${past})
      where changed_at > ${past} or acknowledged_at > ${past}`.execute(trx)
    await sql`update clouds set last_list_sent_at = ${past} where last_list_sent_at > ${past}`.execute(trx)
    // Pauses go on for what is left of them.
    await sql`
      update launch_attempts set sent_at = least(sent_at, ${past}), settle_at = settle_at - ${back},
        next_send_at = next_send_at - ${back}
      where gone_at is null and (sent_at > ${past} or settle_at > ${past} or next_send_at > ${past})`.execute(trx)
    await sql`update actions set started_at = least(started_at, ${past}), sent_at = least(sent_at, ${past}),
      next_try_at = least(next_try_at, ${past}) where state in ('queued', 'running')`.execute(trx)
    await sql`update taggings set next_try_at = ${past} where next_try_at > ${past}`.execute(trx)
    await sql`update inventory set next_try_at = ${past} where next_try_at > ${past}`.execute(trx)
    await sql`update orphans set removal = jsonb_set(removal, '{next_try_at}', to_jsonb(${past}))
      where (removal ->> 'next_try_at')::timestamptz > ${past}`.execute(trx)
    await sql`update credentials set replaced_at = least(replaced_at, ${past}), listed_at = least(listed_at, ${past})
      where replaced_at > ${past} or listed_at > ${past}`.execute(trx)
    await sql`update items set next_attempt_at = next_attempt_at - ${back} where next_attempt_at > ${past}`.execute(trx)
    await sql`
      update deliveries set next_attempt_at = next_attempt_at - ${back}
      where state in ('pending', 'waiting', 'parked') and next_attempt_at > record_now()`.execute(trx)
    // Who attends to something is asked again; every plan sets its own next moment anew.
    await sql`update launch_orders set attended_until = null where attended_until > ${past}`.execute(trx)
    await sql`update leases set attended_until = null where attended_until > ${past}`.execute(trx)
    await sql`update instances set attended_until = null where attended_until > ${past}`.execute(trx)
    await sql`update hooks set attended_until = null where attended_until > ${past}`.execute(trx)
    await sql`update hooks set paused_until = paused_until - ${back} where paused_until > record_now()`.execute(trx)
    await wakeOpen(trx)
    return -Math.round(ms)
  })
}
