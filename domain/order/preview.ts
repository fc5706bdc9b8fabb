/** Where the items of an order would go now, if it were placed: nothing is changed by asking. */
import { newNotes } from './notes.ts'
import { nextCloud } from './place.ts'
import type { OrderView } from './view.ts'

export interface Preview {
  /** By cloud id. */
  readonly placed: ReadonlyMap<string, number>
  /** Items that no cloud has room for now; they would wait. */
  readonly waiting: number
  /** Items that no cloud of theirs is open for; they would wait until one is. */
  readonly closed: number
}

/** Places each item at the first cloud that is open and has room. */
export function previewPlacement(view: OrderView, now: number): Preview {
  const notes = newNotes(view, now)
  const placed = new Map<string, number>()
  let waiting = 0
  let closed = 0
  for (const item of view.items) {
    const place = nextCloud(notes, item, 0, null, new Set())
    if (place === 'none') closed++
    else if (place === 'wait') waiting++
    else placed.set(place.cloud.id, (placed.get(place.cloud.id) ?? 0) + 1)
  }
  return { placed, waiting, closed }
}
