/**
 * Instances as PCM orders and reads them: one at one cloud, its room set aside in the request. It never queues: what does not
 * fit now is refused, and spends no name.
 */
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import { DEFAULT_TEMPLATE } from '../domain/pcm/naming.ts'
import type { ResolvedRequest } from '../domain/pcm/request.ts'
import type { Trx } from './database.ts'
import { CAN_END, lookAgain } from './instances.ts'
import { type InventoryEntry, recordName, takeName } from './inventory.ts'
import { type AcceptedOrder, type Caller, insertOrder } from './orders.ts'
import { hasInventory } from './outside-inventory.ts'
import type { Tables } from './tables.ts'

/** A cloud that is away is asked again after this, by whoever wants it. */
const RETRY_AFTER_S = 30

export interface PcmOrder {
  readonly cloud_id: string
  /** Type of provider, as additions name it. */
  readonly provider_type: string
  readonly request: ResolvedRequest
  /** Of the name; null: the usual one. */
  readonly template: string | null
  readonly host_domain: string | null
}

/**
 * Accepts one instance: its name, or the request by which an inventory outside is to be asked for one, its order, its first
 * launch attempt with its claim. Throws `unavailable` where the cloud is disabled or known to be away, `capacity_exceeded`
 * where its allocation is taken (PCM, 503 and 507).
 */
export async function acceptPcmInstance(
  trx: Trx,
  caller: Caller,
  { cloud_id, provider_type, request, template, host_domain }: PcmOrder,
): Promise<{ accepted: AcceptedOrder; instance_id: string }> {
  const cloud = await requireRoom(trx, cloud_id)
  const { size, image, environment, roles, subnet, provider_extra, inventory_extra } = request
  const entry: InventoryEntry = {
    cloud,
    environment,
    roles,
    subnet: subnet?.name ?? null,
    host_domain,
    extra: inventory_extra,
  }
  const { project_id } = caller
  const order_id = newId()
  const named_outside = await hasInventory(trx)
  const name = named_outside
    ? `pcm-${cloud}-${order_id}`
    : await takeName(trx, project_id, template ?? DEFAULT_TEMPLATE, entry)
  const order = {
    name,
    count: 1,
    policy: 'all' as const,
    cloud_ids: [cloud_id],
    size: size.name,
    image: image.name,
    sealed_user_data: null,
    extra: { [provider_type]: provider_extra },
    entries: [{ name, ...(subnet ? { spec: { subnet: subnet.provider_name } } : {}) }],
  }
  const accepted = (await insertOrder(trx, caller, order_id, order, null, null))!
  const instance_id = accepted.made!.instances[0]!.id
  await openFirstAttempt(trx, caller, order_id, cloud_id, named_outside ? 'claimed' : 'creating')
  await recordName(trx, project_id, named_outside ? { request_id: name } : { name }, instance_id, entry)
  // Its own flow asks for the name, and wakes the order when there is one.
  if (named_outside) await lookAgain(trx, [{ id: instance_id, project_id }])
  return { accepted, instance_id }
}

/** Locks the cloud, so that claims are counted truly; returns its name. */
async function requireRoom(trx: Trx, cloud_id: string): Promise<string> {
  const cloud = await trx
    .selectFrom('clouds')
    .select(['id', 'name', 'enabled', 'state', 'allocation', 'last_error'])
    .where('id', '=', cloud_id)
    .forNoKeyUpdate()
    .executeTakeFirstOrThrow()
  const away = cloud.state === 'unreachable' || cloud.state === 'refused'
  if (!cloud.enabled || away) {
    const why = !cloud.enabled
      ? 'is disabled'
      : `is ${cloud.state}: ${cloud.last_error?.message ?? 'it does not answer'}`
    throw new DomainError('unavailable', `Cloud ${cloud.name} ${why}`, { retry_after_s: RETRY_AFTER_S })
  }
  if (cloud.allocation === null) return cloud.name
  const { taken } = await trx
    .selectFrom('claims')
    .select((e) => e.fn.countAll<number>().as('taken'))
    .where('cloud_id', '=', cloud_id)
    .where('released_at', 'is', null)
    .executeTakeFirstOrThrow()
  if (Number(taken) >= cloud.allocation)
    throw new DomainError(
      'capacity_exceeded',
      `Cloud ${cloud.name} is full: all ${cloud.allocation} instances it may have`,
    )
  return cloud.name
}

/** What the first plan would do, done in the request: so the room is the caller's from now on. */
async function openFirstAttempt(
  trx: Trx,
  caller: Caller,
  order_id: string,
  cloud_id: string,
  state: 'claimed' | 'creating',
): Promise<void> {
  const attempt_id = newId()
  await sql`
    with opened as (insert into launch_attempts (id, item_id, instance_id, order_id, number, cloud_id, batch)
        select ${attempt_id}::uuid, id, instance_id, order_id, 1, ${cloud_id}::uuid, 1 from items where order_id = ${order_id}),
      counted as (update items set attempts = 1, state = ${state} where order_id = ${order_id}),
      batched as (update launch_orders set next_batch = 2 where id = ${order_id})
    insert into claims (attempt_id, cloud_id, project_id) values (${attempt_id}, ${cloud_id}, ${caller.project_id})`.execute(
    trx,
  )
}

/** A machine that is gone is shown for so long. */
const SHOWN_AFTER_END_H = 1

const instances = (db: Kysely<Tables>, project_id: string, cloud_id: string) =>
  db
    .selectFrom('instances')
    .innerJoin('launch_orders', 'launch_orders.id', 'instances.order_id')
    .innerJoin('items', 'items.instance_id', 'instances.id')
    .leftJoin('inventory', 'inventory.instance_id', 'instances.id')
    .selectAll('instances')
    .select([
      'items.last_error',
      'inventory.roles',
      'inventory.environment',
      'inventory.subnet',
      'inventory.host_domain',
      'inventory.request_id',
      sql<string | null>`case when inventory.request_id is null then instances.name else inventory.name end`.as(
        'given_name',
      ),
      sql<boolean>`exists (select from launch_attempts where launch_attempts.instance_id = instances.id
        and answered_at is not null and provider_id is not null)`.as('is_known_there'),
    ])
    .where('instances.project_id', '=', project_id)
    .where((where) =>
      where.or([
        where('instances.cloud_id', '=', cloud_id),
        where.and([
          where('instances.cloud_id', 'is', null),
          sql<boolean>`launch_orders.cloud_ids = array[${cloud_id}]::uuid[]`,
        ]),
      ]),
    )
    .where(
      sql<boolean>`(instances.terminated_at > record_now() - ${SHOWN_AFTER_END_H} * interval '1 hour' or ${CAN_END})`,
    )

/** One instance at a cloud; undefined: not there, gone for long, or another project's. */
export function findPcmInstance(db: Kysely<Tables>, project_id: string, cloud_id: string, instance_id: string) {
  return instances(db, project_id, cloud_id).where('instances.id', '=', instance_id).executeTakeFirst()
}

export type PcmInstance = NonNullable<Awaited<ReturnType<typeof findPcmInstance>>>

/** Whether a project has instances at a cloud. */
export async function hasPcmInstances(db: Kysely<Tables>, project_id: string, cloud_id: string): Promise<boolean> {
  const [first] = await instances(db, project_id, cloud_id).limit(1).execute()
  return first !== undefined
}

/** Instances at a cloud, newest first. Where there are more, those that are over are left out before others. */
export async function listPcmInstances(db: Kysely<Tables>, project_id: string, cloud_id: string, limit: number) {
  const rows = await instances(db, project_id, cloud_id)
    .orderBy(CAN_END, 'desc')
    .orderBy('instances.id', 'desc')
    .limit(limit)
    .execute()
  return rows.toSorted((a, b) => (a.id < b.id ? 1 : -1))
}
