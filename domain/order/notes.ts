/** The mutable notes that one decision is written on, and the few ways to write on them. */

import type { BlockerDecision } from '../blocker.ts'
import type { AttemptError } from '../record.ts'
import type { AttemptView, ItemState, ItemView, OrderDecision, OrderView } from './view.ts'

/** Mutable notes of one decision. */
export interface Notes {
  readonly now: number
  readonly view: OrderView
  readonly open: OrderDecision['open'][number][]
  readonly items: Map<string, OrderDecision['items'][number]>
  readonly instances: OrderDecision['instances'][number][]
  readonly attempts: OrderDecision['attempts'][number][]
  readonly undo: { attempt_id: string; undo_batch: number }[]
  readonly doomed: { attempt: AttemptView; fresh: boolean }[]
  readonly wanting: ItemView[]
  readonly blockers: BlockerDecision[]
  readonly due: number[]
  /** How many more of the deployment may be healed now. */
  healing_room: number
  readonly restarts: OrderDecision['restarts'][number][]
  readonly attention: OrderDecision['attention'][number][]
  readonly create: Map<number, { cloud_id: string; count: number }>
  readonly free: Map<string, number>
  /** State of each item after this decision. */
  readonly after: Map<string, ItemState>
}

/** Fresh notes on a view. */
export function newNotes(view: OrderView, now: number): Notes {
  return {
    now,
    view,
    open: [],
    items: new Map(),
    instances: [],
    attempts: [],
    undo: [],
    doomed: [],
    wanting: [],
    blockers: [],
    due: [],
    healing_room: view.healing_room,
    restarts: [],
    attention: [],
    create: new Map(),
    free: new Map(view.clouds.flatMap((cloud) => (cloud.free === null ? [] : [[cloud.id, cloud.free]]))),
    after: new Map(view.items.map((item) => [item.id, item.state])),
  }
}

/** The batch has something to be sent now. */
export function addCreate(notes: Notes, attempt: { batch: number; cloud_id: string }): void {
  const entry = notes.create.get(attempt.batch) ?? { cloud_id: attempt.cloud_id, count: 0 }
  entry.count++
  notes.create.set(attempt.batch, entry)
}

export function setItem(
  notes: Notes,
  item: ItemView,
  state: ItemState,
  more: Omit<OrderDecision['items'][number], 'id' | 'state'> = {},
): void {
  notes.after.set(item.id, state)
  const known = notes.items.get(item.id)
  if (known || state !== item.state || Object.keys(more).length)
    notes.items.set(item.id, { ...known, id: item.id, state, ...more })
}

export function endItem(
  notes: Notes,
  item: ItemView,
  state: 'failed' | 'cancelled' | 'terminated',
  error?: AttemptError,
): void {
  setItem(notes, item, state, error ? { error } : {})
  // Its end is the last word: what was to become of its instance before, another attempt among it, is dropped.
  const begun = notes.instances.findIndex((change) => change.id === item.instance_id)
  if (begun >= 0) notes.instances.splice(begun, 1)
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

/** This attempt's machine is to be deleted. */
export function doom(notes: Notes, attempt: AttemptView): void {
  if (attempt.provider_id === null) return
  notes.doomed.push({ attempt, fresh: attempt.undo_batch === null })
}
