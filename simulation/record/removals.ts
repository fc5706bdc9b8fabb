/** The removal of machines, as in store/removals.ts. */
import { orderFlow, wake } from '../motion/wakes.ts'
import type { World } from '../world.ts'
import { ATTENDED_MS } from './attempts.ts'
import { changeAttempt, changeInstance } from './change.ts'
import type { AttemptRow, OrderRow } from './rows.ts'

/** Whether machines of an order may be deleted: by a person's wish always, by a rule where automatic removal is on. */
export const mayDelete = (world: World, order: OrderRow): boolean =>
  world.record.automatic_removal || (order.wish !== 'run' && order.by_person)

/** Machines to delete: those of an undo batch that are not confirmed gone and due. */
export function machinesToDelete(world: World, order: OrderRow, undo_batch: number): AttemptRow[] {
  if (!mayDelete(world, order)) return []
  return order.items.flatMap((item) =>
    item.open.filter(
      (attempt) =>
        attempt.undo_batch === undo_batch && attempt.provider_id !== null && (attempt.next_send_at ?? 0) <= world.now,
    ),
  )
}

export interface DeleteOutcome {
  readonly attempt: AttemptRow
  readonly gone: boolean
  readonly error?: { readonly class: string; readonly retry_after_ms?: number }
}

const UNDO_RETRY_FIRST_MS = 2_000
const UNDO_RETRY_MAX_MS = 15_000

/** Stores what deletions came to. `by_order`: by a step of its order's flow, which looks again by itself. */
export function storeGone(world: World, order: OrderRow, outcomes: readonly DeleteOutcome[], by_order: boolean): void {
  if (!outcomes.length) return
  for (const { attempt, gone, error } of outcomes) {
    if (attempt.gone_at !== null) continue
    if (!gone) {
      const { class: kind, retry_after_ms } = error ?? { class: 'unconfirmed', retry_after_ms: undefined }
      attempt.error = { class: kind, message: `${kind} said`, at: new Date(world.now).toISOString() }
      const backoff_ms = Math.min(UNDO_RETRY_MAX_MS, UNDO_RETRY_FIRST_MS * 2 ** attempt.deletes)
      attempt.deletes++
      attempt.next_send_at = world.now + (retry_after_ms ?? backoff_ms)
      changeAttempt(world, attempt)
      continue
    }
    world.say(attempt.id, 'its machine is confirmed gone')
    attempt.gone_at = world.now
    attempt.next_send_at = null
    changeAttempt(world, attempt)
    if (attempt.state === 'won') changeInstance(world, { instance: attempt.item.instance, to: 'terminated' })
  }
  world.store.releaseClaims(
    world,
    outcomes.filter(({ gone }) => gone).map(({ attempt }) => attempt),
  )
  wake(world, orderFlow(order), by_order ? ATTENDED_MS : 0)
}
