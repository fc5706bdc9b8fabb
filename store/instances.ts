/**
 * Instances in the record. `changeInstances` is the only way their state changes, whoever asks: it locks in one order,
 * drops what is no change, and writes the events.
 */
import { type Kysely, sql } from 'kysely'
import type { Cause } from '../domain/record.ts'
import { instanceWorkflowId } from '../domain/workflow-ids.ts'
import { isAmong, shownBlocker, type Trx } from './database.ts'
import { recordEvents } from './events.ts'
import { wake } from './outbox.ts'
import type { Tables } from './tables.ts'

/** What a change sets besides the state; left out: as it is. */
export interface InstanceChange {
  readonly id: string
  readonly to: string
  readonly cause: Cause
  readonly cloud_id?: string | null
  /** Goes with `cloud_id`. */
  readonly credential_id?: string | null
  readonly provider_id?: string | null
  readonly raw_state?: string
  readonly public_addresses?: readonly string[]
  readonly private_addresses?: readonly string[]
  /** The create was acknowledged now. */
  readonly acknowledged?: boolean
  /** Only from these states; else the change is dropped. */
  readonly only_from?: readonly string[]
  /** Dropped if the row changed after this moment (real time): the observation is older than the record. */
  readonly seen_at?: Date
}

type LockedInstances = Awaited<ReturnType<typeof lockInstances>>

/** Locks instances, with what a change of them depends on, by id. */
export async function lockInstances(trx: Trx, ids: readonly string[]) {
  const rows = await trx
    .selectFrom('instances')
    .leftJoin('inventory', 'inventory.instance_id', 'instances.id')
    .selectAll('instances')
    .select('inventory.request_id')
    .where(isAmong('instances.id', ids))
    .orderBy('instances.id')
    .forNoKeyUpdate('instances')
    .execute()
  return new Map(rows.map((row) => [row.id, row]))
}

/**
 * Changes instances, in one bulk update; `locked`: they were, and are as they were since. Returns the ids that really
 * changed with their new event. A change to the state and values an instance has already is none: no row, no event.
 */
export async function changeInstances(
  trx: Trx,
  changes: readonly InstanceChange[],
  locked?: LockedInstances,
): Promise<Map<string, string>> {
  if (!changes.length) return new Map()
  const by_id =
    locked ??
    (await lockInstances(
      trx,
      changes.map((change) => change.id),
    ))
  const real = changes.filter((change) => {
    const row = by_id.get(change.id)
    if (!row || row.state === 'terminated') return false
    if (change.only_from && !change.only_from.includes(row.state)) return false
    if (change.seen_at && change.seen_at < row.changed_at) return false
    return (
      row.state !== change.to ||
      differs(change.provider_id, row.provider_id) ||
      differs(change.raw_state, row.raw_state) ||
      differs(change.public_addresses?.join(), row.public_addresses.join()) ||
      differs(change.private_addresses?.join(), row.private_addresses.join())
    )
  })
  if (!real.length) return new Map()
  const next = real.map((change) => {
    const row = by_id.get(change.id)!
    return {
      id: row.id,
      state: change.to,
      cloud_id: change.cloud_id === undefined ? row.cloud_id : change.cloud_id,
      credential_id: change.cloud_id === undefined ? row.credential_id : (change.credential_id ?? null),
      provider_id: change.provider_id === undefined ? row.provider_id : change.provider_id,
      raw_state: change.raw_state ?? row.raw_state,
      public_addresses: change.public_addresses ?? row.public_addresses,
      private_addresses: change.private_addresses ?? row.private_addresses,
      acknowledged: change.acknowledged ?? false,
    }
  })
  const { rows: changed } = await sql<{ id: string; cloud: string | null }>`
    update instances set state = n.state, cloud_id = n.cloud_id, credential_id = n.credential_id, provider_id = n.provider_id, raw_state = n.raw_state,
      public_addresses = n.public_addresses, private_addresses = n.private_addresses, sequence = sequence + 1,
      changed_at = clock_timestamp(), absent_lists = 0, stale_since = null,
      acknowledged_at = case when n.acknowledged then clock_timestamp() else acknowledged_at end,
      running_at = case when n.state = 'running' and running_at is null then record_now() else running_at end,
      terminated_at = case when n.state in ('terminated', 'failed', 'missing') then record_now() else null end,
      blocker = case when n.state <> 'terminated' then blocker end
    from jsonb_to_recordset(${JSON.stringify(next)}::jsonb) as n (id uuid, state text, cloud_id uuid, credential_id uuid, provider_id text,
      raw_state text, public_addresses text[], private_addresses text[], acknowledged boolean)
    where instances.id = n.id
    returning instances.id, (select name from clouds where clouds.id = instances.cloud_id) as cloud`.execute(trx)
  const cloud_of = new Map(changed.map(({ id, cloud }) => [id, cloud]))
  const events = await recordEvents(
    trx,
    real.map((change, i) => {
      const row = by_id.get(change.id)!
      const after = next[i]!
      return {
        project_id: row.project_id,
        resource_type: 'instance' as const,
        resource_id: row.id,
        sequence: row.sequence + 1,
        type: row.state === change.to ? 'instance.updated' : 'instance.state_changed',
        from: row.state,
        to: change.to,
        snapshot: {
          name: row.name,
          order_id: row.order_id,
          deployment_id: row.deployment_id,
          cloud: cloud_of.get(row.id) ?? null,
          provider_id: after.provider_id,
          public_addresses: after.public_addresses,
          private_addresses: after.private_addresses,
          ...(row.blocker && change.to === 'terminated' ? { blocker: null } : {}),
        },
        cause: change.cause,
      }
    }),
  )
  // An inventory outside that names them is told what they are now.
  const named_outside = real.map((change) => by_id.get(change.id)!).filter((row) => row.request_id !== null)
  await lookAgain(trx, named_outside)
  return new Map(real.map((change, i) => [change.id, events[i]!]))
}

/** Has the flows of locked instances look at them. */
export async function lookAgain(
  trx: Trx,
  instances: readonly { readonly id: string; readonly project_id: string }[],
): Promise<void> {
  if (!instances.length) return
  const ids = instances.map(({ id }) => id)
  await trx.updateTable('instances').set({ due_at: sql<Date>`record_now()` }).where('id', 'in', ids).execute()
  const wakes = instances.map(({ id, project_id }) => ({ target: instanceWorkflowId(id), project_id }))
  await wake(trx, wakes)
}

/** An event of an instance that changes no state. */
export async function tellInstance(
  trx: Trx,
  instance_id: string,
  type: string,
  more: Readonly<Record<string, unknown>>,
  cause: Cause,
): Promise<void> {
  const row = await trx
    .updateTable('instances')
    .set({ sequence: sql<number>`sequence + 1` })
    .where('id', '=', instance_id)
    .returning(['project_id', 'sequence', 'state', 'name', 'order_id', 'deployment_id'])
    .executeTakeFirstOrThrow()
  const { project_id, sequence, state, ...snapshot } = row
  await recordEvents(trx, [
    {
      project_id,
      resource_type: 'instance',
      resource_id: instance_id,
      sequence,
      type,
      from: state,
      to: state,
      snapshot: { ...snapshot, ...more },
      cause,
    },
  ])
}

const differs = <T>(wanted: T | undefined, present: T): boolean => wanted !== undefined && wanted !== present

/** Whether a machine of the instance of a row lives at a cloud, as far as is known. */
export const HAS_MACHINE = sql<boolean>`exists (select from launch_attempts as attempt
  where attempt.order_id = instances.order_id and attempt.instance_id = instances.id
    and attempt.provider_id is not null and attempt.gone_at is null)`

/** There is something to end: it lives, or it failed or vanished and its machine is not gone. */
export const CAN_END = sql<boolean>`(instances.state not in ('terminated', 'failed', 'missing')
  or instances.state <> 'terminated' and ${HAS_MACHINE})`

/** An instance as its owner sees it, with the name of its cloud. */
export function findInstance(db: Kysely<Tables>, project_id: string, instance_id: string) {
  return db
    .selectFrom('instances')
    .leftJoin('clouds', 'clouds.id', 'instances.cloud_id')
    .selectAll('instances')
    .select(['clouds.name as cloud', shownBlocker('instances').as('blocker')])
    .where('instances.id', '=', instance_id)
    .where('instances.project_id', '=', project_id)
    .executeTakeFirst()
}

/** Instances of a project, newest first. */
export function listInstances(
  db: Kysely<Tables>,
  project_id: string,
  query: {
    readonly order_id?: string | undefined
    readonly deployment_id?: string | undefined
    readonly state?: string | undefined
    readonly before?: string | undefined
    readonly limit: number
  },
) {
  let rows = db
    .selectFrom('instances')
    .leftJoin('clouds', 'clouds.id', 'instances.cloud_id')
    .selectAll('instances')
    .select(['clouds.name as cloud', shownBlocker('instances').as('blocker')])
    .where('instances.project_id', '=', project_id)
    .orderBy('instances.id', 'desc')
    .limit(query.limit)
  if (query.before) rows = rows.where('instances.id', '<', query.before)
  if (query.order_id) rows = rows.where('instances.order_id', '=', query.order_id)
  if (query.deployment_id) rows = rows.where('instances.deployment_id', '=', query.deployment_id)
  if (query.state) rows = rows.where(sql`instances.state`, '=', query.state)
  return rows.execute()
}
