/** Instances and orders as the Cloud State dialect reads and keeps them. */
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError, type Problem } from '../domain/errors.ts'
import { registerCallbacks } from './callbacks.ts'
import type { Trx } from './database.ts'
import type { Envelope } from './envelope.ts'
import { recordEvents } from './events.ts'
import { CAN_END, HAS_MACHINE } from './instances.ts'
import {
  type AcceptedOrder,
  type Caller,
  type CheckedEntry,
  type CheckedOrder,
  findByExternalIds,
  insertOrder,
  keepInline,
} from './orders.ts'
import { makeSshKeys } from './ssh-keys.ts'
import type { Tables } from './tables.ts'

/** One instance of a Cloud State order. */
export interface CloudStateEntry extends CheckedEntry {
  readonly content_hash: Buffer
  readonly callback?: string
}
export interface CloudStateOrder extends Omit<CheckedOrder, 'entries'> {
  readonly entries: readonly CloudStateEntry[]
}

/**
 * Accepts an order with the caller's own uuids. The same uuids with the same content again are the order there is;
 * uuids that are taken otherwise are a `conflict` that names each, and nothing is accepted; those of instances that were
 * deleted are taken for good. An instance without the name of a key gets one of its own.
 */
export async function acceptCloudStateOrder(
  trx: Trx,
  caller: Caller,
  order: CloudStateOrder,
  envelope: Envelope,
): Promise<AcceptedOrder> {
  const { project_id } = caller
  const present = new Map(
    (await findByExternalIds(trx, project_id, order.entries)).map((row) => [row.external_id ?? row.id, row]),
  )
  const problems = order.entries.flatMap(({ external_id, content_hash }, i): Problem[] => {
    const row = external_id === undefined ? undefined : present.get(external_id)
    const path = `body.instances[${i}].uuid`
    if (!row) return present.size ? [{ path, reason: 'is new, others of this order are not' }] : []
    if (row.dismissed_at) return [{ path, reason: `${external_id} was used by an instance that was deleted` }]
    if (!row.content_hash?.equals(content_hash)) return [{ path, reason: `${external_id} is there with other content` }]
    return []
  })
  const orders = new Set([...present.values()].map((row) => row.order_id))
  const deleted = [...present.values()].find((row) => row.dismissed_at)
  if (problems.length || orders.size > 1) {
    const message = deleted
      ? `uuid ${deleted.external_id ?? deleted.id} was used by an instance that was deleted; use a new one`
      : 'instances with these uuids are there already, and not as sent now'
    throw new DomainError('conflict', message, { problems })
  }
  const [order_id] = orders
  if (order_id) return { order_id, project_id, outbox_id: null }
  const accepted = (await insertOrder(trx, caller, newId(), order, null, null))!
  await keepInline(trx, caller, accepted.order_id, order)
  const { instances } = accepted.made!
  await makeSshKeys(
    trx,
    instances.filter((_, i) => !order.entries[i]!.spec?.key_name),
    envelope,
  )
  const by_address = Map.groupBy(instances.keys(), (i) => order.entries[i]!.callback)
  for (const [uri, places] of by_address)
    if (uri !== undefined)
      await registerCallbacks(
        trx,
        caller,
        places.map((i) => instances[i]!.id),
        uri,
        envelope,
      )
  return accepted
}

const instances = (db: Kysely<Tables>, project_id: string) =>
  db
    .selectFrom('instances')
    .innerJoin('items', 'items.instance_id', 'instances.id')
    .leftJoin('clouds', 'clouds.id', 'instances.cloud_id')
    .leftJoin('ssh_keys', 'ssh_keys.instance_id', 'instances.id')
    .selectAll('instances')
    .select([
      'items.last_error',
      'clouds.name as cloud',
      'clouds.last_list_sent_at as last_checked_at',
      'ssh_keys.name as key_made_name',
      'ssh_keys.fingerprint',
      CAN_END.as('can_end'),
      sql<boolean>`instances.stale_since is not null or clouds.stale_since is not null`.as('stale'),
      sql<{ id: string; uri: string }[]>`array(
        select json_build_object('id', callbacks.id, 'uri', hooks.uri) from callbacks
        join hooks on hooks.id = callbacks.hook_id where callbacks.instance_id = instances.id order by callbacks.id)`.as(
        'callbacks',
      ),
    ])
    .where('instances.project_id', '=', project_id)
    .where('instances.dismissed_at', 'is', null)

/** One instance, by our id or its caller's; undefined: not there, dismissed, or another project's. */
export function findCloudStateInstance(db: Kysely<Tables>, project_id: string, id_or_uuid: string) {
  return instances(db, project_id)
    .where((where) =>
      where.or([where('instances.id', '=', id_or_uuid), where('instances.external_id', '=', id_or_uuid)]),
    )
    .executeTakeFirst()
}

export type CloudStateInstance = NonNullable<Awaited<ReturnType<typeof findCloudStateInstance>>>

/** Instances of a project, newest first. */
export function listCloudStateInstances(
  db: Kysely<Tables>,
  project_id: string,
  query: {
    readonly order_id?: string | undefined
    readonly states?: readonly string[] | undefined
    readonly before?: string | undefined
    readonly limit: number
  },
) {
  let rows = instances(db, project_id).orderBy('instances.id', 'desc').limit(query.limit)
  if (query.before) rows = rows.where('instances.id', '<', query.before)
  if (query.order_id) rows = rows.where('instances.order_id', '=', query.order_id)
  if (query.states) rows = rows.where(sql<boolean>`instances.state = any(${[...query.states]}::text[])`)
  return rows.execute()
}

/** Locks an instance of which a change is to start from this version. Throws `version_mismatch`. */
export async function requireVersion(trx: Trx, instance_id: string, version: number): Promise<void> {
  const { sequence } = await trx
    .selectFrom('instances')
    .select('sequence')
    .where('id', '=', instance_id)
    .forNoKeyUpdate()
    .executeTakeFirstOrThrow()
  if (sequence !== version)
    throw new DomainError('version_mismatch', `instance ${instance_id} is at version ${sequence}, not ${version}`)
}

/**
 * Gives an instance another name, ours only: its machine keeps the one it was made with. Throws `conflict` where the
 * inventory gives the name.
 */
export async function renameInstance(trx: Trx, caller: Caller, instance_id: string, name: string): Promise<void> {
  const row = await trx
    .selectFrom('instances')
    .selectAll()
    .where('id', '=', instance_id)
    .where('project_id', '=', caller.project_id)
    .forNoKeyUpdate()
    .executeTakeFirst()
  if (!row) throw new DomainError('not_found', `instance ${instance_id} does not exist`)
  if (row.name === name) return
  const named = await trx.selectFrom('inventory').select('id').where('instance_id', '=', instance_id).executeTakeFirst()
  if (named) throw new DomainError('conflict', `instance ${instance_id} has its name from the inventory, and keeps it`)
  const sequence = row.sequence + 1
  await trx.updateTable('instances').set({ name, sequence }).where('id', '=', instance_id).execute()
  await recordEvents(trx, [
    {
      project_id: row.project_id,
      resource_type: 'instance',
      resource_id: instance_id,
      sequence,
      type: 'instance.renamed',
      from: row.state,
      to: row.state,
      snapshot: { name, order_id: row.order_id, deployment_id: row.deployment_id, before: row.name },
      cause: { actor: { user_id: caller.user_id, request_id: caller.request_id }, reason: 'requested' },
    },
  ])
}

/** Takes an instance that is over from the lists of this dialect. Throws `conflict` while it is not over. */
export async function dismissInstance(trx: Trx, instance: CloudStateInstance): Promise<void> {
  const { rows } = await sql`
    update instances set dismissed_at = coalesce(dismissed_at, record_now())
    where id = ${instance.id} and state in ('terminated', 'failed', 'missing') and not ${HAS_MACHINE}
    returning id`.execute(trx)
  if (!rows.length)
    throw new DomainError('conflict', `instance ${instance.id} is not over: stop it first, or use ?terminate=true`)
}
