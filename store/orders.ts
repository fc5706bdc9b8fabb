/**
 * Launch orders in the record: accepting, wishing, reading, and the plan that a flow asks for. What an order needs is
 * decided in domain/order/decide.ts; here it is read under locks and written down.
 */
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import type { Extra, InstanceSpec, OrderTemplate } from '../domain/launch-order.ts'
import { choicesOf } from '../domain/order/choices.ts'
import { orderWorkflowId } from '../domain/workflow-ids.ts'
import { insertCredential, type NewCredential } from './credentials.ts'
import { leave, Overtaken, type Store, type Trx, write } from './database.ts'
import { hasHooks, recordEvents } from './events.ts'
import { wake } from './outbox.ts'
import type { Tables } from './tables.ts'

/** Who asks, by which request. */
export interface Caller {
  readonly project_id: string
  readonly user_id: string
  readonly request_id: string
}

/** An idempotency key with the hash of method, path and body. */
export interface RequestKey {
  readonly key: string
  readonly hash: Buffer
}

/** One instance of an order, its names checked; what is left out is the order's. */
export interface CheckedEntry {
  /** The caller's own id, with the hash of what they said of it. */
  readonly external_id?: string
  readonly content_hash?: Buffer
  readonly name?: string
  readonly size?: string
  readonly image?: string
  readonly spec?: InstanceSpec
  readonly extra?: Extra
  readonly sealed_user_data?: Buffer
  /** Places in the order's list of clouds: the only ones it may go to, by preference. */
  readonly cloud_indexes?: readonly number[]
}

/** A launch order whose names were checked: clouds by id, in order of preference. */
export interface CheckedOrder extends Omit<OrderTemplate, 'clouds' | 'user_data'> {
  readonly cloud_ids: readonly string[]
  readonly sealed_user_data: Buffer | null
  /** Credentials to use at clouds, by cloud id; others are used with the cloud's own. */
  readonly credentials?: Readonly<Record<string, string>>
  /** Those of them that come with the order. */
  readonly inline_credentials?: readonly NewCredential[]
  /** As many as `count`. Left out: all alike. */
  readonly entries?: readonly CheckedEntry[]
}

interface Made {
  readonly deployment_id: string
  readonly created_at: Date
  /** In the order of its entries. */
  readonly instances: readonly { readonly id: string; readonly name: string }[]
}

export interface AcceptedOrder {
  readonly order_id: string
  readonly project_id: string
  /** The outbox row, to be deleted by whoever starts the flow directly. Null: this was accepted before. */
  readonly outbox_id: number | null
  /** What the record filled in, so that the answer needs no further look; undefined: this was accepted before. */
  readonly made?: Made | undefined
}

/**
 * Accepts a launch order in one statement: order, deployment, items, instances, their events and deliveries, the wake,
 * and the idempotency key, all or nothing. The same key with the same request answers the first one's order; with
 * another request it throws `key_reused`.
 */
export async function acceptOrder(
  store: Store,
  caller: Caller,
  order: CheckedOrder,
  key: RequestKey | null,
): Promise<AcceptedOrder> {
  const order_id = newId()
  const accepted = await insertNew(store, caller, order_id, order, key).catch((error: unknown) =>
    error instanceof Overtaken ? refuseTaken(store.db, caller, order) : Promise.reject(error),
  )
  if (accepted) {
    store.onCommit(['outbox', 'events'])
    return accepted
  }
  const earlier = await store.db
    .selectFrom('idempotency_keys')
    .select(['request_hash', 'resource_id'])
    .where('project_id', '=', caller.project_id)
    .where('key', '=', key!.key)
    .executeTakeFirstOrThrow()
  if (!earlier.request_hash.equals(key!.hash)) {
    throw new DomainError('key_reused', 'this Idempotency-Key was used for another request; use a new one')
  }
  return { order_id: earlier.resource_id, project_id: caller.project_id, outbox_id: null }
}

/** One statement; a transaction of several where credentials come with the order. */
function insertNew(
  store: Store,
  caller: Caller,
  order_id: string,
  order: CheckedOrder,
  key: RequestKey | null,
): Promise<AcceptedOrder | null> {
  const insert = (db: Kysely<Tables>) => insertOrder(db, caller, order_id, order, key, null, store.hand_over_after_ms)
  if (!order.inline_credentials?.length) return insert(store.db)
  return write(store, async (trx) => {
    const accepted = await insert(trx)
    if (accepted) await keepInline(trx, caller, order_id, order)
    return accepted
  })
}

/** Keeps the credentials that came with an order. */
export async function keepInline(trx: Trx, caller: Caller, order_id: string, order: CheckedOrder): Promise<void> {
  for (const credential of order.inline_credentials ?? [])
    await insertCredential(trx, caller, { ...credential, order_id })
}

/** Throws `conflict`, naming which of the caller's own ids are taken. */
async function refuseTaken(db: Kysely<Tables>, caller: Caller, { entries = [] }: CheckedOrder): Promise<never> {
  const taken = await findByExternalIds(db, caller.project_id, entries)
  const problems = entries.flatMap(({ external_id }, i) =>
    taken.some((row) => row.external_id === external_id)
      ? [{ path: `body.instances[${i}].external_id`, reason: 'is the id of another instance of this project' }]
      : [],
  )
  throw new DomainError('conflict', 'ids of yours are those of instances there are', { problems })
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Instances of a project by their caller's own ids; one that came without is known to its caller by ours. */
export async function findByExternalIds(
  db: Kysely<Tables>,
  project_id: string,
  entries: readonly Pick<CheckedEntry, 'external_id'>[],
) {
  const ids = entries.flatMap(({ external_id }) => external_id ?? [])
  const may_be_ours = ids.filter((id) => UUID.test(id))
  return db
    .selectFrom('instances')
    .select(['id', 'external_id', 'order_id', 'content_hash', 'dismissed_at'])
    .where('project_id', '=', project_id)
    .where(
      sql<boolean>`(external_id = any(${ids}::text[]) or (external_id is null and id = any(${may_be_ours}::uuid[])))`,
    )
    .execute()
}

/**
 * The statement behind `acceptOrder`; others use it inside a transaction of theirs. Null: the key is taken. Throws
 * `Overtaken` where an id of the caller's own was taken.
 */
export async function insertOrder(
  db: Kysely<Tables>,
  caller: Caller,
  order_id: string,
  order: CheckedOrder,
  key: RequestKey | null,
  origin: { lease_id: string; rule: string; reason: string; event: string } | null,
  hand_over_after_ms = 0,
): Promise<AcceptedOrder | null> {
  const instances = instancesOf(order, await pricesFor(db, order))
  const wanted = JSON.stringify(instances)
  const cause = origin
    ? { rule: origin.rule, reason: origin.reason, event: origin.event }
    : { actor: { user_id: caller.user_id, request_id: caller.request_id }, reason: 'requested' }
  const { rows } = await sql<{ outbox_id: number; deployment_id: string; created_at: Date; has_hooks: boolean }>`
    with keyed as (
      insert into idempotency_keys (project_id, key, request_hash, status, resource_type, resource_id)
      select ${caller.project_id}::uuid, ${key?.key ?? ''}, ${key?.hash ?? Buffer.alloc(0)}::bytea, 202, 'order', ${order_id}::uuid
      where ${key !== null}::boolean on conflict do nothing returning true as fresh
    ), fresh as materialized (
      select 'evt_' || ulid() as order_event where ${key === null}::boolean or exists (select from keyed)
    ), deployment as (
      insert into deployments (id, project_id, name, sequence)
      select ${newId()}::uuid, ${caller.project_id}::uuid, ${order.deployment ?? order_id}::text, 1 from fresh
      on conflict (project_id, name) do update set name = excluded.name
      returning id, name, (xmax = 0) as made
    ), placed as (
      insert into launch_orders (id, project_id, user_id, deployment_id, lease_id, name, policy, at_least, count, cloud_ids,
        size, image, sealed_user_data, extra, credentials, priority, healing, healing_max, hold, placement,
        retry_budget, deadline_at, wished_by, wish_event, sequence, due_at)
      select ${order_id}::uuid, ${caller.project_id}::uuid, ${caller.user_id}::uuid, deployment.id, ${origin?.lease_id ?? null}::uuid,
        ${order.name}::text, ${order.policy}::text, ${order.at_least ?? null}::int, ${order.count}::int, ${[...order.cloud_ids]}::uuid[],
        ${order.size}::text, ${order.image}::text, ${order.sealed_user_data}::bytea, ${JSON.stringify(order.extra ?? {})}::jsonb,
        ${JSON.stringify(order.credentials ?? {})}::jsonb,
        ${order.priority ?? 0}::int, ${order.healing ?? 'none'}::text, ${order.healing_max ?? null}::int,
        ${order.hold ?? false}::boolean, ${order.placement ?? 'in_order'}::text, ${JSON.stringify(order.retry_budget ?? {})}::jsonb,
        ${order.deadline_at ?? null}::timestamptz, ${caller.user_id}::uuid, fresh.order_event, 1, record_now()
      from deployment, fresh returning id, created_at
    ), wanted as (
      select * from jsonb_to_recordset(${wanted}::jsonb) as t (id uuid, number int, external_id text, content_hash text,
        name text, size text, image text, spec jsonb, extra jsonb, user_data text, cloud_indexes int[])
    ), made_instances as (
      insert into instances (id, project_id, deployment_id, order_id, external_id, content_hash, name, size, image, spec,
        extra, sealed_user_data, wished_by, wish_event, sequence)
      select wanted.id, ${caller.project_id}::uuid, deployment.id, placed.id, wanted.external_id,
        decode(wanted.content_hash, 'base64'), wanted.name, wanted.size, wanted.image, coalesce(wanted.spec, '{}'),
        coalesce(wanted.extra, '{}'), decode(wanted.user_data, 'base64'), ${caller.user_id}::uuid, fresh.order_event, 1
      from wanted, deployment, placed, fresh returning id, name
    ), made_items as (
      insert into items (id, order_id, number, instance_id, cloud_indexes)
      select gen_random_uuid(), placed.id, wanted.number, wanted.id, wanted.cloud_indexes from wanted, placed
    ), told as (
      insert into events (id, project_id, resource_type, resource_id, sequence, type, to_state, snapshot, cause)
      select coalesce(told.id, 'evt_' || ulid()), ${caller.project_id}::uuid, told.resource_type, told.resource_id, 1,
        told.resource_type || '.created', told.state, told.snapshot, told.cause
      from (
        select 0 as place, fresh.order_event as id, 'order' as resource_type, placed.id as resource_id, 'queued' as state,
          jsonb_build_object('name', ${order.name}::text, 'deployment_id', deployment.id, 'count', ${order.count}::int,
            'policy', ${order.policy}::text, 'partial', false) as snapshot,
          ${JSON.stringify(cause)}::jsonb as cause
        from placed, deployment, fresh
        union all
        select 1, null, 'deployment', deployment.id, 'queued', jsonb_build_object('name', deployment.name),
          jsonb_build_object('rule', 'order_accepted', 'reason', 'first order of the deployment', 'event', fresh.order_event)
        from deployment, placed, fresh where deployment.made
        union all
        select 1 + wanted.number, null, 'instance', wanted.id, 'pending',
          jsonb_build_object('name', wanted.name, 'order_id', placed.id, 'deployment_id', deployment.id),
          jsonb_build_object('rule', 'order_accepted', 'reason', 'item of an accepted order', 'event', fresh.order_event)
        from wanted, placed, deployment, fresh
        order by 1
      ) told
    )
    insert into outbox (target, project_id, kind, not_before)
    select ${orderWorkflowId(order_id)}::text, ${caller.project_id}::uuid, 'start', clock_timestamp() + ${hand_over_after_ms} * interval '1 ms' from placed
    returning id as outbox_id, (select id from deployment) as deployment_id, (select created_at from placed) as created_at, ${hasHooks(sql`outbox.project_id`)} as has_hooks`
    .execute(db)
    .catch((error: unknown) => {
      const { code, constraint } = error as { code?: string; constraint?: string }
      if (code !== '23505' || constraint !== 'instances_project_id_external_id_key') throw error
      throw new Overtaken('an id of the caller is taken')
    })
  if (!rows[0]) return null
  const { outbox_id, has_hooks, ...made } = rows[0]
  for (const topic of ['outbox', 'events'] as const) leave(db, topic)
  if (has_hooks) leave(db, 'deliveries')
  return { order_id, project_id: caller.project_id, outbox_id, made: { ...made, instances } }
}

type Prices = readonly (Readonly<Record<string, number>> | undefined)[]

/** What sizes cost at the clouds of an order that asks for the cheapest; not looked up for others. */
async function pricesFor(db: Kysely<Tables>, { placement, cloud_ids }: CheckedOrder): Promise<Prices> {
  if (placement !== 'cheapest') return []
  const rows = await db.selectFrom('clouds').select(['id', 'prices']).where('id', 'in', cloud_ids).execute()
  return cloud_ids.map((id) => rows.find((row) => row.id === id)?.prices)
}

/** What an order makes: its entries, completed by what the order says for all, each with its own list of clouds. */
function instancesOf(order: CheckedOrder, prices: Prices) {
  const { entries = Array.from({ length: order.count }, (): CheckedEntry => ({})), placement = 'in_order' } = order
  const all = [...order.cloud_ids.keys()]
  return entries.map(({ sealed_user_data, content_hash, cloud_indexes, ...entry }, i) => {
    const size = entry.size ?? order.size
    const choices = choicesOf(placement, cloud_indexes ?? all, i, (index) => prices[index]?.[size])
    return {
      id: newId(),
      number: i + 1,
      name: entries.length > 1 ? `${order.name}-${i + 1}` : order.name,
      image: order.image,
      ...entry,
      size,
      ...(choices === all ? {} : { cloud_indexes: choices }),
      ...(sealed_user_data ? { user_data: sealed_user_data.toString('base64') } : {}),
      ...(content_hash ? { content_hash: content_hash.toString('base64') } : {}),
    }
  })
}

/** An order as readers see it. */
export function findOrder(db: Kysely<Tables>, project_id: string, order_id: string) {
  return db
    .selectFrom('launch_orders')
    .selectAll()
    .where('id', '=', order_id)
    .where('project_id', '=', project_id)
    .executeTakeFirst()
}

/** A `withdraw` ends what does not run yet and keeps what does. */
export type OrderWish = 'withdraw' | 'cancel' | 'terminate'

/**
 * Wishes the end of an order. Before it has settled that is a cancel, afterwards a termination, whatever was asked for:
 * the lock decides which came first. A repeat changes nothing. Throws `not_found`, `version_mismatch`.
 */
export async function endOrder(
  store: Store,
  caller: Caller,
  order_id: string,
  options: { if_match?: number | undefined; keep_running?: boolean } = {},
): Promise<void> {
  await write(store, async (trx) => {
    const order = await lockOrder(trx, order_id)
    if (!order || order.project_id !== caller.project_id)
      throw new DomainError('not_found', `launch order ${order_id} does not exist`)
    if (options.if_match !== undefined && options.if_match !== order.sequence) {
      throw new DomainError(
        'version_mismatch',
        `launch order ${order_id} is at version ${order.sequence}, not ${options.if_match}`,
      )
    }
    await wishEnd(
      trx,
      order,
      { actor: { user_id: caller.user_id, request_id: caller.request_id }, reason: 'requested' },
      caller.user_id,
      options.keep_running,
    )
  })
}

type OrderRow = NonNullable<Awaited<ReturnType<typeof lockOrder>>>

/** Locks an order's row. Its deployment, where that is needed, is locked after it. */
export function lockOrder(trx: Trx, order_id: string) {
  return trx.selectFrom('launch_orders').selectAll().where('id', '=', order_id).forNoKeyUpdate().executeTakeFirst()
}

/** The end of a locked order, wished by a person or by the end of its lease. Idempotent; returns the wish's event. */
export async function wishEnd(
  trx: Trx,
  order: OrderRow,
  cause: { actor?: { user_id: string; request_id: string }; rule?: string; reason: string; event?: string },
  wished_by: string | null,
  keep_running = false,
): Promise<string | null> {
  const wished = order.wish === 'cancel' || order.wish === 'terminate' || (keep_running && order.wish === 'withdraw')
  if (wished || ['cancelled', 'terminated'].includes(order.state)) return null
  // One that failed after it had run may have machines left, which died and were kept for a person to look at.
  if (order.state === 'failed' && !(await hasMachines(trx, order.id))) return null
  const settled = order.settled_at !== null
  const wish: OrderWish = keep_running ? 'withdraw' : settled ? 'terminate' : 'cancel'
  const sequence = order.sequence + 1
  const [event] = await recordEvents(trx, [
    {
      project_id: order.project_id,
      resource_type: 'order',
      resource_id: order.id,
      sequence,
      type: 'order.wish_changed',
      from: order.state,
      to: order.state,
      snapshot: { name: order.name, deployment_id: order.deployment_id, wish },
      cause,
    },
  ])
  await trx
    .updateTable('launch_orders')
    .set({
      wish,
      wish_version: order.wish_version + 1,
      wished_by,
      wished_at: sql<Date>`record_now()`,
      wish_event: event!,
      due_at: sql<Date>`record_now()`,
      sequence,
    })
    .where('id', '=', order.id)
    .execute()
  await wake(trx, [{ target: orderWorkflowId(order.id), project_id: order.project_id }])
  return event!
}

/** Whether machines of an order are left, dead ones too. */
export async function hasMachines(trx: Trx, order_id: string): Promise<boolean> {
  const machine = await trx
    .selectFrom('launch_attempts')
    .select('id')
    .where('order_id', '=', order_id)
    .where('provider_id', 'is not', null)
    .where('gone_at', 'is', null)
    .limit(1)
    .executeTakeFirst()
  return machine !== undefined
}
