/** Placement: which cloud an item that wants an attempt goes to, and what happens when none is left. */
import type { BlockerDecision } from '../blocker.ts'
import { BATCH_SIZE, STEPS_MAX } from '../plan.ts'
import type { AttemptError } from '../record.ts'
import { addCreate, endItem, type Notes, setItem } from './notes.ts'
import type { CloudView, ItemView, OrderView } from './view.ts'

/** Attempts of one item on one cloud whose machine failed or whose fate stayed unknown, before the next cloud is tried. */
const ATTEMPTS_PER_CLOUD_MAX = 3
/** After a refusal of one item, new items go past that cloud for this long. */
const REFUSAL_MEMORY_MS = 30_000
/** A round over all clouds that found none reachable is repeated after this long. */
const ROUND_PAUSE_MS = 5_000
const REFUSALS = new Set(['capacity', 'quota', 'invalid', 'not_found', 'conflict'])
/** Gives items that want an attempt a place at a cloud, or fails them where none is left. */
export function placeWanting(notes: Notes): void {
  const { view, now } = notes
  freePlaces(notes)
  const room = Math.max(0, STEPS_MAX - notes.create.size) * BATCH_SIZE
  const refusing = refusingClouds(view, now)
  const placed = new Map<number, ItemView[]>()
  let count = 0
  for (const item of notes.wanting) {
    const pending = notes.items.get(item.id)
    const error = pending?.error === undefined ? item.last_error : pending.error
    const from = pending?.cloud_index ?? item.cloud_index
    const round_at = pending ? null : item.next_attempt_at
    // Without an error the round was put off because all clouds were closed: one that was opened is asked at once.
    if (round_at !== null && round_at > now && !(error === null && anyOpen(view, item))) {
      notes.due.push(round_at)
      waitForRound(notes, item, error, round_at)
      continue
    }
    if (count >= room) continue
    const index = nextCloud(notes, item, from, round_at === null ? error : null, refusing)
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
        setItem(notes, item, 'creating', { cloud_index: index, next_attempt_at: null, ...errorOf(view, item, index) })
      }
    }
  }
}

/** What is given up in this decision leaves its place to it. */
function freePlaces({ view, attempts, free }: Notes): void {
  const lost = new Set(attempts.filter(({ state }) => state === 'lost').map(({ id }) => id))
  for (const { id, cloud_id } of view.items.flatMap(({ open }) => open)) {
    const places = free.get(cloud_id)
    if (lost.has(id) && places !== undefined) free.set(cloud_id, places + 1)
  }
}

const mayGo = (item: ItemView, index: number): boolean => item.cloud_indexes?.includes(index) ?? true

/** Clouds that may be asked at all. */
const isOpen = (cloud: CloudView): boolean => cloud.enabled && cloud.credential === 'ok'

const anyOpen = (view: OrderView, item: ItemView): boolean =>
  view.clouds.some((cloud, index) => isOpen(cloud) && mayGo(item, index))

/** Clouds that refused an item of this order a moment ago. */
function refusingClouds(view: OrderView, now: number): Set<number> {
  const refusing = new Set<number>()
  for (const { last_error, cloud_index } of view.items) {
    if (!last_error || !REFUSALS.has(last_error.class) || now - Date.parse(last_error.at) >= REFUSAL_MEMORY_MS) continue
    const named = view.clouds.findIndex(({ name }) => name === last_error.evidence?.cloud)
    refusing.add(named < 0 ? cloud_index : named)
  }
  return refusing
}

/** An item that goes on to another cloud keeps its error, which from then on names the cloud that it came from. */
function errorOf(view: OrderView, { last_error, cloud_index }: ItemView, index: number): { error?: AttemptError } {
  const cloud = view.clouds[cloud_index]?.name
  if (!last_error || index === cloud_index || last_error.evidence?.cloud) return {}
  return { error: { ...last_error, evidence: { ...last_error.evidence, cloud } } }
}

/** Index of the cloud for the next attempt; `none`: all were tried; `wait`: our own allocation is full. */
export function nextCloud(
  notes: Notes,
  item: ItemView,
  from: number,
  error: AttemptError | null,
  refusing: ReadonlySet<number>,
): number | 'none' | 'wait' {
  const { view } = notes
  const again = !error || (!REFUSALS.has(error.class) && item.attempts % ATTEMPTS_PER_CLOUD_MAX !== 0)
  const moved = notes.items.get(item.id)?.cloud_index !== undefined
  let full = false
  const last = view.clouds.findLastIndex((_, index) => mayGo(item, index))
  for (let index = again || moved ? from : from + 1; index < view.clouds.length; index++) {
    const cloud = view.clouds[index]!
    if (!mayGo(item, index) || !isOpen(cloud) || (refusing.has(index) && index < last)) continue
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

const isRefusal = (error: AttemptError): boolean => REFUSALS.has(error.class) || error.class === 'boot_failed'

/** All clouds were tried: refusals fail the item, unless its order holds; anything that may pass starts another round after a pause. */
function failOrWait(notes: Notes, item: ItemView, error: AttemptError | null): void {
  const final = error !== null && isRefusal(error)
  const { hold } = notes.view
  if (final && !hold && anyOpen(notes.view, item)) {
    endItem(notes, item, 'failed', error)
    return
  }
  const at = notes.now + ROUND_PAUSE_MS
  setItem(notes, item, 'queued', { cloud_index: 0, next_attempt_at: at, error: final && !hold ? null : error })
  notes.due.push(at)
  waitForRound(notes, item, error, at)
}

function waitForRound(notes: Notes, item: ItemView, error: AttemptError | null, at: number): void {
  const clouds = notes.view.clouds.filter((_, index) => mayGo(item, index))
  const closed = clouds.find((cloud) => cloud.enabled && cloud.credential !== 'ok')
  const blocker = (code: BlockerDecision['code'], reason: string) =>
    notes.blockers.push({ code, reason, next_try_at: at })
  if (anyOpen(notes.view, item)) {
    if (error && notes.view.hold && isRefusal(error)) blocker('clouds_refuse', `no cloud takes it: ${error.message}`)
    else if (error?.class === 'auth') blocker('credentials_refused', 'the last cloud refused its credentials')
    else blocker('cloud_unreachable', 'no cloud of the order can be reached')
  } else if (!closed) blocker('cloud_disabled', 'all clouds of the order are disabled')
  else if (closed.credential === 'expired')
    blocker('credentials_expired', `the credential for cloud ${closed.name} has expired; replace it`)
  else blocker('credentials_refused', `cloud ${closed.name} refused the order's credential; replace it`)
}
