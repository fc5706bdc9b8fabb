/**
 * Outcomes of attempts, stored in batches: the delivery's next state, the attempt's log, the hook's own state, and the
 * hand-over of a hook in trouble from the sender to its lane, all in one transaction.
 *
 * An outcome counts only if the delivery is still claimed as it was when the attempt began (claim and number of the
 * send): whoever was overtaken meanwhile loses.
 */
import { sql } from 'kysely'
import { afterAttempt, type NextStep, type Verdict } from '../domain/hook-schedule.ts'
import { laneWorkflowId } from '../domain/workflow-ids.ts'
import { isAmong, type Trx } from './database.ts'
import { disableLocked, type Hook } from './hooks.ts'
import { wake } from './outbox.ts'

/** The claim of all lanes: they fence by the number of the send. Senders claim by their shard's epoch, from 1 on. */
export const LANE_CLAIM = 0
/** A success is noted in the hook's row at most so often. */
const SUCCESS_NOTED = '10 s'

/** What was claimed: enough to store an outcome against it. */
export interface Claimed {
  readonly delivery_id: number
  readonly hook_id: string
  readonly claim: number
  /** Number of this send: the attempt's number in the log. */
  readonly number: number
  readonly trigger: string
  /** Charged attempts before this one. */
  readonly attempts: number
  readonly unknown_in_row: number
}

/** What came of it. Times are real. */
export interface AttemptResult {
  readonly verdict: Verdict
  /** `delivered` or an error class. */
  readonly outcome: string
  readonly status: number | null
  readonly started_at: Date
  readonly ended_at: Date
  readonly retry_after_ms?: number | undefined
  readonly response_headers?: Readonly<Record<string, unknown>> | null
  readonly response_body?: string | null
  readonly remote_address?: string | null
}

export interface Outcome {
  readonly claimed: Claimed
  readonly result: AttemptResult
  /** Uniform in 0…1, for the jitter; drawn by the caller so that a repeated transaction decides alike. */
  readonly random: number
}

/** Stores outcomes and what follows from them. Returns the deliveries whose outcome counted. */
export async function storeOutcomes(
  trx: Trx,
  outcomes: readonly Outcome[],
): Promise<Map<number, NextStep['state'] | 'cancelled'>> {
  const hooks = await readHooks(trx, outcomes)
  const settled = outcomes.map((outcome) => {
    const { claimed, result } = outcome
    const hook = hooks.get(claimed.hook_id)!
    const { schedule_ms } = hook
    const step = afterAttempt({ ...claimed, ...result, schedule_ms, random: outcome.random })
    return { outcome, step, hook }
  })
  const stored = await storeRows(trx, settled)
  const counted = settled.filter(({ outcome }) => stored.has(outcome.claimed.delivery_id))
  for (const { step, hook, outcome } of counted) {
    if (!step.disable || hooks.get(hook.id)?.state !== 'active') continue
    const cause = {
      rule: 'receiver_asked',
      reason: `the receiver asked for no more (status ${outcome.result.status})`,
      evidence: {
        delivery_id: outcome.claimed.delivery_id,
        status: outcome.result.status,
        observed_at: outcome.result.ended_at.toISOString(),
      },
    }
    hooks.set(hook.id, await disableLocked(trx, hook, 'receiver_asked', cause))
  }
  await storeHooks(trx, counted)
  return stored
}

interface Settled {
  readonly outcome: Outcome
  readonly step: NextStep
  readonly hook: Hook
}

/**
 * Hooks that their receivers want disabled are locked, in order of id; the others are only read. A lane's attempts all
 * end at one hook: were it locked from here on they would wait for each other. What was stored open for one that is
 * disabled or deleted meanwhile is found by its sender, see `tidyShard`.
 */
async function readHooks(trx: Trx, outcomes: readonly Outcome[]): Promise<Map<string, Hook>> {
  const ids = new Set(outcomes.map((outcome) => outcome.claimed.hook_id))
  const refused = new Set(outcomes.filter((o) => o.result.verdict === 'disable').map((o) => o.claimed.hook_id))
  const read = (some: readonly string[]) => trx.selectFrom('hooks').selectAll().where(isAmong('id', some)).orderBy('id')
  const locked = refused.size
    ? await read([...refused])
        .forNoKeyUpdate()
        .execute()
    : []
  const others = [...ids.difference(refused)]
  return new Map([...locked, ...(others.length ? await read(others).execute() : [])].map((hook) => [hook.id, hook]))
}

/** The state a delivery gets when its hook was disabled or deleted while the attempt was under way. */
function stateWithin({ step, hook }: Settled): { state: NextStep['state'] | 'cancelled'; reason: string | null } {
  const open = step.state === 'waiting' || step.state === 'pending' || step.state === 'parked'
  if (open && hook.state === 'deleted') return { state: 'cancelled', reason: null }
  if (open && hook.state === 'disabled') return { state: 'parked', reason: 'endpoint_disabled' }
  return step
}

async function storeRows(trx: Trx, settled: readonly Settled[]): Promise<Map<number, NextStep['state'] | 'cancelled'>> {
  const rows = settled.map((entry) => {
    const { claimed, result } = entry.outcome
    const { state, reason } = stateWithin(entry)
    return {
      id: claimed.delivery_id,
      claim: claimed.claim,
      number: claimed.number,
      trigger: claimed.trigger,
      state,
      reason,
      charged: entry.step.charged ? 1 : 0,
      unknown: result.verdict === 'unknown' && !entry.step.charged,
      in_ms: entry.step.in_ms,
      started_at: result.started_at.toISOString(),
      ended_at: result.ended_at.toISOString(),
      outcome: result.outcome,
      status: result.status,
      response_headers: result.response_headers ?? null,
      response_body: result.response_body ?? null,
      remote_address: result.remote_address ?? null,
    }
  })
  const { rows: stored } = await sql<{ id: number; state: NextStep['state'] | 'cancelled' }>`
    with came as materialized (select * from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as came (id bigint, claim bigint, number int,
        trigger text, state text, reason text, charged int, unknown boolean, in_ms bigint, started_at timestamptz,
        ended_at timestamptz, outcome text, status int, response_headers jsonb, response_body text, remote_address text)),
    stored as (
      update deliveries set state = came.state, reason = came.reason, claim = null, trigger = 'schedule',
        attempts = deliveries.attempts + came.charged,
        unknown_in_row = case when came.unknown then deliveries.unknown_in_row + 1 else 0 end,
        next_attempt_at = now.at + came.in_ms * interval '1 ms',
        settled_at = case when came.state in ('delivered', 'exhausted', 'aborted', 'cancelled') then now.at end
      from came, (select record_now() as at) now
      where deliveries.id = came.id and deliveries.state = 'in_flight' and deliveries.claim = came.claim
        and deliveries.sends = came.number
      returning deliveries.id, deliveries.state, deliveries.next_attempt_at),
    logged as (
      insert into delivery_attempts (delivery_id, number, trigger, started_at, ended_at, outcome, status,
        response_headers, response_body, remote_address, next_attempt_at)
      select came.id, came.number, came.trigger, came.started_at, came.ended_at, came.outcome, came.status,
        came.response_headers, came.response_body, came.remote_address,
        case when stored.state in ('waiting', 'pending') then stored.next_attempt_at end
      from came join stored using (id))
    select id, state from stored`.execute(trx)
  return new Map(stored.map((row) => [row.id, row.state]))
}

/** Counts, pause and owner of the hooks concerned, and the wakes of their lanes. */
async function storeHooks(trx: Trx, counted: readonly Settled[]): Promise<void> {
  const by_hook = Map.groupBy(counted, (entry) => entry.hook.id)
  const changes: { id: string; failed: number; succeeded: boolean; pause_ms: number; to_lane: boolean }[] = []
  const lanes: Hook[] = []
  for (const [id, entries] of by_hook) {
    const hook = entries[0]!.hook
    const failed = entries.filter((e) => ['failure', 'abort', 'disable'].includes(e.outcome.result.verdict)).length
    const succeeded = entries.some((entry) => entry.step.state === 'delivered')
    // Of one that is in its lane too: it may be given back at this moment.
    const to_lane = entries.some((entry) => entry.step.state === 'waiting' && entry.step.charged)
    const pause_ms = Math.max(...entries.map((entry) => entry.step.pause_ms))
    if (failed || succeeded || pause_ms || to_lane) changes.push({ id, failed, succeeded, pause_ms, to_lane })
    // A lane looks again by itself when its own attempt ends.
    const foreign = entries.some((entry) => entry.outcome.claimed.claim !== LANE_CLAIM)
    if (foreign && (to_lane || hook.owner === 'lane')) lanes.push(hook)
  }
  if (changes.length) {
    await sql`
      update hooks set
        failures_in_row = case when change.succeeded then 0 else failures_in_row + change.failed end,
        last_success_at = case when change.succeeded then now.at else last_success_at end,
        last_failure_at = case when change.failed > 0 then now.at else last_failure_at end,
        paused_until = case when change.pause_ms > 0 then greatest(paused_until, now.at + change.pause_ms * interval '1 ms')
          else paused_until end,
        owner = case when change.to_lane and state <> 'deleted' then 'lane' else owner end
      from jsonb_to_recordset(${JSON.stringify(changes)}::jsonb) as change (id uuid, failed int, succeeded boolean,
          pause_ms bigint, to_lane boolean), (select record_now() as at) now
      where hooks.id = change.id and (change.failed > 0 or change.pause_ms > 0 or change.to_lane or failures_in_row > 0
        or last_success_at is null or last_success_at < now.at - ${SUCCESS_NOTED}::interval)`.execute(trx)
  }
  await wake(
    trx,
    lanes.map((hook) => ({ target: laneWorkflowId(hook.id), project_id: hook.project_id })),
  )
}
