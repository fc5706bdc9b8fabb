/**
 * Healing: what becomes of a machine that died after it had run. By its order's policy, never more of a deployment at once
 * than its cap, and only while a person wishes it to run: the end of a lease, a person's wish and the order's policy come
 * before it.
 */
import { isLate } from './deadline.ts'
import { doom, endItem, type Notes, setItem } from './notes.ts'
import type { AttemptView, ItemView } from './view.ts'

/** Where the cap holds it back, it is looked at again after this. */
const CAPPED_PAUSE_MS = 5_000

/** Restarts and notices of one plan: each is several statements of its transaction, which has 3 s. */
const TOLD_A_PLAN_MAX = 100

/** Members of a deployment that may be healed at once, where nobody says otherwise. */
export const healingCapOf = (members: number): number => Math.max(1, Math.floor(members / 5))

/** Heals an item whose machine failed (then `winner` is its attempt) or vanished, or lets it fail. */
export function healItem(notes: Notes, item: ItemView, winner: AttemptView | null): void {
  if (notes.restarts.length + notes.attention.length >= TOLD_A_PLAN_MAX) {
    notes.due.push(notes.now)
    return
  }
  const how = chooseHealing(notes, item, winner)
  if (how === null) endItem(notes, item, 'failed')
  else if (how === 'restart' && item.restart === 'open') return
  else if (notes.healing_room <= 0) waitForRoom(notes)
  else {
    notes.healing_room--
    if (how === 'replace') replace(notes, item, winner)
    else notes.restarts.push({ id: item.instance_id, reason: 'its machine failed; it is restarted' })
  }
}

/** Null: it is left as it is. */
function chooseHealing(notes: Notes, item: ItemView, winner: AttemptView | null): 'restart' | 'replace' | null {
  const { healing, wish } = notes.view
  if (wish !== 'run' || item.instance_wish !== 'run' || isLate(notes.view, notes.now)) return null
  if (healing === 'replace') return 'replace'
  // What vanished cannot be started again, and what was restarted in vain is not restarted for ever.
  if (healing === 'restart') return winner && item.restart !== 'failed' ? 'restart' : null
  if (healing === 'notify') {
    const reason = `its machine ${winner ? 'failed' : 'vanished'}; a person is to look at it`
    notes.attention.push({ id: item.instance_id, reason })
  }
  return null
}

function waitForRoom(notes: Notes): void {
  notes.due.push(notes.now + CAPPED_PAUSE_MS)
  notes.blockers.push({
    code: 'healing_capped',
    reason: 'as many of its deployment as may be are healed at the moment',
    next_try_at: notes.now + CAPPED_PAUSE_MS,
  })
}

function replace(notes: Notes, item: ItemView, winner: AttemptView | null): void {
  if (winner) {
    notes.attempts.push({ id: winner.id, state: 'surplus', gone: false, reason: 'its machine failed after it had run' })
    doom(notes, winner)
  }
  notes.instances.push({
    id: item.instance_id,
    to: 'pending',
    rule: 'healing',
    reason: `its machine ${winner ? 'failed' : 'vanished'}; another takes its place`,
  })
  setItem(notes, item, 'queued', { cloud_index: 0, error: null })
  notes.wanting.push({ ...item, cloud_index: 0, last_error: null })
}
