/** Capacity of a cloud with an allocation: a claim for each attempt, a row and not a counter. */
import { sql } from 'kysely'
import { orderWorkflowId } from '../domain/workflow-ids.ts'
import type { Trx } from './database.ts'
import { wake } from './outbox.ts'

/** Releases capacity, once an attempt, and wakes the orders that wait for some: by priority, then age. */
export async function releaseClaims(trx: Trx, attempt_ids: readonly string[]): Promise<void> {
  if (!attempt_ids.length) return
  const released = await trx
    .updateTable('claims')
    .set({ released_at: sql<Date>`record_now()` })
    .where('attempt_id', 'in', attempt_ids)
    .where('released_at', 'is', null)
    .returning('cloud_id')
    .execute()
  if (!released.length) return
  const waiting = await trx
    .selectFrom('launch_orders')
    .select(['id', 'project_id'])
    .where(sql<boolean>`blocker ->> 'code' = 'allocation_exhausted'`)
    .where(sql<boolean>`cloud_ids && ${[...new Set(released.map((row) => row.cloud_id))]}::uuid[]`)
    .where('state', 'not in', ['running', 'cancelled', 'terminated', 'failed'])
    .orderBy('priority', 'desc')
    .orderBy('created_at')
    .limit(released.length)
    .execute()
  await wake(
    trx,
    waiting.map((order) => ({ target: orderWorkflowId(order.id), project_id: order.project_id })),
  )
}
