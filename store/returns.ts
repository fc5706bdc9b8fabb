/**
 * Machines that were proved gone and are there all the same: a cloud that denied them tells them again. Locks: order,
 * attempt, instance.
 */
import { stateObserved } from '../domain/instance.ts'
import type { Machine } from '../domain/machine.ts'
import type { Cause } from '../domain/record.ts'
import { orderWorkflowId } from '../domain/workflow-ids.ts'
import { lockAttempts } from './attempts.ts'
import { leave, type Store, type Trx, write } from './database.ts'
import { changeInstances, tellInstance } from './instances.ts'
import type { CloudRow } from './order-plan.ts'
import { lockOrder } from './orders.ts'
import { wake } from './outbox.ts'
import { requireEpoch } from './watch-epoch.ts'

/** A machine whose attempt is over, and which the cloud told when it was asked for it. */
export interface Returned {
  readonly order_id: string
  readonly attempt_id: string
  readonly machine: Machine
}

const THERE: ReadonlySet<string> = new Set([
  'pending',
  'starting',
  'running',
  'stopping',
  'stopped',
  'rebooting',
  'failed',
])

/** Whether a machine is alive as its cloud tells it. */
export const isThere = (machine: Machine): boolean => THERE.has(machine.state)

/**
 * Takes a machine back: it serves its instance again where that is missing and has no other, else it is surplus and its
 * order's flow deletes it. Nothing happens where its attempt is not over, or its machine was released or adopted.
 */
export function takeBack(store: Store, cloud: CloudRow, returned: Returned, seen_at: Date): Promise<void> {
  return write(store, async (trx) => {
    await requireEpoch(trx, cloud)
    leave(trx, 'watched')
    const { order_id, attempt_id, machine } = returned
    const order = await lockOrder(trx, order_id)
    const attempt = (await lockAttempts(trx, [attempt_id])).get(attempt_id)
    if (!order || !attempt || attempt.gone_at === null || attempt.released_at !== null) return
    if (attempt.provider_id !== machine.provider_id || (await hasOwner(trx, cloud, machine))) return
    const instance = await trx
      .selectFrom('instances')
      .select(['id', 'state', 'provider_id'])
      .where('id', '=', attempt.instance_id)
      .forNoKeyUpdate()
      .executeTakeFirstOrThrow()
    const serves =
      attempt.state === 'won' && instance.state === 'missing' && instance.provider_id === machine.provider_id
    await trx
      .updateTable('launch_attempts')
      .set({ gone_at: null, vanished: false, next_send_at: null, state: serves ? 'won' : 'surplus' })
      .where('id', '=', attempt_id)
      .execute()
    const cause: Cause = {
      rule: 'came_back',
      reason: `cloud ${cloud.name} tells it again, though it had denied it`,
      evidence: {
        attempt_id,
        provider_id: machine.provider_id,
        raw_state: machine.raw_state,
        observed_at: seen_at.toISOString(),
      },
    }
    if (serves) await serveAgain(trx, instance.id, attempt_id, machine, cause)
    else await tellInstance(trx, instance.id, 'instance.surplus_found', {}, cause)
    const { project_id, attended_until } = order
    await wake(trx, [{ target: orderWorkflowId(order_id), project_id, attended_until }])
  })
}

/** It was adopted meanwhile. */
async function hasOwner(trx: Trx, cloud: CloudRow, { provider_id }: Machine): Promise<boolean> {
  const owner = await trx
    .selectFrom('launch_attempts')
    .select('id')
    .where('cloud_id', '=', cloud.id)
    .where('provider_id', '=', provider_id)
    .where('gone_at', 'is', null)
    .executeTakeFirst()
  return owner !== undefined
}

async function serveAgain(
  trx: Trx,
  instance_id: string,
  attempt_id: string,
  machine: Machine,
  cause: Cause,
): Promise<void> {
  await trx.updateTable('claims').set({ released_at: null }).where('attempt_id', '=', attempt_id).execute()
  const is_booting = machine.state === 'starting' || machine.state === 'pending'
  const to = is_booting ? 'starting' : stateObserved('missing', machine)!
  await changeInstances(trx, [
    {
      id: instance_id,
      to,
      only_from: ['missing'],
      raw_state: machine.raw_state,
      public_addresses: machine.public_addresses,
      private_addresses: machine.private_addresses,
      cause,
    },
  ])
}
