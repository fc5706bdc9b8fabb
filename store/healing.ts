/** Healing in the record: how much of it may go on at once, and what is asked for. The rules are in domain/order/heal.ts. */
import { type RawBuilder, type Selectable, sql } from 'kysely'
import type { Healing } from '../domain/launch-order.ts'
import { healingCapOf } from '../domain/order/heal.ts'
import type { ItemView, OrderDecision } from '../domain/order/view.ts'
import { healByRestart } from './actions.ts'
import type { Trx } from './database.ts'
import { lastEventId } from './events.ts'
import { tellInstance } from './instances.ts'
import type { Tables } from './tables.ts'

type OrderRow = Selectable<Tables['launch_orders']>

/** How the last restart of an instance by a rule goes, or went: in vain, where it has not run since. */
const RESTART = sql<ItemView['restart']>`(
  select case when actions.state in ('queued', 'running') then 'open'
    when actions.state = 'failed' and actions.confirmed_at is null and not exists (select from events
      where resource_type = 'instance' and resource_id = instances.id and to_state = 'running' and from_state <> 'running'
        and events.at > actions.created_at) then 'failed' end
  from actions where actions.instance_id = instances.id and actions.wished_by is null
  order by number desc limit 1)`
const NO_RESTART = sql<ItemView['restart']>`null`

/** The column of an item's row for it; null for orders that do not heal so. */
export const restartOf = (healing: Healing): RawBuilder<ItemView['restart']> =>
  healing === 'restart' ? RESTART : NO_RESTART

/** How many more of the order's deployment may be healed now. Locks the deployment: its orders heal in turn. */
export async function healingRoom(
  trx: Trx,
  order: OrderRow,
  items: readonly { readonly state: string; readonly instance_state: string }[],
): Promise<number> {
  const heals = order.healing === 'restart' || order.healing === 'replace'
  const ill = items.some(
    ({ state, instance_state }) => state === 'running' && (instance_state === 'failed' || instance_state === 'missing'),
  )
  if (!heals || !ill) return 0
  const { deployment_id } = order
  await trx.selectFrom('deployments').select('id').where('id', '=', deployment_id).forNoKeyUpdate().execute()
  const { rows } = await sql<{ members: number; healing: number }>`
    select (select count(*)::int from instances where deployment_id = ${deployment_id} and state <> 'terminated') as members,
      (select count(*)::int from items join launch_orders on launch_orders.id = items.order_id
        where deployment_id = ${deployment_id} and settled_at is not null and items.state in ('queued', 'creating', 'starting'))
      + (select count(*)::int from actions join instances on instances.id = actions.instance_id
        where deployment_id = ${deployment_id} and actions.state in ('queued', 'running') and actions.wished_by is null
          and actions.deployment_action_id is null) as healing`.execute(trx)
  const { members, healing } = rows[0]!
  return (order.healing_max ?? healingCapOf(members)) - healing
}

/** Asks for the hard reboot of machines that failed; the flows of their instances do it. */
export async function restartInstances(trx: Trx, restarts: OrderDecision['restarts']): Promise<void> {
  for (const { id, reason } of restarts) {
    const event = await lastEventId(trx, 'instance', id)
    const cause = { rule: 'healing', reason, ...(event ? { event } : {}) }
    await healByRestart(trx, id, cause)
  }
}

/** Tells, once, that a person is to look at an instance. */
export async function wantAttention(trx: Trx, instances: OrderDecision['attention']): Promise<void> {
  for (const { id, reason } of instances) {
    const event = await lastEventId(trx, 'instance', id)
    await tellInstance(
      trx,
      id,
      'instance.attention_wanted',
      {},
      { rule: 'healing', reason, ...(event ? { event } : {}) },
    )
  }
}
