/**
 * Credentials of accounts at clouds, kept by projects: sealed with their id as context, never shown, erased when nothing
 * needs them. One that its cloud refuses, or that has expired, holds the work that needs it until it is replaced.
 */
import { type Kysely, type Selectable, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import type { Cause } from '../domain/record.ts'
import { leave, type Store, type Trx, write } from './database.ts'
import { lastEventId, recordEvents } from './events.ts'
import type { Caller } from './orders.ts'
import type { CredentialsTable, Tables } from './tables.ts'

export interface NewCredential {
  readonly id: string
  readonly cloud_id: string
  readonly name: string
  /** Sealed for its id. */
  readonly sealed: Buffer
  readonly expires_at: Date | null
  /** The order it comes with. */
  readonly order_id?: string
}

export interface CredentialChange {
  readonly name?: string
  readonly sealed?: Buffer
  readonly expires_at?: Date | null
}

type CredentialRow = Selectable<CredentialsTable>

const actorCause = ({ user_id, request_id }: Caller): Cause => ({
  actor: { user_id, request_id },
  reason: 'requested',
})

/** Keeps a credential. Throws `conflict` where the project has one of that name. */
export async function insertCredential(trx: Trx, caller: Caller, credential: NewCredential): Promise<void> {
  const made = await trx
    .insertInto('credentials')
    .values({ ...credential, project_id: caller.project_id, sequence: 1 })
    .onConflict((conflict) => conflict.columns(['project_id', 'name']).where('sealed', 'is not', null).doNothing())
    .returningAll()
    .executeTakeFirst()
  if (!made) throw new DomainError('conflict', `there is a credential named ${credential.name} already`)
  await tell(trx, made, 'credential.created', actorCause(caller))
}

async function tell(trx: Trx, row: CredentialRow, type: string, cause: Cause): Promise<void> {
  const { id, project_id, name, cloud_id, order_id, sequence, expires_at, refused_at, version } = row
  await recordEvents(trx, [
    {
      project_id,
      resource_type: 'credential',
      resource_id: id,
      sequence,
      type,
      snapshot: { name, cloud_id, order_id, version, expires_at, refused: refused_at !== null },
      cause,
    },
  ])
}

async function lockCredential(trx: Trx, id: string): Promise<CredentialRow | undefined> {
  return trx.selectFrom('credentials').selectAll().where('id', '=', id).forNoKeyUpdate().executeTakeFirst()
}

async function lockOwn(trx: Trx, caller: Caller, id: string, if_match: number | undefined): Promise<CredentialRow> {
  const row = await lockCredential(trx, id)
  if (!row?.sealed || row.project_id !== caller.project_id)
    throw new DomainError('not_found', `there is no credential ${id}`)
  if (if_match !== undefined && if_match !== row.sequence)
    throw new DomainError('version_mismatch', `credential ${id} is at version ${row.sequence}, not ${if_match}`)
  return row
}

/** Changes a credential; a new secret or term lets what it held up go on. */
export async function changeCredential(
  trx: Trx,
  caller: Caller,
  id: string,
  { name, sealed, expires_at }: CredentialChange,
  if_match: number | undefined,
): Promise<void> {
  const row = await lockOwn(trx, caller, id, if_match)
  const renamed = name !== undefined && name !== row.name
  const moved = expires_at !== undefined && expires_at?.getTime() !== row.expires_at?.getTime()
  if (!renamed && !moved && !sealed) return
  if (renamed) {
    const { project_id } = caller
    const taken = await findCredential(trx, project_id, { name })
    if (taken) throw new DomainError('conflict', `there is a credential named ${name} already`)
  }
  const after = await trx
    .updateTable('credentials')
    .set({
      ...(renamed ? { name } : {}),
      ...(moved ? { expires_at } : {}),
      ...(sealed
        ? { sealed, version: row.version + 1, refused_at: null, replaced_at: sql<Date>`clock_timestamp()` }
        : {}),
      sequence: row.sequence + 1,
    })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirstOrThrow()
  await tell(trx, after, sealed ? 'credential.replaced' : 'credential.updated', actorCause(caller))
  if (sealed || moved) await wakeHeld(trx, id)
}

/** Wakes what goes by a credential: orders that are not over, actions that wait, the watcher of its cloud. */
async function wakeHeld(trx: Trx, credential_id: string): Promise<void> {
  for (const topic of ['outbox', 'machines'] as const) leave(trx, topic)
  await sql`
    insert into outbox (target, project_id)
    select 'order/' || id, project_id from launch_orders
      where (due_at is not null or state not in ('running', 'cancelled', 'terminated', 'failed'))
        and exists (select from jsonb_each_text(credentials) as used where used.value = ${credential_id})
    union
    select 'instance/' || instances.id, instances.project_id from instances join actions on actions.instance_id = instances.id
      where instances.credential_id = ${credential_id} and actions.state in ('queued', 'running')
    union
    select 'cloud/' || clouds.name, null from credentials join clouds on clouds.id = credentials.cloud_id
      where credentials.id = ${credential_id}`.execute(trx)
}

/** How a cloud refused a credential. */
export interface Refusal {
  readonly message: string
  readonly at: string
}

/**
 * Its cloud does not take it: noted once, and nothing more is asked with it until it is replaced. What was sent before
 * its last replacement was refused for the secret of then.
 */
export async function refuseCredential(trx: Trx, id: string, answer: Refusal, sent_at: Date): Promise<void> {
  const after = await trx
    .updateTable('credentials')
    .set({ refused_at: sql<Date>`record_now()`, sequence: sql<number>`sequence + 1` })
    .where('id', '=', id)
    .where('refused_at', 'is', null)
    .where('sealed', 'is not', null)
    .where((where) => where.or([where('replaced_at', 'is', null), where('replaced_at', '<=', sent_at)]))
    .returningAll()
    .executeTakeFirst()
  if (!after) return
  const evidence = { observed_at: answer.at }
  await tell(trx, after, 'credential.refused', { rule: 'refused_by_cloud', reason: answer.message, evidence })
}

/** The same in a transaction of its own. */
export function noteRefused(store: Store, id: string, answer: Refusal, sent_at: Date): Promise<void> {
  return write(store, (trx) => refuseCredential(trx, id, answer, sent_at))
}

/** The machines of its account were listed, all of them. */
export async function noteListed(db: Kysely<Tables>, id: string, sent_at: Date): Promise<void> {
  await db.updateTable('credentials').set({ listed_at: sent_at }).where('id', '=', id).execute()
}

/** Erases a credential. Throws `conflict` while something of an order goes by it. */
export async function dropCredential(
  trx: Trx,
  caller: Caller,
  id: string,
  if_match: number | undefined,
): Promise<void> {
  const row = await lockOwn(trx, caller, id, if_match)
  const { rows } = await sql<{ machines: number; orders: number }>`
    select (select count(*)::int from launch_attempts where credential_id = ${id} and ${NEEDED}) as machines,
      (select count(*)::int from launch_orders where state not in ('running', 'cancelled', 'terminated', 'failed')
        and project_id = ${caller.project_id}
        and exists (select from jsonb_each_text(credentials) as used where used.value = ${id})) as orders`.execute(trx)
  const { machines, orders } = rows[0]!
  if (machines || orders)
    throw new DomainError(
      'conflict',
      `credential ${row.name} is needed for ${machines} machines and ${orders} open orders; end them first`,
    )
  await erase(trx, row.id, actorCause(caller))
}

/** An attempt that has, or may come to have, a machine, or one that is still to be told that it is not ours any more. */
const NEEDED = sql`(gone_at is null and (provider_id is not null or state in ('open', 'sent', 'unknown'))
  or exists (select from taggings where attempt_id = launch_attempts.id))`

async function erase(trx: Trx, id: string, cause: Cause): Promise<void> {
  const after = await trx
    .updateTable('credentials')
    .set({ sealed: null, erased_at: sql<Date>`record_now()`, sequence: sql<number>`sequence + 1` })
    .where('id', '=', id)
    .where('sealed', 'is not', null)
    .returningAll()
    .executeTakeFirst()
  if (after) await tell(trx, after, 'credential.erased', cause)
}

const ERASED_AT_ONCE = 100

/** So long a machine may still turn up that a cloud did not tell of, or told to be gone. */
const WATCHED_ON = sql`interval '1 hour'`

/**
 * Erases credentials that came with an order which is over, with all its machines gone: also in the order's own eyes, which
 * could heal them, and with no create of which nobody knows what came of it.
 */
export async function eraseEnded(trx: Trx): Promise<void> {
  const { rows } = await sql<{ id: string; order_id: string }>`
    select credentials.id, order_id from credentials join launch_orders on launch_orders.id = order_id
    where sealed is not null and launch_orders.due_at is null and state in ('running', 'cancelled', 'terminated', 'failed')
      and not exists (select from launch_attempts where credential_id = credentials.id and ${NEEDED})
      and not exists (select from instances where instances.order_id = credentials.order_id
        and instances.state not in ('terminated', 'failed', 'missing'))
      and not exists (select from items where items.order_id = credentials.order_id
        and items.state in ('queued', 'claimed', 'creating', 'starting', 'running'))
      and not exists (select from launch_attempts where credential_id = credentials.id and state = 'lost'
        and gone_at is null and settle_at > clock_timestamp() - ${WATCHED_ON})
    order by credentials.id limit ${ERASED_AT_ONCE} for no key update of credentials`.execute(trx)
  for (const { id, order_id } of rows) {
    const event = await lastEventId(trx, 'order', order_id)
    const reason = `order ${order_id} is over and none of its machines is left`
    await erase(trx, id, { rule: 'order_over', reason, ...(event ? { event } : {}) })
  }
}

/** State of a credential; one that was erased is as one whose term is over. */
const STATE = sql<'ok' | 'refused' | 'expired'>`case when credentials.refused_at is not null then 'refused'
  when credentials.sealed is null or credentials.expires_at <= record_now() then 'expired' else 'ok' end`

const credentials = (db: Kysely<Tables>, project_id: string) =>
  db
    .selectFrom('credentials')
    .innerJoin('clouds', 'clouds.id', 'credentials.cloud_id')
    .select([
      'credentials.id',
      'credentials.name',
      'credentials.cloud_id',
      'credentials.order_id',
      'credentials.version',
      'credentials.created_at',
      'credentials.expires_at',
      'credentials.refused_at',
      'credentials.sequence',
      'clouds.name as cloud',
      STATE.as('state'),
      sql<number>`(select count(*)::int from launch_attempts where credential_id = credentials.id and ${NEEDED})`.as(
        'machines',
      ),
    ])
    .where('credentials.project_id', '=', project_id)
    .where('credentials.sealed', 'is not', null)

/** One credential of a project, by id or name; without its secret. */
export function findCredential(
  db: Kysely<Tables>,
  project_id: string,
  by: { readonly id: string } | { readonly name: string },
) {
  const rows = credentials(db, project_id)
  return (
    'id' in by ? rows.where('credentials.id', '=', by.id) : rows.where('credentials.name', '=', by.name)
  ).executeTakeFirst()
}

export type ShownCredential = NonNullable<Awaited<ReturnType<typeof findCredential>>>

/** Credentials of a project, newest first. */
export function listCredentials(
  db: Kysely<Tables>,
  project_id: string,
  page: { readonly limit: number; readonly before?: string | undefined },
) {
  const rows = credentials(db, project_id).orderBy('credentials.id', 'desc').limit(page.limit)
  return (page.before ? rows.where('credentials.id', '<', page.before) : rows).execute()
}

/** How the account of a credential is: whether its cloud takes it, and when its machines were listed last. */
export interface AccountState {
  readonly state: ShownCredential['state']
  readonly listed_at: Date | null
}

/** By cloud id, how the accounts are that an order came with (cloud id to credential id). */
export async function accountsByCloud(
  db: Kysely<Tables>,
  credentials: Readonly<Record<string, string>>,
): Promise<ReadonlyMap<string, AccountState>> {
  const ids = Object.values(credentials)
  if (!ids.length) return new Map()
  const rows = await db
    .selectFrom('credentials')
    .select(['id', 'listed_at', STATE.as('state')])
    .where('id', 'in', ids)
    .execute()
  const account_of = new Map(rows.map(({ id, ...account }): [string, AccountState] => [id, account]))
  const gone: AccountState = { state: 'expired', listed_at: null }
  return new Map(Object.entries(credentials).map(([cloud_id, id]) => [cloud_id, account_of.get(id) ?? gone]))
}

/**
 * Accounts other than a cloud's own that have, or may come to have, machines of ours there; for a while also those that had
 * some: what a cloud denied may come back.
 */
export async function accountsInUse(db: Kysely<Tables>, cloud_id: string): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select id from credentials
    where cloud_id = ${cloud_id} and sealed is not null and refused_at is null
      and (exists (select from launch_attempts where credential_id = credentials.id and gone_at is null)
        or exists (select from launch_attempts where credential_id = credentials.id and gone_at > record_now() - ${WATCHED_ON}))
    order by id`.execute(db)
  return rows.map(({ id }) => id)
}
