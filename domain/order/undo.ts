/** Backward: every attempt is either known never to have made a machine, or its machine is deleted and confirmed gone. */
import { BATCH_SIZE } from '../plan.ts'
import { doom, endItem, type Notes } from './notes.ts'
import type { AttemptView, CloudView, ItemView } from './view.ts'

/** A reply may take this much longer than the call's time-out to be stored; after it an attempt counts as unanswered. */
const STORE_GRACE_MS = 2_000
/** An attempt that has settled waits for the next list of its cloud, and looks for it this often. */
const LIST_CHECK_MS = 1_000

/** Walks an item back until none of its attempts can have a machine. */
export function undoItem(notes: Notes, item: ItemView): void {
  const { now } = notes
  let waiting = false
  for (const attempt of item.open) {
    const cloud = notes.view.clouds.find((c) => c.id === attempt.cloud_id)!
    switch (attempt.state) {
      case 'open': // never sent, or surely without effect
        notes.attempts.push({ id: attempt.id, state: 'lost', gone: true, reason: 'withdrawn before it was sent' })
        break
      case 'sent': {
        // Its step is being called off and stores what it learns; if that was lost, silence counts as unanswered.
        const silent_at = (attempt.sent_at ?? now) + cloud.call_timeout_ms + STORE_GRACE_MS
        waiting = true
        if (silent_at > now) notes.due.push(silent_at)
        else {
          notes.attempts.push({
            id: attempt.id,
            state: 'unknown',
            gone: false,
            reason: 'not answered when it was withdrawn',
          })
          awaitSilence(notes, attempt)
        }
        break
      }
      case 'unknown':
        if ((attempt.settle_at ?? now) > now || isUnseen(cloud, attempt)) {
          waiting = true
          awaitSilence(notes, attempt)
        } else
          notes.attempts.push({ id: attempt.id, state: 'lost', gone: false, reason: 'no machine until it settled' })
        break
      default:
        if (attempt.provider_id === null) break // lost and settled: watched, but nothing to wait for
        waiting = true
        if (
          notes.view.may_delete &&
          attempt.state === 'won' &&
          item.instance_state !== 'terminating' &&
          item.instance_state !== 'terminated'
        ) {
          notes.instances.push({
            id: item.instance_id,
            to: 'terminating',
            rule: 'undo',
            reason: 'its order is being undone',
          })
        }
        doom(notes, attempt)
    }
  }
  if (waiting) return
  if (item.state === 'failed') return
  const ran = item.state === 'running' || item.state === 'terminated'
  if (item.state !== 'cancelled' && item.state !== 'terminated') endItem(notes, item, ran ? 'terminated' : 'cancelled')
  else if (item.instance_state !== 'terminated' && item.instance_state !== 'failed') endItem(notes, item, item.state)
}

/** Nobody looked since it settled, as after an outage of ours: its machine may be there. A cloud that is away proves nothing. */
export const isUnseen = ({ listed_at }: CloudView, { settle_at }: AttemptView): boolean =>
  listed_at !== null && listed_at < (settle_at ?? 0)

/** When to look again whether an unanswered attempt has settled, and its cloud was listed since. */
export function settledAt(cloud: CloudView, attempt: AttemptView, now: number): number {
  if (attempt.settle_at !== null && attempt.settle_at > now) return attempt.settle_at
  return isUnseen(cloud, attempt) ? now + LIST_CHECK_MS : now
}

/** No machine of an unanswered attempt is known: until it settled, one may show up. */
function awaitSilence(notes: Notes, attempt: AttemptView): void {
  const cloud = notes.view.clouds.find((c) => c.id === attempt.cloud_id)!
  const settle_at = settledAt(cloud, attempt, notes.now)
  notes.due.push(settle_at)
  notes.blockers.push({
    code: 'undo_unconfirmed',
    reason: `cloud ${cloud.name} has not answered a create; its machine would be deleted when it shows up`,
    next_try_at: settle_at,
  })
}

/** Groups machines to delete by cloud; what has a batch keeps it. Where they may not be deleted, that is what blocks. */
export function assignUndo(notes: Notes): { undo_batch: number; cloud_id: string; count: number }[] {
  if (!notes.view.may_delete) {
    if (notes.doomed.length)
      notes.blockers.unshift({
        code: 'removal_off',
        reason: `${notes.doomed.length} of its machines would be deleted by a rule, and automatic removal is off`,
        next_try_at: null,
      })
    return []
  }
  const batches = new Map<number, { cloud_id: string; count: number }>()
  const add = (undo_batch: number, cloud_id: string): void => {
    const entry = batches.get(undo_batch) ?? { cloud_id, count: 0 }
    entry.count++
    batches.set(undo_batch, entry)
  }
  let next = notes.view.next_undo_batch
  const fresh = new Map<string, AttemptView[]>()
  for (const { attempt, fresh: isFresh } of notes.doomed) {
    if (isFresh) fresh.set(attempt.cloud_id, [...(fresh.get(attempt.cloud_id) ?? []), attempt])
    else if (attempt.next_send_at === null || attempt.next_send_at <= notes.now)
      add(attempt.undo_batch!, attempt.cloud_id)
    else notes.due.push(attempt.next_send_at)
    if (isFresh || attempt.next_send_at === null) continue
    // Also while it is asked for again: were the blocker gone meanwhile, each try would tell two events.
    const cloud = notes.view.clouds.find((c) => c.id === attempt.cloud_id)!
    notes.blockers.push({
      code: 'undo_unconfirmed',
      reason: `cloud ${cloud.name} has not confirmed a deletion${attempt.error ? `: ${attempt.error.message}` : ''}`,
      next_try_at: attempt.next_send_at,
    })
  }
  for (const [cloud_id, attempts] of fresh) {
    for (let start = 0; start < attempts.length; start += BATCH_SIZE, next++) {
      for (const attempt of attempts.slice(start, start + BATCH_SIZE)) {
        notes.undo.push({ attempt_id: attempt.id, undo_batch: next })
        add(next, cloud_id)
      }
    }
  }
  return [...batches].map(([undo_batch, entry]) => ({ undo_batch, ...entry }))
}
