/**
 * Callbacks: an address that is told of the changes of one instance. All callbacks of a project to the same address are
 * one hook, so that they share its order, its pauses and its lane.
 */
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import { Overtaken, type Trx } from './database.ts'
import type { Envelope } from './envelope.ts'
import { deleteHook, insertHook } from './hooks.ts'
import type { Caller } from './orders.ts'
import type { Tables } from './tables.ts'

const causeOf = ({ user_id, request_id }: Caller) => ({ actor: { user_id, request_id }, reason: 'requested' })

/**
 * The hook behind an address, made when it is new, and kept from being ended until the commit. `uri` as `checkHookUri`
 * returned it. Throws `Overtaken` where the last callback has left it meanwhile.
 */
async function laneOf(trx: Trx, caller: Caller, uri: string, envelope: Envelope): Promise<string> {
  const { project_id, user_id } = caller
  const cause = causeOf(caller)
  const { hook } = await insertHook(trx, { project_id, user_id, uri, format: 'cloud_state', cause }, envelope)
  const kept = await trx
    .selectFrom('hooks')
    .select('id')
    .where('id', '=', hook.id)
    .where('state', '<>', 'deleted')
    .forKeyShare()
    .executeTakeFirst()
  if (!kept) throw new Overtaken('the lane was ended meanwhile')
  return hook.id
}

/** Registers one address for some instances of the caller's; one that is there already stays. */
export async function registerCallbacks(
  trx: Trx,
  caller: Caller,
  instance_ids: readonly string[],
  uri: string,
  envelope: Envelope,
): Promise<void> {
  if (!instance_ids.length) return
  const hook_id = await laneOf(trx, caller, uri, envelope)
  const { project_id } = caller
  await trx
    .insertInto('callbacks')
    .values(instance_ids.map((instance_id) => ({ id: newId(), project_id, instance_id, hook_id })))
    .onConflict((conflict) => conflict.columns(['instance_id', 'hook_id']).doNothing())
    .execute()
}

/** Registers a callback; the same again is the one that is there. Returns its id. */
export async function registerCallback(
  trx: Trx,
  caller: Caller,
  instance_id: string,
  uri: string,
  envelope: Envelope,
): Promise<string> {
  await registerCallbacks(trx, caller, [instance_id], uri, envelope)
  const [callback] = await listCallbacks(trx, caller.project_id, { instance_id, uri, limit: 1 })
  return callback!.id
}

/** Points a callback to another address; what was waiting for the old one is cancelled. Throws `not_found`. */
export async function redirectCallback(
  trx: Trx,
  caller: Caller,
  callback_id: string,
  uri: string,
  envelope: Envelope,
): Promise<void> {
  const callback = await requireCallback(trx, caller.project_id, callback_id)
  if (callback.uri === uri) return
  const hook_id = await laneOf(trx, caller, uri, envelope)
  const { rows } = await sql`
    update callbacks set hook_id = ${hook_id} where id = ${callback_id} and not exists (
      select from callbacks as twin where twin.instance_id = callbacks.instance_id and twin.hook_id = ${hook_id})
    returning id`.execute(trx)
  if (!rows.length)
    throw new DomainError('conflict', `the instance has a callback to ${hostOf(uri)} at this address already`)
  await leaveLane(trx, caller, callback.hook_id, [callback.instance_id])
}

const hostOf = (uri: string): string => new URL(uri).host

/** Removes a callback; what was waiting for it is cancelled. Throws `not_found`. */
export async function removeCallback(trx: Trx, caller: Caller, callback_id: string): Promise<void> {
  const callback = await requireCallback(trx, caller.project_id, callback_id)
  await trx.deleteFrom('callbacks').where('id', '=', callback_id).execute()
  await leaveLane(trx, caller, callback.hook_id, [callback.instance_id])
}

/** Leaves an instance with callbacks to these addresses and no other. */
export async function replaceCallbacks(
  trx: Trx,
  caller: Caller,
  instance_id: string,
  uris: readonly string[],
  envelope: Envelope,
): Promise<void> {
  const present = await listCallbacks(trx, caller.project_id, { instance_id, limit: 1_000 })
  for (const { id, uri } of present) if (!uris.includes(uri)) await removeCallback(trx, caller, id)
  for (const uri of uris) await registerCallbacks(trx, caller, [instance_id], uri, envelope)
}

/** Cancels what waits for instances that left a lane, and ends the lane when nobody is left on it. */
async function leaveLane(trx: Trx, caller: Caller, hook_id: string, instance_ids: readonly string[]): Promise<void> {
  // Whoever enters the lane locks it as well (`laneOf`): they are waited for here, and counted.
  await trx.selectFrom('hooks').select('id').where('id', '=', hook_id).forUpdate().execute()
  await trx
    .updateTable('deliveries')
    .set({ state: 'cancelled', reason: null, settled_at: sql<Date>`record_now()` })
    .where('hook_id', '=', hook_id)
    .where('resource_id', 'in', instance_ids)
    .where('state', 'in', ['pending', 'waiting', 'parked'])
    .execute()
  const left = await trx.selectFrom('callbacks').select('id').where('hook_id', '=', hook_id).limit(1).executeTakeFirst()
  if (!left) await deleteHook(trx, { project_id: caller.project_id, id: hook_id, cause: causeOf(caller) })
}

async function requireCallback(trx: Trx, project_id: string, callback_id: string) {
  const callback = await findCallback(trx, project_id, callback_id)
  if (!callback) throw new DomainError('not_found', `callback ${callback_id} does not exist`)
  return callback
}

const callbacks = (db: Kysely<Tables>, project_id: string) =>
  db
    .selectFrom('callbacks')
    .innerJoin('hooks', 'hooks.id', 'callbacks.hook_id')
    .innerJoin('instances', 'instances.id', 'callbacks.instance_id')
    .selectAll('callbacks')
    .select([
      'hooks.uri',
      'hooks.state as lane_state',
      sql<string>`coalesce(instances.external_id, instances.id::text)`.as('uuid'),
    ])
    .where('callbacks.project_id', '=', project_id)

/** One callback; undefined: not there, or another project's. */
export function findCallback(db: Kysely<Tables>, project_id: string, callback_id: string) {
  return callbacks(db, project_id).where('callbacks.id', '=', callback_id).executeTakeFirst()
}

export type ShownCallback = NonNullable<Awaited<ReturnType<typeof findCallback>>>

/** Callbacks of a project, newest first. */
export function listCallbacks(
  db: Kysely<Tables>,
  project_id: string,
  query: {
    readonly instance_id?: string | undefined
    readonly uri?: string | undefined
    readonly before?: string | undefined
    readonly limit: number
  },
) {
  let rows = callbacks(db, project_id).orderBy('callbacks.id', 'desc').limit(query.limit)
  if (query.instance_id) rows = rows.where('callbacks.instance_id', '=', query.instance_id)
  if (query.uri) rows = rows.where('hooks.uri', '=', query.uri)
  if (query.before) rows = rows.where('callbacks.id', '<', query.before)
  return rows.execute()
}
