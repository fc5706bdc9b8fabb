/**
 * The outbox: "look again at this workflow". A row is a wake, never a command; what there is to do stands in the
 * record. Rows are claimed by moving `not_before`, so that no transaction stays open during a call to the engine, and
 * deleted once the engine has taken the signal, or by the plan that answers them.
 */
import { type Kysely, sql } from 'kysely'
import type { WorkflowId } from '../domain/workflow-ids.ts'
import { isAmong, leave, type Trx } from './database.ts'
import type { Tables } from './tables.ts'

export interface Wake {
  readonly target: WorkflowId
  /** `start`: the noun is new, made in the same transaction. Any run of its flow has seen it, and needs no signal. */
  readonly kind?: 'start' | 'wake'
  readonly project_id?: string | null
  /** The noun's `attended_until`: it is being worked on and looks again by itself; delayed until then, never dropped. */
  readonly attended_until?: Date | null
  readonly delay_ms?: number
}

/** Queues wakes in the caller's transaction; several for one target are one. */
export async function wake(trx: Trx, wakes: readonly Wake[]): Promise<void> {
  const by_target = new Map(wakes.map((w) => [w.target, w]))
  if (!by_target.size) return
  // Those of later are found when the relay looks by itself.
  const now = Date.now()
  if (wakes.some((w) => !w.delay_ms && (w.attended_until?.getTime() ?? 0) <= now)) leave(trx, 'outbox')
  await sql`
    insert into outbox (target, project_id, kind, not_before)
    select target, project_id, kind, greatest(clock_timestamp() + delay_ms * interval '1 ms', attended_until)
    from unnest(${[...by_target.keys()]}::text[],
      ${[...by_target.values()].map((w) => w.project_id ?? null)}::uuid[],
      ${[...by_target.values()].map((w) => w.kind ?? 'wake')}::text[],
      ${[...by_target.values()].map((w) => w.attended_until ?? null)}::timestamptz[],
      ${[...by_target.values()].map((w) => w.delay_ms ?? 0)}::int[]) as w (target, project_id, kind, attended_until, delay_ms)`.execute(
    trx,
  )
}

/** A plan answers every wake it can see: called before it reads. */
export async function answerWakes(trx: Trx, target: WorkflowId): Promise<void> {
  await trx.deleteFrom('outbox').where('target', '=', target).execute()
}

/** Lets delayed wakes of a target go at once: its flow stops attending. */
export async function releaseWakes(trx: Trx, target: WorkflowId): Promise<void> {
  leave(trx, 'outbox')
  await sql`update outbox set not_before = clock_timestamp() where target = ${target} and not_before > clock_timestamp()`.execute(
    trx,
  )
}

export interface ClaimedWake {
  readonly target: WorkflowId
  readonly project_id: string | null
  /** `start` where all its rows say so. */
  readonly kind: 'start' | 'wake'
  readonly ids: readonly number[]
}

/** Takes due rows, oldest first, for `claim_ms`; one entry a target. */
export async function claimWakes(db: Kysely<Tables>, limit: number, claim_ms: number): Promise<ClaimedWake[]> {
  const { rows } = await sql<Omit<ClaimedWake, 'ids'> & { id: number }>`
    update outbox set not_before = clock_timestamp() + ${claim_ms} * interval '1 ms'
    from (select id from outbox where not_before <= clock_timestamp() order by id limit ${limit} for update skip locked) due
    where outbox.id = due.id returning outbox.id, target, project_id, kind`.execute(db)
  const by_target = Map.groupBy(
    rows.toSorted((a, b) => a.id - b.id),
    ({ target }) => target,
  )
  return [...by_target].map(([target, of_target]) => ({
    target,
    project_id: of_target[0]!.project_id,
    kind: of_target.every(({ kind }) => kind === 'start') ? 'start' : 'wake',
    ids: of_target.map(({ id }) => id),
  }))
}

/** Deletes what was handed over. */
export async function forgetWakes(db: Kysely<Tables>, ids: readonly number[]): Promise<void> {
  if (ids.length)
    await db
      .deleteFrom('outbox')
      .where(isAmong('id', ids, 'bigint'))
      .execute()
}
