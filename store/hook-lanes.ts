/**
 * Lanes: what is to be done for a hook in trouble, and when. The lane's workflow only keeps time and runs what this
 * plan says; all it needs to go on after a loss is here.
 */
import { sql } from 'kysely'
import { laneWorkflowId } from '../domain/workflow-ids.ts'
import { leave, type Store, type Trx, write } from './database.ts'
import { headsOf, OPEN, settleLost } from './delivery-claims.ts'
import type { Hook } from './hooks.ts'
import { answerWakes, wake } from './outbox.ts'

/** At most so many attempts of one lane at a time. */
export const LANE_IN_FLIGHT_MAX = 20
/** Of these, retries may take so many while first attempts are waiting: they must not crowd out new events. */
const RETRIES_SHARE = 0.2
/** A lane with attempts under way looks again when one ends; new events need not wake it before this. */
const ATTENDED = '1 s'
/** A wake that was queued is given so long to arrive before the next. */
const WAKE_SPACING = '2 s'

export interface LaneStep {
  readonly delivery_id: number
  /** Number of the charged attempt this will be. */
  readonly attempt: number
  readonly why: string
}

export interface LanePlan {
  readonly steps: readonly LaneStep[]
  /** Until the earliest due moment; null: only a wake or an attempt's end brings something new. */
  readonly sleep_ms: number | null
  /** Nothing is left for a lane: with no attempt of its own under way it may return. */
  readonly done: boolean
  /** One line for people: where to, how many are open, what is next and why, what was answered last. */
  readonly details: string
}

/** The lowest open delivery of a resource. */
interface LaneHead {
  readonly delivery_id: number
  readonly state: string
  readonly reason: string | null
  readonly trigger: string
  readonly attempts: number
  readonly unknown_in_row: number
  readonly wait_ms: number
}

interface LaneCounts {
  readonly now: Date
  readonly paused_ms: number
  readonly open: number
  readonly waiting: number
  readonly troubled: boolean
}

/** Beyond so many, "how many are open" is not counted further. */
const COUNTED_MAX = 1_000

/** Plans a lane. `running`: the deliveries whose attempt the lane has under way; others of it in flight were lost. */
export async function planLane(store: Store, hook_id: string, running: readonly number[]): Promise<LanePlan> {
  return write(store, async (trx) => {
    await answerWakes(trx, laneWorkflowId(hook_id))
    await settleLost(trx, sql`deliveries.hook_id = ${hook_id} and deliveries.id <> all (${running}::bigint[])`)
    // Not locked: it is one row for all attempts of the lane, which end while this reads.
    const hook = await trx.selectFrom('hooks').selectAll().where('id', '=', hook_id).executeTakeFirst()
    if (!hook) return nothing('the hook is gone')
    if (hook.state !== 'active') return nothing(`the hook is ${hook.state}`)
    if (hook.owner === 'sender') return nothing('handed back to the sender')
    const counts = await readCounts(trx, hook)
    if (!counts.paused_ms && !counts.troubled && (await handBack(trx, hook_id)))
      return nothing('handed back to the sender')
    const plan = decideLane(hook, await readHeads(trx, hook_id), running, counts, await lastFailure(trx, hook_id))
    const attended = plan.steps.length + running.length > 0
    await sql`update hooks set attended_until = case when ${attended} then clock_timestamp() + ${ATTENDED}::interval end
      where id = ${hook_id} and (${attended} or attended_until is not null)`.execute(trx)
    return plan
  })
}

const nothing = (details: string): LanePlan => ({ steps: [], sleep_ms: null, done: true, details })

/**
 * Gives a hook back to its sender, unless something of it failed meanwhile. What fails right after this gives it to the
 * lane anew.
 */
async function handBack(trx: Trx, hook_id: string): Promise<boolean> {
  await trx.selectFrom('hooks').select('id').where('id', '=', hook_id).forNoKeyUpdate().execute()
  const { numAffectedRows } = await sql`
    update hooks set owner = 'sender', attended_until = null where id = ${hook_id} and not ${troubled(hook_id)}`.execute(
    trx,
  )
  const given = numAffectedRows === 1n
  if (given) leave(trx, 'deliveries')
  return given
}

/** Any that failed before, or waits: as long as there is one the hook stays in its lane. */
const troubled = (hook_id: string) => sql`exists (select from deliveries where hook_id = ${hook_id} and state in ${OPEN}
  and (state = 'waiting' or attempts > 0))`

async function readCounts(trx: Trx, hook: Hook): Promise<LaneCounts> {
  const { rows } = await sql<LaneCounts>`
    select record_now() as now, greatest(0, ceil(extract(epoch from ${hook.paused_until}::timestamptz - record_now()) * 1000))::int as paused_ms,
      count(*) as open, count(*) filter (where state = 'waiting') as waiting,
      ${troubled(hook.id)} as troubled
    from (select state from deliveries where hook_id = ${hook.id} and state in ${OPEN} limit ${COUNTED_MAX}) counted`.execute(
    trx,
  )
  return { ...rows[0]!, paused_ms: rows[0]!.paused_ms ?? 0 }
}

async function readHeads(trx: Trx, hook_id: string): Promise<LaneHead[]> {
  const { rows } = await sql<LaneHead>`
    with recursive ${headsOf(sql`hooks.id = ${hook_id}`)}
    select id as delivery_id, deliveries.state, reason, trigger, attempts, unknown_in_row,
      -- At most a day, so that it fits an int: nothing is planned further ahead.
      greatest(0, least(86400000, ceil(extract(epoch from deliveries.next_attempt_at - now.at) * 1000)))::int as wait_ms
    from heads join deliveries using (id), (select record_now() as at) now order by id`.execute(trx)
  return rows
}

/** What the receiver did last to a delivery that is open still. */
async function lastFailure(trx: Trx, hook_id: string): Promise<string | undefined> {
  const { rows } = await sql<{ outcome: string }>`
    select outcome from delivery_attempts where outcome <> 'delivered' and delivery_id = (
      select id from deliveries where hook_id = ${hook_id} and state in ${OPEN} and attempts > 0
      order by resource_type, resource_id, sequence limit 1)
    order by number desc limit 1`.execute(trx)
  return rows[0]?.outcome
}

function decideLane(
  hook: Hook,
  heads: readonly LaneHead[],
  running: readonly number[],
  counts: LaneCounts,
  failure: string | undefined,
): LanePlan {
  const in_flight = heads.filter((head) => head.state === 'in_flight' || running.includes(head.delivery_id))
  const ready = heads.filter((head) => !in_flight.includes(head))
  // A pause holds up everything but what a person asks for.
  const wait_of = (head: LaneHead): number => Math.max(head.wait_ms, head.trigger === 'manual' ? 0 : counts.paused_ms)
  const due = ready.filter((head) => wait_of(head) === 0)
  const places = Math.min(LANE_IN_FLIGHT_MAX, hook.in_flight_max)
  const room = Math.max(0, places - Math.max(in_flight.length, running.length))
  const first_attempts = due.filter((head) => head.attempts === 0)
  const retries = due.filter((head) => head.attempts > 0)
  const retries_running = in_flight.filter((head) => head.attempts > 0).length
  const retries_max = first_attempts.length ? Math.max(1, Math.floor(RETRIES_SHARE * places)) - retries_running : room
  const chosen = [...retries.slice(0, Math.max(0, retries_max)), ...first_attempts].slice(0, room)
  const steps = chosen.map(
    (row): LaneStep => ({ delivery_id: row.delivery_id, attempt: row.attempts + 1, why: whyNow(row) }),
  )
  const later = ready.filter((head) => wait_of(head) > 0)
  const sleep_ms = later.length ? Math.min(...later.map(wait_of)) : null
  const next =
    sleep_ms === null ? 'when an attempt ends' : `at ${new Date(counts.now.getTime() + sleep_ms).toISOString()}`
  const why = counts.paused_ms
    ? 'the receiver asked for a pause'
    : whyNow(later.find((row) => wait_of(row) === sleep_ms))
  const details = `${new URL(hook.uri).host}: ${counts.open}${counts.open === COUNTED_MAX ? ' or more' : ''} open (${counts.waiting} waiting, ${in_flight.length + steps.length} in flight), next ${next}${why ? `: ${why}` : ''}${failure ? `; last answer ${failure}` : ''}`
  return { steps, sleep_ms, done: false, details }
}

function whyNow(row: LaneHead | undefined): string {
  if (!row) return ''
  if (row.trigger === 'manual') return 'asked for by a person'
  if (row.unknown_in_row > 0) return 'the last attempt was lost'
  return row.attempts > 0 ? `retry by ${row.reason ?? 'schedule'}` : 'first attempt'
}

/**
 * Wakes the lanes of a shard that have something new to send and are not about to look by themselves. Events are
 * written without a wake for each: the senders, who look anyway, do this for all.
 */
export async function wakeLanes(store: Store, shard: number): Promise<void> {
  const idle = sql`
    hooks.shard = ${shard} and hooks.owner = 'lane' and hooks.state = 'active'
      and (attended_until is null or attended_until < clock_timestamp())
      and (paused_until is null or paused_until <= record_now())
      and exists (select from deliveries as head where head.hook_id = hooks.id and head.state in ('pending', 'parked')
        and not exists (select from deliveries as other where other.hook_id = head.hook_id
          and other.resource_type = head.resource_type and other.resource_id = head.resource_id and other.sequence < head.sequence and other.state in ${OPEN}))`
  const { rows } = await sql<{ id: string }>`select id from hooks where ${idle}`.execute(store.db)
  if (!rows.length) return
  await write(store, async (trx) => {
    const { rows: woken } = await sql<{ id: string; project_id: string }>`
      update hooks set attended_until = clock_timestamp() + ${WAKE_SPACING}::interval where ${idle}
      returning id, project_id`.execute(trx)
    await wake(
      trx,
      woken.map((hook) => ({ target: laneWorkflowId(hook.id), project_id: hook.project_id })),
    )
  })
}
