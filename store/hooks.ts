/**
 * Hooks: who wants to be told of what, and where. Each change of a hook raises its sequence and writes an event; a
 * repeat changes nothing. The secret is shown once, by `insertHook`, and kept sealed.
 */
import { createHash, randomBytes } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import type { Cause, HookFilter } from '../domain/record.ts'
import { laneWorkflowId, SENDER_SHARDS } from '../domain/workflow-ids.ts'
import type { Trx } from './database.ts'
import type { Envelope } from './envelope.ts'
import { type Hook, type HookRequest, lockHook, recordHookEvent } from './hook-rows.ts'
import { wake } from './outbox.ts'
import type { Tables } from './tables.ts'

export type { Hook, HookRequest }

export const HOOKS_PER_PROJECT_MAX = 50
const SECRET_BYTES = 32

export interface NewHook {
  readonly id?: string
  readonly project_id: string
  readonly user_id: string
  /** As `checkHookUri` returned it. */
  readonly uri: string
  readonly description?: string | null
  readonly version?: string
  readonly format?: 'json' | 'cloud_state'
  readonly filter?: HookFilter
  readonly timeout_ms?: number
  readonly in_flight_max?: number
  /** Null: the default schedule. */
  readonly schedule_ms?: number[] | null
  readonly cause: Cause
}

export interface HookChanges {
  readonly uri?: string
  readonly description?: string | null
  readonly filter?: HookFilter
  readonly timeout_ms?: number
  readonly in_flight_max?: number
  readonly schedule_ms?: number[] | null
}

/**
 * Makes a hook. The same (project, uri, version, filter, format) again gives the hook that is there, without its
 * secret. Throws DomainError `limit_reached` beyond 50 hooks of a project.
 */
export async function insertHook(
  trx: Trx,
  hook: NewHook,
  envelope: Envelope,
): Promise<{ hook: Hook; secret: string | null; created: boolean }> {
  // The project's row serialises its hooks being made: the count and the search for a twin hold until the commit.
  await sql`select id from projects where id = ${hook.project_id} for no key update`.execute(trx)
  const present = await listHooks(trx, hook.project_id)
  const filter = JSON.stringify(hook.filter ?? {})
  const { rows } = await sql<{ id: string }>`
    select id from hooks where project_id = ${hook.project_id} and state <> 'deleted' and uri = ${hook.uri}
      and version = ${hook.version ?? 'v1'} and format = ${hook.format ?? 'json'} and filter = ${filter}::jsonb`.execute(
    trx,
  )
  const twin = present.find((other) => other.id === rows[0]?.id)
  if (twin) return { hook: twin, secret: null, created: false }
  if (present.length >= HOOKS_PER_PROJECT_MAX) {
    throw new DomainError('limit_reached', `a project has at most ${HOOKS_PER_PROJECT_MAX} hooks`)
  }
  const id = hook.id ?? newId()
  const made = await trx
    .insertInto('hooks')
    .values({
      id,
      project_id: hook.project_id,
      user_id: hook.user_id,
      uri: hook.uri,
      description: hook.description ?? null,
      version: hook.version ?? 'v1',
      format: hook.format ?? 'json',
      filter,
      shard: shardOf(id),
      sequence: 1,
      ...(hook.timeout_ms === undefined ? {} : { timeout_ms: hook.timeout_ms }),
      ...(hook.in_flight_max === undefined ? {} : { in_flight_max: hook.in_flight_max }),
      schedule_ms: hook.schedule_ms ?? null,
    })
    .returningAll()
    .executeTakeFirstOrThrow()
  const secret = `whsec_${randomBytes(SECRET_BYTES).toString('base64')}`
  await trx
    .insertInto('hook_secrets')
    .values({ id: newId(), hook_id: id, sealed: envelope.seal(secret, id) })
    .execute()
  await recordHookEvent(trx, made, 'hook.created', null, hook.cause)
  return { hook: made, secret, created: true }
}

/** The stable place of a hook among the senders. */
export function shardOf(hook_id: string): number {
  return createHash('sha256').update(hook_id).digest().readUInt32BE(0) % SENDER_SHARDS
}

/** The hook, also a disabled one; undefined when it is not there, deleted, or another project's. */
export async function findHook(db: Kysely<Tables>, project_id: string, id: string): Promise<Hook | undefined> {
  return db
    .selectFrom('hooks')
    .selectAll()
    .where('id', '=', id)
    .where('project_id', '=', project_id)
    .where('state', '<>', 'deleted')
    .executeTakeFirst()
}

/** All hooks of a project, newest first: at most 50, so there are no pages. */
export async function listHooks(db: Kysely<Tables>, project_id: string): Promise<Hook[]> {
  return db
    .selectFrom('hooks')
    .selectAll()
    .where('project_id', '=', project_id)
    .where('state', '<>', 'deleted')
    .orderBy('id', 'desc')
    .execute()
}

/** Changes what is given; what is equal already is no change and no event. Waiting deliveries go by the new values. */
export async function updateHook(trx: Trx, request: HookRequest, changes: HookChanges): Promise<Hook> {
  const hook = await lockHook(trx, request)
  const { filter, ...plain } = changes
  const wanted = Object.entries(plain).filter(
    ([field, value]) => value !== undefined && !isDeepStrictEqual(value, hook[field as keyof Hook]),
  )
  const filter_text = filter && JSON.stringify(filter)
  const { rows } = await sql<{
    same: boolean
  }>`select ${filter_text ?? null}::jsonb is not distinct from ${JSON.stringify(hook.filter)}::jsonb as same`.execute(
    trx,
  )
  const filter_changed = filter_text !== undefined && !rows[0]?.same
  if (!wanted.length && !filter_changed) return hook
  const changed = await trx
    .updateTable('hooks')
    .set({
      ...Object.fromEntries(wanted),
      ...(filter_changed ? { filter: filter_text } : {}),
      sequence: hook.sequence + 1,
    })
    .where('id', '=', hook.id)
    .returningAll()
    .executeTakeFirstOrThrow()
  await recordHookEvent(trx, changed, 'hook.updated', hook.state, request.cause)
  return changed
}

/** Deletes a hook: what was still to be sent is cancelled, the log stays. A repeat finds nothing and says false. */
export async function deleteHook(trx: Trx, request: HookRequest): Promise<boolean> {
  const hook = await lockHook(trx, request).catch((error: unknown) => {
    if (error instanceof DomainError && error.code === 'not_found') return undefined
    throw error
  })
  if (!hook) return false
  const changed = await setState(trx, hook, 'deleted', null)
  await trx
    .updateTable('deliveries')
    .set({ state: 'cancelled', reason: null, settled_at: sql<Date>`record_now()` })
    .where('hook_id', '=', hook.id)
    .where('state', 'in', ['pending', 'waiting', 'parked'])
    .execute()
  await recordHookEvent(trx, changed, 'hook.deleted', hook.state, request.cause)
  await wakeLane(trx, hook)
  return true
}

/** Stops sending: events are still kept for the hook, parked in order, until it is enabled. */
export async function disableHook(trx: Trx, request: HookRequest & { readonly reason: string }): Promise<Hook> {
  const hook = await lockHook(trx, request)
  return hook.state === 'disabled' ? hook : disableLocked(trx, hook, request.reason, request.cause)
}

/** The same for a hook whose row the caller has locked: a receiver may ask for it in its answer. */
export async function disableLocked(trx: Trx, hook: Hook, reason: string, cause: Cause): Promise<Hook> {
  const changed = await setState(trx, hook, 'disabled', reason)
  await trx
    .updateTable('deliveries')
    .set({ state: 'parked', reason: 'endpoint_disabled' })
    .where('hook_id', '=', hook.id)
    .where('state', 'in', ['pending', 'waiting'])
    .execute()
  await recordHookEvent(trx, changed, 'hook.state_changed', hook.state, cause)
  return changed
}

/** Sends again, beginning with what was parked, in order. */
export async function enableHook(trx: Trx, request: HookRequest): Promise<Hook> {
  const hook = await lockHook(trx, request)
  if (hook.state !== 'disabled') return hook
  const changed = await setState(trx, hook, 'active', null)
  await trx
    .updateTable('deliveries')
    .set({ state: 'pending', reason: null, next_attempt_at: sql<Date>`record_now()` })
    .where('hook_id', '=', hook.id)
    .where('state', '=', 'parked')
    .execute()
  await recordHookEvent(trx, changed, 'hook.state_changed', hook.state, request.cause)
  await wakeLane(trx, hook)
  return changed
}

/** The sealed secrets that sign now, newest first; the envelope opens them with the hook's id as context. */
export async function hookSecrets(db: Kysely<Tables>, hook_id: string): Promise<Buffer[]> {
  const rows = await db
    .selectFrom('hook_secrets')
    .select('sealed')
    .where('hook_id', '=', hook_id)
    .where((eb) => eb.or([eb('expires_at', 'is', null), eb('expires_at', '>', sql<Date>`clock_timestamp()`)]))
    .orderBy('created_at', 'desc')
    .execute()
  return rows.map((row) => row.sealed)
}

async function setState(trx: Trx, hook: Hook, state: Hook['state'], reason: string | null): Promise<Hook> {
  return trx
    .updateTable('hooks')
    .set({ state, state_reason: reason, paused_until: null, failures_in_row: 0, sequence: hook.sequence + 1 })
    .where('id', '=', hook.id)
    .returningAll()
    .executeTakeFirstOrThrow()
}

async function wakeLane(trx: Trx, hook: Hook): Promise<void> {
  if (hook.owner === 'lane') await wake(trx, [{ target: laneWorkflowId(hook.id), project_id: hook.project_id }])
}
