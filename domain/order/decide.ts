/**
 * The rules of a launch order. `decideOrder(view, now)` is pure: it says what to change in the record and what to do at
 * the clouds, nothing else. It may be called at any time, any number of times: what is done already is in the view.
 *
 * An item is served by attempts, one after the other. An attempt that was sent and not answered is *unknown*: with
 * idempotency tokens it is sent again, without them the cloud is watched until silence means no (`settle_at`). Undo is
 * the same walk backwards: every attempt is either known never to have made a machine, or its machine is deleted and
 * confirmed gone.
 */
import { hasDeadline, isLate, meetsPolicy } from './deadline.ts'
import { type Notes, newNotes } from './notes.ts'
import { placeWanting } from './place.ts'
import { serveItem } from './serve.ts'
import { assignUndo, undoItem } from './undo.ts'
import { type ItemState, isOrderOver, type OrderDecision, type OrderState, type OrderView } from './view.ts'

/** Decides what an order needs now. `now` is real time in ms. */
export function decideOrder(view: OrderView, now: number): OrderDecision {
  const notes = newNotes(view, now)
  const ends = view.wish === 'cancel' || view.wish === 'terminate'
  const undoing = ends || view.state === 'compensating' || (view.state === 'failed' && !view.settled)
  if (undoing) for (const item of view.items) undoItem(notes, item)
  else {
    const late = isLate(view, now)
    if (late && !meetsPolicy(view))
      return compensate(view, notes, 'deadline_passed', 'its policy was not met by its deadline')
    for (const item of view.items) {
      // What ran and died since is not withdrawn: it is kept, as in any order that ran.
      const ran = item.state === 'running' || item.state === 'failed' || item.instance_state === 'running'
      if ((late || view.wish === 'withdraw') && !ran) undoItem(notes, item)
      else serveItem(notes, item)
    }
    placeWanting(notes)
    if (mustCompensate(view, notes.after)) {
      // What this decision would have opened is dropped with it; the next plan finds the order compensating.
      return compensate(view, notes, 'policy_failed', `policy ${view.policy} cannot be met`)
    }
  }
  const delete_batches = assignUndo(notes)
  const outcome = undoing ? undoOutcome(view, notes) : runOutcome(view, notes)
  if (hasDeadline(view) && view.deadline_at! > now && !isFinal(outcome.state)) notes.due.push(view.deadline_at!)
  const due_at = notes.due.length ? Math.min(...notes.due) : null
  return {
    ...outcome,
    open: notes.open,
    items: [...notes.items.values()],
    instances: notes.instances,
    attempts: notes.attempts,
    restarts: notes.restarts,
    attention: notes.attention,
    undo: notes.undo,
    create_batches: [...notes.create].map(([batch, entry]) => ({ batch, ...entry })),
    delete_batches,
    due_at,
    done:
      isFinal(outcome.state) && !notes.create.size && !delete_batches.length && due_at === null && !isHeldBack(notes),
  }
}

const isFinal = (state: OrderState): boolean => state === 'running' || isOrderOver(state)

/** Something is to be deleted and may not be: whoever turns automatic removal on wakes the order. */
const isHeldBack = (notes: Notes): boolean => !notes.view.may_delete && notes.doomed.length > 0

type Outcome = Pick<OrderDecision, 'state' | 'partial' | 'rule' | 'reason' | 'blocker'>

function countStates(after: ReadonlyMap<string, ItemState>): {
  running: number
  failed: number
  ended: number
  pending: number
} {
  const counts = { running: 0, failed: 0, ended: 0, pending: 0 }
  for (const state of after.values()) {
    if (state === 'running') counts.running++
    else if (state === 'failed') counts.failed++
    else if (state === 'cancelled' || state === 'terminated') counts.ended++
    else counts.pending++
  }
  return counts
}

/** True when the policy cannot be met any more. A settled order is past its policy: what dies later makes it partial. */
function mustCompensate(view: OrderView, after: ReadonlyMap<string, ItemState>): boolean {
  if (view.state === 'running' || view.settled) return false
  const { failed, running, pending } = countStates(after)
  // Withdrawn, it is content with what runs; where nothing does, what ran and died has no order to be kept for.
  if (view.wish === 'withdraw') return failed > 0 && running + pending === 0
  switch (view.policy) {
    case 'all':
      return failed > 0
    case 'at_least':
      return failed > 0 && running + pending < (view.at_least ?? view.items.length)
    case 'any':
      return failed > 0 && running + pending === 0
  }
}

function compensate(view: OrderView, notes: Notes, rule: string, what: string): OrderDecision {
  const failed = [...notes.items.values()].filter((change) => change.state === 'failed')
  const kept = new Set(failed.map((change) => change.id))
  const instances = new Set(view.items.filter((item) => kept.has(item.id)).map((item) => item.instance_id))
  const why = failed.find((change) => change.error)?.error?.message
  return {
    state: 'compensating',
    partial: false,
    rule,
    reason: why ? `${what}: ${why}` : what,
    blocker: null,
    open: [],
    items: failed,
    instances: notes.instances.filter((change) => instances.has(change.id)),
    attempts: [],
    restarts: [],
    attention: [],
    undo: [],
    create_batches: [],
    delete_batches: [],
    due_at: notes.now,
    done: false,
  }
}

/** Items that wait to be healed, or are being restarted: not over, and they do not run. */
const countIll = (view: OrderView, after: ReadonlyMap<string, ItemState>): number =>
  view.items.filter(
    ({ id, instance_state }) =>
      after.get(id) === 'running' && (instance_state === 'failed' || instance_state === 'missing'),
  ).length

function runOutcome(view: OrderView, notes: Notes): Outcome {
  const counts = countStates(notes.after)
  const blocker = notes.blockers[0] ?? null
  if (counts.pending === 0) {
    const ill = countIll(view, notes.after)
    const partial = counts.failed + counts.ended + ill > 0
    if (counts.running > 0)
      return {
        state: 'running',
        partial,
        rule: 'items_running',
        reason: `${counts.running - ill} of ${view.items.length} run`,
        blocker: isHeldBack(notes) || blocker?.code === 'healing_capped' ? blocker : null,
      }
    const state = counts.failed > 0 ? 'failed' : view.wish === 'withdraw' && !view.settled ? 'cancelled' : 'terminated'
    const held = isHeldBack(notes) ? blocker : null
    return { state, partial: false, rule: 'no_item_left', reason: 'none of its instances is left', blocker: held }
  }
  const progressing = notes.create.size > 0 || [...notes.after.values()].includes('starting')
  const partial = false
  if (view.state === 'running')
    return { state: 'running', partial: true, rule: 'items_running', reason: 'an instance is being replaced', blocker }
  if (blocker && !progressing) return { state: 'held', partial, rule: 'blocked', reason: blocker.reason, blocker }
  if (notes.create.size > 0)
    return { state: 'launching', partial, rule: 'creating', reason: 'machines are being created', blocker }
  if (!progressing && view.items.some(({ naming }) => naming !== null))
    return { state: 'queued', partial, rule: 'naming', reason: 'waiting for the inventory to name it', blocker }
  return { state: 'settling', partial, rule: 'created', reason: 'waiting for machines to run', blocker }
}

function undoOutcome(view: OrderView, notes: Notes): Outcome {
  const open = view.items.some((item) => {
    const state = notes.after.get(item.id)
    return state !== 'failed' && state !== 'cancelled' && state !== 'terminated'
  })
  const unfinished = open || notes.doomed.length > 0 || notes.due.length > 0
  const blocker = notes.blockers[0] ?? null
  if (!open && isFinal(view.state) && view.state !== 'running') {
    return { state: view.state, partial: false, rule: 'undone', reason: 'a late machine is being removed', blocker }
  }
  const terminating = view.wish === 'terminate' && view.state !== 'compensating'
  if (unfinished) {
    return terminating
      ? {
          state: 'terminating',
          partial: false,
          rule: 'wish_terminate',
          reason: 'its machines are being deleted',
          blocker,
        }
      : {
          state: view.state === 'failed' ? 'failed' : 'compensating',
          partial: false,
          rule: view.wish === 'run' ? 'policy_failed' : 'wish_cancel',
          reason: 'what was made is being undone',
          blocker,
        }
  }
  const state = view.wish === 'cancel' ? 'cancelled' : view.wish === 'terminate' ? 'terminated' : 'failed'
  return { state, partial: false, rule: 'undone', reason: 'nothing of it is left at any cloud', blocker: null }
}
