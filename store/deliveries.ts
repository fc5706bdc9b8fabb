/** Deliveries as people see them: lists, the log of attempts, "send it now", "give it up". */
import { type Kysely, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import { laneWorkflowId } from '../domain/workflow-ids.ts'
import { leave, type Trx } from './database.ts'
import { wake } from './outbox.ts'
import type { DeliveriesTable, Tables } from './tables.ts'

export type DeliveryState = DeliveriesTable['state']['__select__']

/** An event on its way to a hook. */
export interface Delivery {
  readonly id: number
  readonly hook_id: string
  readonly event_id: string
  readonly event_type: string
  readonly resource_type: string
  readonly resource_id: string
  readonly sequence: number
  readonly state: DeliveryState
  /** Why it waits: schedule, retry_after, order, endpoint_disabled, own_fault. */
  readonly reason: string | null
  readonly attempts: number
  readonly sends: number
  readonly next_attempt_at: Date | null
  readonly created_at: Date
  readonly settled_at: Date | null
}

export interface DeliveryAttempt {
  readonly number: number
  readonly trigger: string
  readonly started_at: Date
  readonly ended_at: Date
  readonly outcome: string
  readonly status: number | null
  readonly response_headers: Record<string, unknown> | null
  readonly response_body: string | null
  readonly remote_address: string | null
  readonly next_attempt_at: Date | null
}

const DELIVERY = sql`
  deliveries.id, deliveries.hook_id, events.id as event_id, events.type as event_type, deliveries.resource_type,
  deliveries.resource_id, deliveries.sequence, deliveries.state,
  case when deliveries.state in ('pending', 'waiting') and exists (
      select from deliveries as earlier where earlier.hook_id = deliveries.hook_id
        and earlier.resource_type = deliveries.resource_type and earlier.resource_id = deliveries.resource_id
        and earlier.sequence < deliveries.sequence and earlier.state in ('pending', 'in_flight', 'waiting', 'parked'))
    then 'order' else deliveries.reason end as reason,
  deliveries.attempts, deliveries.sends,
  case when deliveries.state in ('pending', 'waiting') then deliveries.next_attempt_at end as next_attempt_at,
  deliveries.created_at, deliveries.settled_at`

/** Deliveries of a project, newest first. `before`: the id after which the page begins. */
export async function listDeliveries(
  db: Kysely<Tables>,
  project_id: string,
  query: {
    readonly hook_id?: string
    readonly event_id?: string
    readonly state?: DeliveryState
    readonly resource_id?: string
    readonly before?: number
    readonly limit: number
  },
): Promise<Delivery[]> {
  const { rows } = await sql<Delivery>`
    select ${DELIVERY} from deliveries join events on events.number = deliveries.event_number
    where deliveries.project_id = ${project_id}
      ${query.hook_id === undefined ? sql`` : sql`and deliveries.hook_id = ${query.hook_id}`}
      ${query.event_id === undefined ? sql`` : sql`and deliveries.event_number = (select number from events where id = ${query.event_id})`}
      ${query.state === undefined ? sql`` : sql`and deliveries.state = ${query.state}`}
      ${query.resource_id === undefined ? sql`` : sql`and deliveries.resource_id = ${query.resource_id}`}
      ${query.before === undefined ? sql`` : sql`and deliveries.id < ${query.before}`}
    order by deliveries.id desc limit ${query.limit}`.execute(db)
  return rows
}

/** One delivery; undefined when it is not there or another project's. */
export async function getDelivery(db: Kysely<Tables>, project_id: string, id: number): Promise<Delivery | undefined> {
  const { rows } = await sql<Delivery>`
    select ${DELIVERY} from deliveries join events on events.number = deliveries.event_number
    where deliveries.project_id = ${project_id} and deliveries.id = ${id}`.execute(db)
  return rows[0]
}

/** The log of a delivery, in order; empty also when it is another project's. */
export async function deliveryAttempts(db: Kysely<Tables>, project_id: string, id: number): Promise<DeliveryAttempt[]> {
  const { rows } = await sql<DeliveryAttempt>`
    select number, delivery_attempts.trigger, started_at, ended_at, outcome, status, response_headers, response_body,
      remote_address, delivery_attempts.next_attempt_at
    from delivery_attempts join deliveries on deliveries.id = delivery_id
    where deliveries.project_id = ${project_id} and delivery_id = ${id} order by number`.execute(db)
  return rows
}

/**
 * Sends a delivery now: an open one comes forward, a finished one starts its schedule anew. It still waits for earlier
 * events of its resource. Throws `conflict` while it is being sent and while its hook takes nothing.
 */
export async function retryDelivery(trx: Trx, project_id: string, id: number): Promise<Delivery> {
  const { hook, delivery } = await lock(trx, project_id, id)
  leave(trx, 'deliveries')
  if (hook.state !== 'active') throw new DomainError('conflict', `the hook is ${hook.state}`)
  if (delivery.state === 'in_flight') throw new DomainError('conflict', 'the delivery is being sent')
  const open = delivery.state === 'pending' || delivery.state === 'waiting' || delivery.state === 'parked'
  await sql`
    update deliveries set state = 'pending', reason = null, trigger = 'manual', next_attempt_at = record_now(),
      settled_at = null, attempts = ${open ? delivery.attempts : 0}, unknown_in_row = 0
    where id = ${id}`.execute(trx)
  if (hook.owner === 'lane') await wake(trx, [{ target: laneWorkflowId(delivery.hook_id), project_id }])
  return (await getDelivery(trx, project_id, id))!
}

/** Gives a delivery up, so that the next event of its resource goes on. A finished one stays as it is. */
export async function cancelDelivery(trx: Trx, project_id: string, id: number): Promise<Delivery> {
  const { hook, delivery } = await lock(trx, project_id, id)
  leave(trx, 'deliveries')
  if (delivery.state === 'in_flight') throw new DomainError('conflict', 'the delivery is being sent')
  if (delivery.state === 'pending' || delivery.state === 'waiting' || delivery.state === 'parked') {
    await sql`update deliveries set state = 'cancelled', reason = null, settled_at = record_now() where id = ${id}`.execute(
      trx,
    )
    if (hook.owner === 'lane') await wake(trx, [{ target: laneWorkflowId(delivery.hook_id), project_id }])
  }
  return (await getDelivery(trx, project_id, id))!
}

/** Hook first, then delivery: the order in which all locks are taken. */
async function lock(
  trx: Trx,
  project_id: string,
  id: number,
): Promise<{
  hook: { state: string; owner: string }
  delivery: { state: DeliveryState; hook_id: string; attempts: number }
}> {
  const { rows: hooks } = await sql<{ state: string; owner: string }>`
    select state, owner from hooks where id = (select hook_id from deliveries where id = ${id} and project_id = ${project_id})
    for no key update`.execute(trx)
  const { rows } = await sql<{ state: DeliveryState; hook_id: string; attempts: number }>`
    select state, hook_id, attempts from deliveries where id = ${id} and project_id = ${project_id} for update`.execute(
    trx,
  )
  if (!hooks[0] || !rows[0]) throw new DomainError('not_found', `there is no delivery ${id}`)
  return { hook: hooks[0], delivery: rows[0] }
}
