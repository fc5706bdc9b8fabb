/**
 * The rules of a launch order. `decideOrder(view, now)` is pure: it says what to change in the record and what to do at
 * the clouds, nothing else. It may be called at any time, any number of times: what is done already is in the view.
 *
 * An item is served by attempts, one after the other. An attempt that was sent and not answered is *unknown*: with
 * idempotency tokens it is sent again, without them the cloud is watched until silence means no (`settle_at`). Undo is
 * the same walk backwards: every attempt is either known never to have made a machine, or its machine is deleted and
 * confirmed gone.
 */
import type { OrderPolicy } from './launch-order.ts'
import { BATCH_SIZE, STEPS_MAX } from './plan.ts'
import type { AttemptError } from './record.ts'

export type OrderState =
  | 'queued'
  | 'launching'
  | 'settling'
  | 'running'
  | 'held'
  | 'compensating'
  | 'cancelled'
  | 'terminating'
  | 'terminated'
  | 'failed'
export type ItemState =
  | 'queued'
  | 'claimed'
  | 'creating'
  | 'starting'
  | 'running'
  | 'failed'
  | 'cancelled'
  | 'terminated'
export type AttemptState = 'open' | 'sent' | 'won' | 'lost' | 'unknown' | 'surplus'

/** One launch attempt that is not over; times are real, in ms. */
export interface AttemptView {
  readonly id: string
  readonly number: number
  readonly cloud_id: string
  readonly batch: number
  readonly undo_batch: number | null
  readonly state: AttemptState
  readonly provider_id: string | null
  readonly sends: number
  readonly sent_at: number | null
  readonly settle_at: number | null
  readonly next_send_at: number | null
  readonly error: AttemptError | null
}

export interface ItemView {
  readonly id: string
  readonly state: ItemState
  readonly cloud_index: number
  /** Attempts made so far, over ones included. */
  readonly attempts: number
  readonly next_attempt_at: number | null
  readonly last_error: AttemptError | null
  readonly instance_id: string
  readonly instance_state: string
  readonly instance_wish: 'run' | 'stop' | 'terminate'
  /** Attempts that may still have, or come to have, a machine. */
  readonly open: readonly AttemptView[]
}

export interface CloudView {
  readonly id: string
  readonly name: string
  readonly enabled: boolean
  readonly idempotency_tokens: boolean
  readonly call_timeout_ms: number
  /** When the last complete list of its machines was sent; null: never, or it cannot be reached now. */
  readonly listed_at: number | null
  /** How many more instances our own allocation admits; null: no limit. */
  readonly free: number | null
}

export interface OrderView {
  readonly state: OrderState
  readonly policy: OrderPolicy
  readonly at_least: number | null
  readonly wish: 'run' | 'cancel' | 'terminate'
  /** In order of preference. */
  readonly clouds: readonly CloudView[]
  readonly items: readonly ItemView[]
  readonly next_batch: number
  readonly next_undo_batch: number
}

export interface BlockerDecision {
  readonly code:
    | 'allocation_exhausted'
    | 'cloud_disabled'
    | 'cloud_unreachable'
    | 'cloud_unseen'
    | 'credentials_refused'
    | 'create_unanswered'
    | 'undo_unconfirmed'
    | 'step_failing'
  readonly reason: string
  readonly next_try_at: number | null
}

export interface OrderDecision {
  readonly state: OrderState
  readonly partial: boolean
  /** Rule that led to the state, for its cause. */
  readonly rule: string
  readonly reason: string
  readonly blocker: BlockerDecision | null
  /** New attempts, each committed before anything is sent. */
  readonly open: readonly {
    item_id: string
    instance_id: string
    number: number
    cloud_id: string
    cloud_index: number
    batch: number
  }[]
  readonly items: readonly {
    id: string
    state: ItemState
    cloud_index?: number
    next_attempt_at?: number | null
    error?: AttemptError | null
  }[]
  /** Instance changes that no observation brings: `pending` again after a failed boot, `failed`, `terminating`, `terminated`. */
  readonly instances: readonly {
    id: string
    to: 'pending' | 'failed' | 'terminating' | 'terminated'
    rule: string
    reason: string
  }[]
  /** Attempts whose fate is settled here. `gone`: there never was, and never will be, a machine. */
  readonly attempts: readonly { id: string; state: 'lost' | 'unknown' | 'surplus'; gone: boolean; reason: string }[]
  readonly undo: readonly { attempt_id: string; undo_batch: number }[]
  readonly create_batches: readonly { batch: number; cloud_id: string; count: number }[]
  readonly delete_batches: readonly { undo_batch: number; cloud_id: string; count: number }[]
  /** Real time in ms of the next moment at which something is due by itself. */
  readonly due_at: number | null
  readonly done: boolean
}

/** Attempts of one item on one cloud whose machine failed or whose fate stayed unknown, before the next cloud is tried. */
const ATTEMPTS_PER_CLOUD_MAX = 3
/** Sends of one attempt that met an unreachable cloud before the next cloud is tried. */
const UNREACHABLE_SENDS_MAX = 3
/** Unanswered sends with a token before the next cloud is tried, once the last has settled. */
const UNANSWERED_SENDS_MAX = 4
/** After a refusal of one item, new items go past that cloud for this long. */
const REFUSAL_MEMORY_MS = 30_000
/** A round over all clouds that found none reachable is repeated after this long. */
const ROUND_PAUSE_MS = 5_000
/** A reply may take this much longer than the call's time-out to be stored; after it an attempt counts as unanswered. */
const STORE_GRACE_MS = 2_000

/** While machines start, the sight of their cloud is checked this often. */
const SIGHT_CHECK_MS = 10_000

const REFUSALS = new Set(['capacity', 'quota', 'invalid', 'not_found', 'conflict'])

/** Mutable notes of one decision. */
interface Notes {
  readonly now: number
  readonly view: OrderView
  readonly open: OrderDecision['open'][number][]
  readonly items: OrderDecision['items'][number][]
  readonly instances: OrderDecision['instances'][number][]
  readonly attempts: OrderDecision['attempts'][number][]
  readonly undo: { attempt_id: string; undo_batch: number }[]
  readonly doomed: { attempt: AttemptView; fresh: boolean }[]
  readonly wanting: ItemView[]
  readonly blockers: BlockerDecision[]
  readonly due: number[]
  readonly create: Map<number, { cloud_id: string; count: number }>
  readonly free: Map<string, number>
  /** State of each item after this decision. */
  readonly after: Map<string, ItemState>
}

/** Decides what an order needs now. `now` is real time in ms. */
export function decideOrder(view: OrderView, now: number): OrderDecision {
  const notes: Notes = {
    now,
    view,
    open: [],
    items: [],
    instances: [],
    attempts: [],
    undo: [],
    doomed: [],
    wanting: [],
    blockers: [],
    due: [],
    create: new Map(),
    free: new Map(view.clouds.filter((cloud) => cloud.free !== null).map((cloud) => [cloud.id, cloud.free!])),
    after: new Map(view.items.map((item) => [item.id, item.state])),
  }
  const undoing = view.wish !== 'run' || view.state === 'compensating' || view.state === 'failed'
  if (undoing) for (const item of view.items) undoItem(notes, item)
  else {
    for (const item of view.items) serveItem(notes, item)
    placeWanting(notes)
    if (mustCompensate(view, notes.after)) {
      // What this decision would have opened is dropped with it; the next plan finds the order compensating.
      return compensate(view, notes)
    }
  }
  const delete_batches = assignUndo(notes)
  const outcome = undoing ? undoOutcome(view, notes) : runOutcome(view, notes)
  const due_at = notes.due.length ? Math.min(...notes.due) : null
  return {
    ...outcome,
    open: notes.open,
    items: notes.items,
    instances: notes.instances,
    attempts: notes.attempts,
    undo: notes.undo,
    create_batches: [...notes.create].map(([batch, entry]) => ({ batch, ...entry })),
    delete_batches,
    due_at,
    done: isFinal(outcome.state) && !notes.create.size && !delete_batches.length && due_at === null,
  }
}

const isFinal = (state: OrderState): boolean =>
  state === 'running' || state === 'cancelled' || state === 'terminated' || state === 'failed'

// Forward ------------------------------------------------------------------------------------------------------------

function serveItem(notes: Notes, item: ItemView): void {
  for (const attempt of item.open) if (attempt.state === 'surplus' || attempt.state === 'lost') doom(notes, attempt)
  const winner = item.open.find((attempt) => attempt.state === 'won')
  if (item.state === 'failed' || item.state === 'cancelled' || item.state === 'terminated') return
  if (item.instance_wish === 'terminate') {
    if (winner) leaveToInstance(notes, item)
    else undoItem(notes, item)
  } else if (winner) followWinner(notes, item, winner)
  else {
    const current = item.open.find((a) => a.state === 'open' || a.state === 'sent' || a.state === 'unknown')
    if (!current) replaceMachine(notes, item)
    else if (!followAttempt(notes, item, current)) notes.wanting.push(item)
  }
}

/** No attempt is under way: another one, unless the machine came to an end. */
function replaceMachine(notes: Notes, item: ItemView): void {
  if (item.instance_state === 'terminated') endItem(notes, item, 'terminated')
  else if (item.instance_state !== 'missing') notes.wanting.push(item)
  else if (item.state === 'running') endItem(notes, item, 'failed')
  else startOver(notes, item, 'the machine vanished before it ran')
}

/** A person ends this machine; `instance/<id>` does it. */
function leaveToInstance(notes: Notes, item: ItemView): void {
  if (item.instance_state === 'terminated') endItem(notes, item, 'terminated')
}

function followWinner(notes: Notes, item: ItemView, winner: AttemptView): void {
  switch (item.instance_state) {
    case 'running':
    case 'stopping':
    case 'stopped':
    case 'rebooting':
      setItem(notes, item, 'running')
      return
    case 'failed':
      if (item.state === 'running') endItem(notes, item, 'failed')
      else {
        notes.attempts.push({ id: winner.id, state: 'surplus', gone: false, reason: 'its machine failed to start' })
        doom(notes, winner)
        startOver(notes, item, 'the machine failed to start')
      }
      return
    case 'terminating':
    case 'terminated':
    case 'missing':
      return
    default:
      setItem(notes, item, 'starting')
      awaitSight(notes, winner)
  }
}

/** A machine that starts is seen by the watcher; where the cloud has not been listed for a while, that is what blocks. */
function awaitSight(notes: Notes, winner: AttemptView): void {
  const cloud = notes.view.clouds.find((c) => c.id === winner.cloud_id)!
  notes.due.push(notes.now + SIGHT_CHECK_MS)
  if (cloud.listed_at !== null && notes.now - cloud.listed_at < SIGHT_CHECK_MS) return
  notes.blockers.push({
    code: 'cloud_unseen',
    reason: `cloud ${cloud.name} cannot be listed; its machines were not seen lately`,
    next_try_at: notes.now + SIGHT_CHECK_MS,
  })
}

/** The machine is gone, or useless, before it ever ran: another attempt follows. */
function startOver(notes: Notes, item: ItemView, reason: string): void {
  const error = { class: 'boot_failed', message: reason, at: new Date(notes.now).toISOString() }
  notes.instances.push({
    id: item.instance_id,
    to: 'pending',
    rule: 'boot_failed',
    reason: `${reason}; another attempt follows`,
  })
  setItem(notes, item, 'queued', { error })
  notes.wanting.push({ ...item, last_error: error })
}

/** What becomes of an attempt that is under way; false: nothing any more, the item wants another. */
function followAttempt(notes: Notes, item: ItemView, attempt: AttemptView): boolean {
  const { now } = notes
  const cloud = notes.view.clouds.find((c) => c.id === attempt.cloud_id)!
  const send_at = attempt.next_send_at ?? now
  switch (attempt.state) {
    case 'open': {
      const unreachable = attempt.error?.class === 'unavailable' && attempt.sends >= UNREACHABLE_SENDS_MAX
      if (unreachable || (!cloud.enabled && attempt.sends === 0)) {
        notes.attempts.push({
          id: attempt.id,
          state: 'lost',
          gone: true,
          reason: unreachable ? 'cloud unreachable' : 'cloud disabled',
        })
        setItem(notes, item, 'queued', { error: attempt.error, cloud_index: item.cloud_index + 1 })
        return false
      }
      if (send_at > now) block(notes, attempt, cloud, send_at)
      else addCreate(notes, attempt)
      setItem(notes, item, 'creating')
      return true
    }
    case 'sent':
      addCreate(notes, attempt) // its step runs, or was lost with its worker and runs again
      return true
    default: {
      const settle_at = attempt.settle_at ?? now
      if (cloud.idempotency_tokens && attempt.sends < UNANSWERED_SENDS_MAX) {
        if (send_at > now) block(notes, attempt, cloud, send_at)
        else addCreate(notes, attempt)
        return true
      }
      if (settle_at > now) {
        block(notes, attempt, cloud, settle_at)
        return true
      }
      notes.attempts.push({
        id: attempt.id,
        state: 'lost',
        gone: false,
        reason: 'no answer and no machine until it settled',
      })
      setItem(notes, item, 'queued', { error: attempt.error })
      return false
    }
  }
}

function block(notes: Notes, attempt: AttemptView, cloud: CloudView, until: number): void {
  notes.due.push(until)
  const error = attempt.error?.class
  if (error === 'throttled') return
  notes.blockers.push({
    code: error === 'unavailable' ? 'cloud_unreachable' : 'create_unanswered',
    reason:
      error === 'unavailable'
        ? `cloud ${cloud.name} cannot be reached`
        : `cloud ${cloud.name} has not answered a create; watching for its machine`,
    next_try_at: until,
  })
}

function addCreate(notes: Notes, attempt: { batch: number; cloud_id: string }): void {
  const entry = notes.create.get(attempt.batch) ?? { cloud_id: attempt.cloud_id, count: 0 }
  entry.count++
  notes.create.set(attempt.batch, entry)
}

/** Gives items that want an attempt a place at a cloud, or fails them where none is left. */
function placeWanting(notes: Notes): void {
  const { view, now } = notes
  const room = Math.max(0, STEPS_MAX - notes.create.size) * BATCH_SIZE
  const refusing = refusingClouds(view, now)
  const placed = new Map<number, ItemView[]>()
  let count = 0
  for (const item of notes.wanting) {
    const pending = notes.items.find((change) => change.id === item.id)
    const error = pending?.error ?? item.last_error
    const from = pending?.cloud_index ?? item.cloud_index
    if (item.next_attempt_at !== null && item.next_attempt_at > now && !pending) {
      notes.due.push(item.next_attempt_at)
      waitForRound(notes, error, item.next_attempt_at)
      continue
    }
    if (count >= room) continue
    const index = nextCloud(notes, item, from, error, refusing)
    if (index === 'none') failOrWait(notes, item, error)
    else if (index !== 'wait') {
      placed.set(index, [...(placed.get(index) ?? []), item])
      count++
    }
  }
  let batch = view.next_batch
  for (const [index, items] of [...placed].toSorted(([a], [b]) => a - b)) {
    const cloud = view.clouds[index]!
    for (let start = 0; start < items.length; start += BATCH_SIZE, batch++) {
      for (const item of items.slice(start, start + BATCH_SIZE)) {
        notes.open.push({
          item_id: item.id,
          instance_id: item.instance_id,
          number: item.attempts + 1,
          cloud_id: cloud.id,
          cloud_index: index,
          batch,
        })
        addCreate(notes, { batch, cloud_id: cloud.id })
        setItem(notes, item, 'creating', { cloud_index: index, next_attempt_at: null })
      }
    }
  }
}

/** Clouds that refused an item of this order a moment ago. */
function refusingClouds(view: OrderView, now: number): Set<number> {
  const refusing = new Set<number>()
  for (const item of view.items) {
    const error = item.last_error
    if (error && REFUSALS.has(error.class) && now - Date.parse(error.at) < REFUSAL_MEMORY_MS)
      refusing.add(item.cloud_index)
  }
  return refusing
}

/** Index of the cloud for the next attempt; `none`: all were tried; `wait`: our own allocation is full. */
function nextCloud(
  notes: Notes,
  item: ItemView,
  from: number,
  error: AttemptError | null,
  refusing: ReadonlySet<number>,
): number | 'none' | 'wait' {
  const { view } = notes
  const again = !error || (!REFUSALS.has(error.class) && item.attempts % ATTEMPTS_PER_CLOUD_MAX !== 0)
  const moved = notes.items.some((change) => change.id === item.id && change.cloud_index !== undefined)
  let full = false
  for (let index = again || moved ? from : from + 1; index < view.clouds.length; index++) {
    const cloud = view.clouds[index]!
    if (!cloud.enabled || (refusing.has(index) && index < view.clouds.length - 1)) continue
    const free = notes.free.get(cloud.id)
    if (free !== undefined && free <= 0) {
      full = true
      continue
    }
    if (free !== undefined) notes.free.set(cloud.id, free - 1)
    return index
  }
  if (!full) return 'none'
  notes.due.push(notes.now + ROUND_PAUSE_MS)
  notes.blockers.push({
    code: 'allocation_exhausted',
    reason: 'the allocations of all its clouds are taken',
    next_try_at: notes.now + ROUND_PAUSE_MS,
  })
  return 'wait'
}

/** All clouds were tried: refusals fail the item, anything that may pass starts another round after a pause. */
function failOrWait(notes: Notes, item: ItemView, error: AttemptError | null): void {
  const enabled = notes.view.clouds.some((cloud) => cloud.enabled)
  if (enabled && error && (REFUSALS.has(error.class) || error.class === 'boot_failed')) {
    endItem(notes, item, 'failed', error)
    return
  }
  const at = notes.now + ROUND_PAUSE_MS
  setItem(notes, item, 'queued', { cloud_index: 0, next_attempt_at: at, error: null })
  notes.due.push(at)
  waitForRound(notes, error, at)
}

function waitForRound(notes: Notes, error: AttemptError | null, at: number): void {
  const enabled = notes.view.clouds.some((cloud) => cloud.enabled)
  const code = !enabled ? 'cloud_disabled' : error?.class === 'auth' ? 'credentials_refused' : 'cloud_unreachable'
  const reason = {
    cloud_disabled: 'all clouds of the order are disabled',
    credentials_refused: 'the last cloud refused its credentials',
    cloud_unreachable: 'no cloud of the order can be reached',
  }[code]
  notes.blockers.push({ code, reason, next_try_at: at })
}

function setItem(
  notes: Notes,
  item: ItemView,
  state: ItemState,
  more: { cloud_index?: number; next_attempt_at?: number | null; error?: AttemptError | null } = {},
): void {
  notes.after.set(item.id, state)
  const known = notes.items.findIndex((change) => change.id === item.id)
  const change = { ...(known >= 0 ? notes.items[known]! : {}), id: item.id, state, ...more }
  if (known >= 0) notes.items[known] = change
  else if (state !== item.state || Object.keys(more).length) notes.items.push(change)
}

function endItem(
  notes: Notes,
  item: ItemView,
  state: 'failed' | 'cancelled' | 'terminated',
  error?: AttemptError,
): void {
  setItem(notes, item, state, error ? { error } : {})
  const silent =
    item.instance_state === 'failed' || item.instance_state === 'terminated' || item.instance_state === 'missing'
  if (silent && state === 'failed') return
  if (item.instance_state === 'terminated') return
  notes.instances.push({
    id: item.instance_id,
    to: state === 'failed' ? 'failed' : 'terminated',
    rule: state === 'failed' ? 'no_cloud_left' : 'undone',
    reason: state === 'failed' ? (error?.message ?? 'no cloud could start it') : 'nothing of it is left at any cloud',
  })
}

// Backward -----------------------------------------------------------------------------------------------------------

/** Walks an item back until none of its attempts can have a machine. */
function undoItem(notes: Notes, item: ItemView): void {
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
          notes.due.push(Math.max(attempt.settle_at ?? now, now))
        }
        break
      }
      case 'unknown': {
        const settle_at = attempt.settle_at ?? now
        if (settle_at > now) {
          waiting = true
          notes.due.push(settle_at)
          notes.blockers.push({
            code: 'undo_unconfirmed',
            reason: `cloud ${cloud.name} has not answered a create; its machine would be deleted when it shows up`,
            next_try_at: settle_at,
          })
        } else
          notes.attempts.push({ id: attempt.id, state: 'lost', gone: false, reason: 'no machine until it settled' })
        break
      }
      default:
        if (attempt.provider_id === null) break // lost and settled: watched, but nothing to wait for
        waiting = true
        if (attempt.state === 'won' && item.instance_state !== 'terminating' && item.instance_state !== 'terminated') {
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

/** This attempt's machine is to be deleted. */
function doom(notes: Notes, attempt: AttemptView): void {
  if (attempt.provider_id === null) return
  notes.doomed.push({ attempt, fresh: attempt.undo_batch === null })
}

/** Groups machines to delete by cloud; what has a batch keeps it. */
function assignUndo(notes: Notes): { undo_batch: number; cloud_id: string; count: number }[] {
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
    else if (attempt.next_send_at !== null && attempt.next_send_at > notes.now) {
      notes.due.push(attempt.next_send_at)
      const cloud = notes.view.clouds.find((c) => c.id === attempt.cloud_id)!
      notes.blockers.push({
        code: 'undo_unconfirmed',
        reason: `cloud ${cloud.name} has not confirmed a deletion${attempt.error ? `: ${attempt.error.message}` : ''}`,
        next_try_at: attempt.next_send_at,
      })
    } else add(attempt.undo_batch!, attempt.cloud_id)
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

// Outcome ------------------------------------------------------------------------------------------------------------

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
  if (view.state === 'running') return false
  const { failed, running, pending } = countStates(after)
  switch (view.policy) {
    case 'all':
      return failed > 0
    case 'at_least':
      return failed > 0 && running + pending < (view.at_least ?? view.items.length)
    case 'any':
      return failed > 0 && running + pending === 0
  }
}

function compensate(view: OrderView, notes: Notes): OrderDecision {
  const failed = notes.items.filter((change) => change.state === 'failed')
  const kept = new Set(failed.map((change) => change.id))
  const instances = new Set(view.items.filter((item) => kept.has(item.id)).map((item) => item.instance_id))
  const why = failed.find((change) => change.error)?.error?.message ?? 'an item failed'
  return {
    state: 'compensating',
    partial: false,
    rule: 'policy_failed',
    reason: `policy ${view.policy} cannot be met: ${why}`,
    blocker: null,
    open: [],
    items: failed,
    instances: notes.instances.filter((change) => instances.has(change.id)),
    attempts: [],
    undo: [],
    create_batches: [],
    delete_batches: [],
    due_at: notes.now,
    done: false,
  }
}

function runOutcome(view: OrderView, notes: Notes): Outcome {
  const counts = countStates(notes.after)
  const blocker = notes.blockers[0] ?? null
  if (counts.pending === 0) {
    const partial = counts.failed + counts.ended > 0
    if (counts.running > 0)
      return {
        state: 'running',
        partial,
        rule: 'items_running',
        reason: `${counts.running} of ${view.items.length} run`,
        blocker: null,
      }
    const state = counts.failed > 0 ? 'failed' : 'terminated'
    return { state, partial: false, rule: 'no_item_left', reason: 'none of its instances is left', blocker: null }
  }
  const progressing = notes.create.size > 0 || [...notes.after.values()].includes('starting')
  const partial = false
  if (view.state === 'running')
    return { state: 'running', partial: true, rule: 'items_running', reason: 'an instance is being replaced', blocker }
  if (blocker && !progressing) return { state: 'held', partial, rule: 'blocked', reason: blocker.reason, blocker }
  if (notes.create.size > 0)
    return { state: 'launching', partial, rule: 'creating', reason: 'machines are being created', blocker }
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
