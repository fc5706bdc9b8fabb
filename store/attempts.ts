/**
 * Launch attempts: what was sent to a cloud, and what is known of it. An attempt is committed before it is sent; its id
 * is tag and idempotency token. Locks: order, attempt, instance.
 */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { Extra, InstanceSpec } from '../domain/launch-order.ts'
import type { Machine } from '../domain/machine.ts'
import type { AttemptError, Cause } from '../domain/record.ts'
import { orderWorkflowId } from '../domain/workflow-ids.ts'
import { releaseClaims } from './claims.ts'
import { refuseCredential } from './credentials.ts'
import { isAmong, leave, type Store, type Trx, write } from './database.ts'
import { changeInstances, type InstanceChange, lockInstances, tellInstance } from './instances.ts'
import { countedError } from './item-errors.ts'
import { wake } from './outbox.ts'
import type { Tables } from './tables.ts'

/** The declared properties of a cloud that the record's rules depend on. */
export interface CloudTraits {
  readonly idempotency_tokens: boolean
  readonly settle_ms: number
  readonly list_lag_ms: number
  readonly call_timeout_ms: number
  readonly boot_timeout_ms: number
}

/** One machine to ask for. */
export interface AttemptToSend {
  readonly attempt_id: string
  /** Number of this send of it. */
  readonly send: number
  readonly name: string
  readonly size: string
  readonly image: string
  readonly spec: InstanceSpec
  /** Of the key that was made for its first login. */
  readonly public_key: string | null
  /** Of its order, and its own in front of it. */
  readonly extra: readonly Extra[]
  readonly sealed_user_data: Buffer | null
}

/** The cloud of a batch, and the account it is created with (null: the cloud's own). */
export function findBatchCloud(db: Kysely<Tables>, { order_id, batch }: BatchKey) {
  return db
    .selectFrom('launch_attempts')
    .innerJoin('clouds', 'clouds.id', 'launch_attempts.cloud_id')
    .selectAll('clouds')
    .select('launch_attempts.credential_id as account')
    .where('order_id', '=', order_id)
    .where('batch', '=', batch)
    .limit(1)
    .executeTakeFirst()
}

/** How long a wake may wait for the create step that is about to look again by itself. */
export const ATTENDED_MS = 4_000

/**
 * Marks the due attempts of a batch as sent, just before they are. An attempt that was sent before and not answered is
 * sent again only where the cloud has idempotency tokens; elsewhere it becomes unknown and is looked for by its tag.
 * Nothing is sent for an order that is ending.
 */
export function markSent(store: Store, order_id: string, batch: number, traits: CloudTraits): Promise<AttemptToSend[]> {
  // A list sent after this shows what was carried out at the last moment.
  const settles_in_ms = traits.call_timeout_ms + traits.settle_ms + traits.list_lag_ms
  return write(store, async (trx) => {
    const order = await lockAttended(trx, order_id, Math.min(traits.call_timeout_ms, ATTENDED_MS))
    if (order?.wish !== 'run' || order.state === 'compensating' || order.state === 'failed') return []
    const resendable = traits.idempotency_tokens ? ['open', 'sent', 'unknown'] : ['open']
    const { rows } = await sql<Omit<AttemptToSend, 'extra'> & { extra: Extra }>`
      with doubted as (
        update launch_attempts set state = 'unknown' where not ${traits.idempotency_tokens}::boolean
          and order_id = ${order_id} and batch = ${batch} and state = 'sent')
      update launch_attempts set state = 'sent', sends = sends + 1, sent_at = clock_timestamp(), next_send_at = null,
        settle_at = clock_timestamp() + ${settles_in_ms} * interval '1 ms',
        error = case due.state when 'sent' then jsonb_build_object('class', 'lost_reply', 'at', now(),
          'message', 'it was sent, and what the cloud answered was lost') else error end
      from (
        select attempt.id, attempt.state, instance.name, instance.size, instance.image, instance.spec, instance.extra, instance.sealed_user_data,
          (select public_key from ssh_keys where ssh_keys.instance_id = instance.id)
        from launch_attempts attempt join instances instance on instance.id = attempt.instance_id
        where attempt.order_id = ${order_id} and attempt.batch = ${batch} and attempt.state = any(${resendable}::text[])
          and coalesce(attempt.next_send_at, '-infinity') <= clock_timestamp() and instance.wish <> 'terminate'
        order by attempt.id for no key update of attempt
      ) due where launch_attempts.id = due.id returning launch_attempts.id as attempt_id,
        launch_attempts.sends as send, due.name, due.size, due.image, due.spec, due.extra,
        due.sealed_user_data, due.public_key`.execute(trx)
    leave(trx, 'machines')
    return rows.map((row) => ({
      ...row,
      extra: [row.extra, order.extra],
      sealed_user_data: row.sealed_user_data ?? order.sealed_user_data,
    }))
  })
}

/** Locks an order whose step is about to look again by itself: wakes of others may wait for that. */
const lockAttended = (trx: Trx, order_id: string, for_ms: number) =>
  trx
    .updateTable('launch_orders')
    .set({ attended_until: sql<Date>`clock_timestamp() + ${for_ms} * interval '1 ms'` })
    .where('id', '=', order_id)
    .returningAll()
    .executeTakeFirst()

export interface SendOutcome {
  readonly attempt_id: string
  readonly send: number
  /** The machine the cloud acknowledged. */
  readonly machine?: Machine
  readonly error?: AttemptError & { readonly retry_after_ms?: number }
}

/** First pause after an unreachable or unanswered send; it doubles up to the second. */
const BACKOFF_FIRST_MS = 500
const BACKOFF_MAX_MS = 10_000

/**
 * Stores what a batch of creates was answered. A machine counts whenever it is told of, also after the attempt was given
 * up; an error only while its send is the last one, since what another send comes to is not known by it.
 */
export async function storeOutcomes(store: Store, order_id: string, outcomes: readonly SendOutcome[]): Promise<void> {
  if (!outcomes.length) return
  await write(store, async (trx) => {
    const order = await lockAttended(trx, order_id, ATTENDED_MS)
    if (!order) return
    const attempts = await lockAttempts(
      trx,
      outcomes.map((outcome) => outcome.attempt_id),
    )
    const acknowledged: { attempt: AttemptRow; machine: Machine; how: string }[] = []
    for (const outcome of outcomes) {
      const attempt = attempts.get(outcome.attempt_id)
      if (!attempt) continue
      if (outcome.machine) acknowledged.push({ attempt, machine: outcome.machine, how: 'create_acknowledged' })
      else if (outcome.error && attempt.state === 'sent' && attempt.sends === outcome.send)
        await storeError(trx, attempt, outcome.error)
    }
    await bindMachines(trx, order, acknowledged)
    leave(trx, 'machines')
    await wake(trx, [
      {
        target: orderWorkflowId(order_id),
        project_id: order.project_id,
        delay_ms: ATTENDED_MS,
      },
    ])
  })
}

type AttemptRow = Awaited<ReturnType<typeof lockAttempts>> extends Map<string, infer R> ? R : never

/** Locks attempts; `is_served`: one of their item has won. Nobody else changes that while the order is locked. */
export async function lockAttempts(trx: Trx, attempt_ids: readonly string[]) {
  const rows = await trx
    .selectFrom('launch_attempts')
    .selectAll()
    .select(
      sql<boolean>`exists (select from launch_attempts winner where winner.item_id = launch_attempts.item_id
        and winner.state = 'won' and winner.gone_at is null)`.as('is_served'),
    )
    .where(isAmong('id', attempt_ids))
    .orderBy('id')
    .forNoKeyUpdate()
    .execute()
  return new Map(rows.map((row) => [row.id, row]))
}

interface NextSend {
  readonly state: 'open' | 'unknown' | 'lost'
  readonly at: RawBuilder<Date> | null
}

/** What an error leaves of an attempt, and when it is sent again; null: it is not. */
function nextSend(attempt: AttemptRow, error: NonNullable<SendOutcome['error']>, in_doubt: boolean): NextSend {
  const backoff_ms = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.max(0, attempt.sends - 1))
  const again = sql<Date>`clock_timestamp() + ${error.retry_after_ms ?? backoff_ms} * interval '1 ms'`
  if (passes(error)) return { state: in_doubt ? 'unknown' : 'open', at: again }
  if (error.class === 'lost_reply') return { state: 'unknown', at: again }
  // A refusal counts when it comes again after the silence.
  if (in_doubt) return { state: 'unknown', at: sql<Date>`greatest(settle_at, ${again})` }
  return { state: 'lost', at: null }
}

const passes = (error: AttemptError): boolean => error.class === 'throttled' || error.class === 'unavailable'

async function storeError(trx: Trx, attempt: AttemptRow, error: NonNullable<SendOutcome['error']>): Promise<void> {
  const { retry_after_ms: _, ...kept } = error
  // What this send is answered says nothing of one before it that was not: that one may have made a machine.
  const in_doubt = attempt.error?.class === 'lost_reply'
  const next = nextSend(attempt, error, in_doubt)
  await trx
    .updateTable('launch_attempts')
    .set({
      state: next.state,
      error: JSON.stringify(in_doubt && passes(error) ? attempt.error : kept),
      answered_at: sql<Date>`clock_timestamp()`,
      next_send_at: next.at,
      gone_at: next.state === 'lost' ? sql<Date>`record_now()` : null,
    })
    .where('id', '=', attempt.id)
    .execute()
  if (error.class === 'auth' && attempt.credential_id)
    await refuseCredential(trx, attempt.credential_id, kept, attempt.sent_at ?? new Date(0))
  if (next.state !== 'lost') return
  await releaseClaims(trx, [attempt.id])
  await trx
    .updateTable('items')
    .set({
      last_error: JSON.stringify(kept),
      state: 'queued',
      errors: countedError(sql`${JSON.stringify(kept)}::jsonb`),
    })
    .where('id', '=', attempt.item_id)
    .where('state', '=', 'creating')
    .execute()
}

/**
 * Binds machines to the attempts they belong to, however they became known: by the answer or by the watcher. A machine
 * whose item is served already, or not wanted any more, is surplus: recorded, told, and deleted by its order's flow.
 * Returns the instances that a machine was bound to.
 */
export async function bindMachines(
  trx: Trx,
  order: { wish: string; state: string; id: string },
  found: readonly { attempt: AttemptRow; machine: Machine; how: string; seen_at?: Date }[],
): Promise<Map<string, string>> {
  const fresh = found.filter(({ attempt }) => attempt.provider_id === null)
  if (!fresh.length) return new Map()
  const ending = order.wish !== 'run' || order.state === 'compensating' || order.state === 'failed'
  const served = new Set(fresh.filter(({ attempt }) => attempt.is_served).map(({ attempt }) => attempt.item_id))
  const instances = await lockInstances(
    trx,
    fresh.map(({ attempt }) => attempt.instance_id),
  )
  const isWanted = (id: string): boolean => {
    const { wish, state } = instances.get(id)!
    return wish !== 'terminate' && state === 'pending'
  }
  const changes: InstanceChange[] = []
  const won: AttemptRow[] = []
  const surplus: { attempt: AttemptRow; cause: Cause }[] = []
  for (const { attempt, machine, how, seen_at } of fresh) {
    const wins = !ending && attempt.state !== 'lost' && isWanted(attempt.instance_id) && !served.has(attempt.item_id)
    const { wish_event } = instances.get(attempt.instance_id)!
    const cause: Cause = {
      rule: wins ? how : 'surplus_machine',
      reason: wins ? 'the cloud has the machine' : 'a late machine nobody needs',
      evidence: {
        attempt_id: attempt.id,
        provider_id: machine.provider_id,
        raw_state: machine.raw_state,
        observed_at: (seen_at ?? new Date()).toISOString(),
        sent_at: attempt.sent_at?.toISOString() ?? null,
      },
      ...(wish_event ? { event: wish_event } : {}),
    }
    if (!wins) surplus.push({ attempt, cause })
    else {
      won.push(attempt)
      served.add(attempt.item_id)
      changes.push({
        id: attempt.instance_id,
        to: 'starting',
        cause,
        cloud_id: attempt.cloud_id,
        credential_id: attempt.credential_id,
        provider_id: machine.provider_id,
        raw_state: machine.raw_state,
        acknowledged: true,
        only_from: ['pending'],
      })
    }
  }
  await storeBound(trx, fresh, won)
  const changed = await changeInstances(trx, changes, instances)
  for (const { attempt, cause } of surplus)
    await tellInstance(trx, attempt.instance_id, 'instance.surplus_found', {}, cause)
  return changed
}

/** Who has which machine, and whether it serves its item. */
async function storeBound(
  trx: Trx,
  bound: readonly { attempt: AttemptRow; machine: Machine }[],
  won: readonly AttemptRow[],
): Promise<void> {
  const rows = bound.map(({ attempt, machine }) => ({
    id: attempt.id,
    state: won.includes(attempt) ? 'won' : 'surplus',
    provider_id: machine.provider_id,
  }))
  const won_items = won.map(({ item_id }) => item_id)
  await sql`
    with started as (update items set state = 'starting' where id = any(${won_items}::uuid[]))
    update launch_attempts set state = bound.state, provider_id = bound.provider_id, answered_at = clock_timestamp(),
      next_send_at = null, gone_at = null
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as bound (id uuid, state text, provider_id text)
    where launch_attempts.id = bound.id`.execute(trx)
}

/** A batch of creates of an order. */
export interface BatchKey {
  readonly order_id: string
  readonly batch: number
}

/** Those of the batches, as `order_id/batch`, that have a machine which was acknowledged and has not been seen to run or fail. */
export async function findStarting(db: Kysely<Tables>, batches: readonly BatchKey[]): Promise<Set<string>> {
  const { rows } = await sql<{ key: string }>`
    select distinct attempt.order_id || '/' || attempt.batch as key
    from unnest(${batches.map(({ order_id }) => order_id)}::uuid[], ${batches.map(({ batch }) => batch)}::int[]) as asked (order_id, batch)
    join launch_attempts attempt using (order_id, batch) join instances on instances.id = attempt.instance_id
    where attempt.state = 'won' and instances.state = 'starting'`.execute(db)
  return new Set(rows.map(({ key }) => key))
}
