/**
 * Release: a person lets a machine go without deleting it. Its instance ends, its place is free, and it is not ours any
 * more, from the commit on; our tags are taken off afterwards, see taggings.ts. Locks: order, attempt, instance, action.
 */
import { sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import { instanceWorkflowId, orderWorkflowId } from '../domain/workflow-ids.ts'
import { supersedeOpen } from './actions.ts'
import { HAS_HOSTS } from './bookings.ts'
import { releaseClaims } from './claims.ts'
import type { Trx } from './database.ts'
import { changeInstances } from './instances.ts'
import { type Caller, lockOrder } from './orders.ts'
import { wake } from './outbox.ts'
import { openTagging } from './taggings.ts'

/**
 * Releases the machine of an instance; again is the same. Throws `not_found`, and `conflict` where there is no machine, or
 * where it is being deleted or on a host that a lease has for itself.
 */
export async function releaseInstance(trx: Trx, caller: Caller, instance_id: string): Promise<void> {
  const found = await trx
    .selectFrom('instances')
    .select(['order_id'])
    .where('id', '=', instance_id)
    .where('project_id', '=', caller.project_id)
    .executeTakeFirst()
  if (!found) throw new DomainError('not_found', `there is no instance ${instance_id}`)
  const order = (await lockOrder(trx, found.order_id))!
  const attempt = await trx
    .selectFrom('launch_attempts')
    .selectAll()
    .where('instance_id', '=', instance_id)
    .where('state', '=', 'won')
    .where((where) => where.or([where('gone_at', 'is', null), where('released_at', 'is not', null)]))
    .forNoKeyUpdate()
    .executeTakeFirst()
  const instance = await trx
    .selectFrom('instances')
    .selectAll()
    .where('id', '=', instance_id)
    .forNoKeyUpdate()
    .executeTakeFirstOrThrow()
  if (attempt?.released_at) return
  const refuse = (reason: string) => new DomainError('conflict', `instance ${instance_id} ${reason}`)
  if (!attempt) throw refuse(`is ${instance.state} and has no machine to release`)
  // Whoever deletes has committed that before: from here on nobody begins to.
  if (attempt.undo_batch !== null || instance.wish === 'terminate' || instance.state === 'terminating')
    throw refuse('is being terminated')
  const { lease_id } = order
  if (
    lease_id &&
    (await trx.selectFrom('leases').select('id').where('id', '=', lease_id).where(HAS_HOSTS).executeTakeFirst())
  )
    throw refuse(`is on a host of lease ${lease_id}, which would never be free of it: terminate it, or end the lease`)
  const { provider_id } = attempt
  await supersedeOpen(trx, instance)
  await changeInstances(trx, [
    {
      id: instance_id,
      to: 'terminated',
      cause: {
        actor: { user_id: caller.user_id, request_id: caller.request_id },
        rule: 'released',
        reason: 'its machine was released: it lives on and is not ours any more',
        evidence: { provider_id },
      },
    },
  ])
  await trx
    .updateTable('launch_attempts')
    .set({ gone_at: sql<Date>`record_now()`, released_at: sql<Date>`record_now()`, next_send_at: null })
    .where('id', '=', attempt.id)
    .execute()
  await releaseClaims(trx, [attempt.id])
  await openTagging(trx, { instance_id, attempt_id: attempt.id, wish: 'release' })
  const due_at = sql<Date>`record_now()`
  await trx.updateTable('instances').set({ due_at }).where('id', '=', instance_id).execute()
  await trx.updateTable('launch_orders').set({ due_at }).where('id', '=', order.id).execute()
  const { project_id } = caller
  await wake(trx, [
    { target: orderWorkflowId(order.id), project_id, attended_until: order.attended_until },
    { target: instanceWorkflowId(instance_id), project_id },
  ])
}
