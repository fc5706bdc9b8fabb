/**
 * Orphans: machines at a cloud with our tag and no attempt of ours. They are told and listed; what becomes of one is a
 * person's decision. Locks: cloud, orphan.
 */
import { type Kysely, type Selectable, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import type { Machine } from '../domain/machine.ts'
import type { AttemptError, Cause } from '../domain/record.ts'
import { cloudWorkflowId } from '../domain/workflow-ids.ts'
import { leave, realNow, type Store, type Trx, write } from './database.ts'
import { recordEvents } from './events.ts'
import type { CloudRow } from './order-plan.ts'
import type { Caller } from './orders.ts'
import { wake } from './outbox.ts'
import type { OrphansTable, Tables } from './tables.ts'
import { requireEpoch } from './watch-epoch.ts'

export type OrphanRow = Selectable<OrphansTable>

/** A machine that was confirmed gone may be shown a little longer by lists that lag. */
const SHOWN_AFTER_GONE_S = 60
/** A removal that the cloud refused is asked for again after this long. */
const RETRY_MS = 5_000
/** Removals of one round. */
const REMOVALS_MAX = 10

/** One event of a cloud that does not change its state. */
export interface CloudNote {
  readonly type: string
  readonly snapshot: Readonly<Record<string, unknown>>
  readonly cause: Cause
}

/** Tells events of a cloud, locked by the caller; returns their ids. */
export async function tellCloud(
  trx: Trx,
  cloud: { readonly id: string; readonly name: string },
  notes: readonly CloudNote[],
): Promise<string[]> {
  if (!notes.length) return []
  const { sequence, state } = await trx
    .updateTable('clouds')
    .set({ sequence: sql<number>`sequence + ${notes.length}` })
    .where('id', '=', cloud.id)
    .returning(['sequence', 'state'])
    .executeTakeFirstOrThrow()
  return recordEvents(
    trx,
    notes.map(({ type, snapshot, cause }, place) => ({
      project_id: null,
      resource_type: 'cloud' as const,
      resource_id: cloud.id,
      sequence: sequence - notes.length + place + 1,
      type,
      from: state,
      to: state,
      snapshot: { name: cloud.name, ...snapshot },
      cause,
    })),
  )
}

/** Machines of an account that nobody knows, seen by a list sent at `sent_at` (real time): listed, and told once. */
export async function noteOrphans(
  store: Store,
  cloud: CloudRow,
  account: string | null,
  machines: readonly Machine[],
  sent_at: Date,
): Promise<void> {
  await write(store, async (trx) => {
    await requireEpoch(trx, cloud, true)
    const rows = machines.map(({ provider_id, attempt_id, raw_state }) => ({ provider_id, tag: attempt_id, raw_state }))
    const listed = await trx
      .selectFrom('orphans')
      .select('provider_id')
      .where('cloud_id', '=', cloud.id)
      .where('gone_at', 'is', null)
      .execute()
    const known = new Set(listed.map(({ provider_id }) => provider_id))
    // With the cloud locked nobody adopts one of them meanwhile.
    const { rows: noted } = await sql<{ provider_id: string; tag: string | null; raw_state: string }>`
      insert into orphans (cloud_id, provider_id, credential_id, tag, raw_state)
      select distinct on (seen.provider_id) ${cloud.id}::uuid, seen.provider_id, ${account}::uuid, seen.tag, seen.raw_state
      from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as seen (provider_id text, tag text, raw_state text)
      where not exists (select from launch_attempts where cloud_id = ${cloud.id}
        and launch_attempts.provider_id = seen.provider_id and (gone_at is null or released_at is not null))
      on conflict (cloud_id, provider_id) do update set last_seen_at = clock_timestamp(), absent_lists = 0,
        raw_state = excluded.raw_state, tag = excluded.tag, gone_at = null,
        removal = case when orphans.gone_at is null then orphans.removal end
      where orphans.gone_at is null
        or orphans.gone_at < ${sent_at}::timestamptz - ${SHOWN_AFTER_GONE_S} * interval '1 s'
      returning provider_id, tag, raw_state`.execute(trx)
    await tellCloud(
      trx,
      cloud,
      noted
        .filter(({ provider_id }) => !known.has(provider_id))
        .map(({ provider_id, tag, raw_state }) => ({
          type: 'cloud.orphan_found',
          snapshot: { provider_id, tag },
          cause: {
            rule: 'no_attempt_of_ours',
            reason: 'a machine with our tag that the record does not know; its removal is a person’s decision',
            evidence: { provider_id, raw_state, observed_at: sent_at.toISOString() },
          },
        })),
    )
  })
}

/**
 * After a complete list of an account: orphans that two of them in a row did not show are gone, and told so. One that is
 * being removed is gone once the cloud says so itself.
 */
export async function noteAbsentOrphans(
  store: Store,
  cloud: CloudRow,
  account: string | null,
  seen_provider_ids: readonly string[],
  sent_at: Date,
): Promise<void> {
  const absent = sql<boolean>`cloud_id = ${cloud.id} and credential_id is not distinct from ${account}::uuid
    and gone_at is null and removal is null and not provider_id = any(${[...seen_provider_ids]}::text[])
    and last_seen_at < ${sent_at}`
  const { rows } = await sql`select from orphans where ${absent} limit 1`.execute(store.db)
  if (!rows.length) return
  await write(store, async (trx) => {
    await requireEpoch(trx, cloud, true)
    const { rows: gone } = await sql<{ provider_id: string; tag: string | null }>`
      with counted as (
        update orphans set absent_lists = absent_lists + 1, gone_at = case when absent_lists >= 1 then clock_timestamp() end
        where ${absent} returning provider_id, tag, gone_at)
      select provider_id, tag from counted where gone_at is not null`.execute(trx)
    await tellCloud(
      trx,
      cloud,
      gone.map(({ provider_id, tag }) => ({
        type: 'cloud.orphan_gone',
        snapshot: { provider_id, tag },
        cause: {
          rule: 'absent_twice',
          reason: 'two complete lists did not show it any more',
          evidence: { provider_id, observed_at: sent_at.toISOString() },
        },
      })),
    )
  })
}

// Removal ------------------------------------------------------------------------------------------------------------

/**
 * Asks for the removal of an orphan; the watcher of its cloud deletes it until it is gone. Again is the same. Throws
 * `not_found` where there is none.
 */
export async function requestRemoval(
  trx: Trx,
  caller: Caller,
  cloud: { readonly id: string; readonly name: string },
  provider_id: string,
): Promise<void> {
  await trx.selectFrom('clouds').select('id').where('id', '=', cloud.id).forNoKeyUpdate().execute()
  const orphan = await findOrphan(trx, cloud.id, provider_id)
  if (!orphan || orphan.gone_at)
    throw new DomainError('not_found', `there is no orphan ${provider_id} at cloud ${cloud.name}`)
  if (orphan.removal) return
  const { user_id, request_id } = caller
  const [event] = await tellCloud(trx, cloud, [
    {
      type: 'cloud.orphan_removal_requested',
      snapshot: { provider_id, tag: orphan.tag },
      cause: { actor: { user_id, request_id }, reason: 'requested' },
    },
  ])
  const removal = { user_id, requested_at: new Date().toISOString(), event: event! }
  await trx
    .updateTable('orphans')
    .set({ removal: JSON.stringify(removal) })
    .where('cloud_id', '=', cloud.id)
    .where('provider_id', '=', provider_id)
    .execute()
  leave(trx, 'machines')
  await wake(trx, [{ target: cloudWorkflowId(cloud.name) }])
}

/** Orphans that a person wants removed and that are due, a few at a time. */
export function orphansToRemove(db: Kysely<Tables>, cloud_id: string): Promise<OrphanRow[]> {
  return db
    .selectFrom('orphans')
    .selectAll()
    .where('cloud_id', '=', cloud_id)
    .where('removal', 'is not', null)
    .where('gone_at', 'is', null)
    .where(sql<boolean>`coalesce((removal ->> 'next_try_at')::timestamptz, '-infinity') <= clock_timestamp()`)
    .orderBy('provider_id')
    .limit(REMOVALS_MAX)
    .execute()
}

/** Stores what removals came to: gone at a moment (real time), or why not yet. One that was merely taken is in neither. */
export async function storeRemovals(
  store: Store,
  cloud: CloudRow,
  outcomes: readonly { orphan: OrphanRow; gone_at?: Date; error?: AttemptError }[],
): Promise<void> {
  if (!outcomes.length) return
  await write(store, async (trx) => {
    await requireEpoch(trx, cloud, true)
    const notes: CloudNote[] = []
    const next_try_at = new Date((await realNow(trx)).getTime() + RETRY_MS).toISOString()
    for (const { orphan, gone_at, error } of outcomes) {
      const { provider_id, tag, removal } = orphan
      const changed = await trx
        .updateTable('orphans')
        .set(gone_at ? { gone_at } : { removal: JSON.stringify({ ...removal, error, next_try_at }) })
        .where('cloud_id', '=', cloud.id)
        .where('provider_id', '=', provider_id)
        .where('gone_at', 'is', null)
        .returning('provider_id')
        .executeTakeFirst()
      if (!changed || !gone_at) continue
      notes.push({
        type: 'cloud.orphan_removed',
        snapshot: { provider_id, tag },
        cause: {
          rule: 'deletion_confirmed',
          reason: 'the cloud has no such machine any more',
          evidence: { provider_id, observed_at: gone_at.toISOString() },
          event: removal!.event,
        },
      })
    }
    await tellCloud(trx, cloud, notes)
  })
}

// Reading ------------------------------------------------------------------------------------------------------------

/** One orphan, also one that is gone. */
export function findOrphan(db: Kysely<Tables>, cloud_id: string, provider_id: string): Promise<OrphanRow | undefined> {
  return db
    .selectFrom('orphans')
    .selectAll()
    .where('cloud_id', '=', cloud_id)
    .where('provider_id', '=', provider_id)
    .executeTakeFirst()
}

/** Orphans that are there, by the cloud's own ids. */
export function listOrphans(
  db: Kysely<Tables>,
  cloud_id: string,
  page: { limit: number; after?: string | undefined },
): Promise<OrphanRow[]> {
  const rows = db
    .selectFrom('orphans')
    .selectAll()
    .where('cloud_id', '=', cloud_id)
    .where('gone_at', 'is', null)
    .orderBy('provider_id')
    .limit(page.limit)
  return (page.after === undefined ? rows : rows.where('provider_id', '>', page.after)).execute()
}
