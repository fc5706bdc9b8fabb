/** The removal of machines: which may go, and what their deletion came to. Locks: order, attempt, instance. */
import { sql } from 'kysely'
import type { AttemptError } from '../domain/record.ts'
import { orderWorkflowId } from '../domain/workflow-ids.ts'
import { ATTENDED_MS, lockAttempts } from './attempts.ts'
import { releaseClaims } from './claims.ts'
import { type Store, write } from './database.ts'
import { changeInstances, type InstanceChange } from './instances.ts'
import { lockOrder } from './orders.ts'
import { wake } from './outbox.ts'

/** Whether machines of an order may be deleted: by a person's wish always, by a rule where automatic removal is on. */
export const MAY_DELETE = sql<boolean>`(
  (select automatic_removal from installation) or (launch_orders.wish <> 'run' and launch_orders.wished_by is not null))`

/** Machines to delete: those of an undo batch that are not confirmed gone and due. None where they may not be. */
export async function machinesToDelete(store: Store, order_id: string, undo_batch: number) {
  return store.db
    .selectFrom('launch_attempts')
    .innerJoin('launch_orders', 'launch_orders.id', 'launch_attempts.order_id')
    .select(['launch_attempts.id as attempt_id', 'provider_id', 'instance_id', 'cloud_id', 'credential_id'])
    .where('order_id', '=', order_id)
    .where('undo_batch', '=', undo_batch)
    .where('gone_at', 'is', null)
    .where('provider_id', 'is not', null)
    .where(sql<boolean>`coalesce(next_send_at, '-infinity') <= clock_timestamp()`)
    .where(MAY_DELETE)
    .orderBy('launch_attempts.id')
    .execute()
}

export interface DeleteOutcome {
  readonly attempt_id: string
  /** When the cloud said that it has no such machine; null: not confirmed yet. */
  readonly gone_at: Date | null
  readonly error?: AttemptError & { readonly retry_after_ms?: number }
}

/** A deletion that is not confirmed is asked for again after this long, then after twice as long, up to the most. */
const UNDO_RETRY_FIRST_MS = 2_000
const UNDO_RETRY_MAX_MS = 15_000

/**
 * Stores what deletions came to. The instance ends with the machine it was bound to. `by_order`: a step of its order's
 * flow, which looks again by itself when the step ends.
 */
export async function storeGone(
  store: Store,
  order_id: string,
  outcomes: readonly DeleteOutcome[],
  by_order: boolean,
): Promise<void> {
  if (!outcomes.length) return
  await write(store, async (trx) => {
    const order = await lockOrder(trx, order_id)
    const attempts = await lockAttempts(
      trx,
      outcomes.map((outcome) => outcome.attempt_id),
    )
    const changes: InstanceChange[] = []
    for (const outcome of outcomes) {
      const attempt = attempts.get(outcome.attempt_id)
      if (!attempt || attempt.gone_at !== null) continue
      if (outcome.gone_at === null) {
        const { retry_after_ms, ...kept } = outcome.error ?? {
          class: 'unconfirmed',
          message: 'the cloud still lists the machine',
          at: new Date().toISOString(),
        }
        const backoff_ms = Math.min(UNDO_RETRY_MAX_MS, UNDO_RETRY_FIRST_MS * 2 ** attempt.deletes)
        await trx
          .updateTable('launch_attempts')
          .set({
            error: JSON.stringify(kept),
            deletes: attempt.deletes + 1,
            next_send_at: sql<Date>`clock_timestamp() + ${retry_after_ms ?? backoff_ms} * interval '1 ms'`,
          })
          .where('id', '=', attempt.id)
          .execute()
        continue
      }
      await trx
        .updateTable('launch_attempts')
        .set({ gone_at: sql<Date>`record_now()`, next_send_at: null })
        .where('id', '=', attempt.id)
        .execute()
      if (attempt.state === 'won') {
        changes.push({
          id: attempt.instance_id,
          to: 'terminated',
          cause: {
            rule: 'deletion_confirmed',
            reason: 'the cloud has no such machine any more',
            evidence: { provider_id: attempt.provider_id, observed_at: outcome.gone_at.toISOString() },
            ...(order?.wish_event ? { event: order.wish_event } : {}),
          },
        })
      }
    }
    await changeInstances(trx, changes)
    await releaseClaims(
      trx,
      outcomes.filter((outcome) => outcome.gone_at !== null).map((outcome) => outcome.attempt_id),
    )
    if (order)
      await wake(trx, [
        {
          target: orderWorkflowId(order_id),
          project_id: order.project_id,
          delay_ms: by_order ? ATTENDED_MS : 0,
        },
      ])
  })
}
