/** Placement: which cloud an item that wants an attempt goes to, and what happens when none is left. */
import type { BlockerDecision } from '../blocker.ts'
import type { RetryBudget } from '../launch-order.ts'
import { BATCH_SIZE, STEPS_MAX } from '../plan.ts'
import type { AttemptError } from '../record.ts'
import { addCreate, endItem, type Notes, setItem } from './notes.ts'
import type { CloudView, ItemView, OrderView } from './view.ts'

/** Attempts of one item on one cloud whose machine failed or whose fate stayed unknown, before the next cloud is tried. */
const ATTEMPTS_PER_CLOUD_MAX = 3
/** After a refusal of one item, new items go past that cloud for this long. */
const REFUSAL_MEMORY_MS = 30_000
/** A round over all clouds that found none is repeated after this long, and later each time. */
const ROUND_PAUSE_MS = 5_000
const ROUND_PAUSE_MAX_MS = 30_000
const REFUSALS = new Set(['capacity', 'quota', 'invalid', 'not_found', 'conflict'])

/** Gives items that want an attempt a place at a cloud, or fails them where none is left. */
export function placeWanting(notes: Notes): void {
  const { view, now } = notes
  freePlaces(notes)
  const room = Math.max(0, STEPS_MAX - notes.create.size) * BATCH_SIZE
  const refusing = refusingClouds(view, now)
  const placed = new Map<CloudView, { item: ItemView; index: number }[]>()
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
    if (error && isSpent(notes, item, error)) {
      endItem(notes, item, 'failed', error)
      continue
    }
    if (count >= room) continue
    const place = nextCloud(notes, item, from, round_at === null ? error : null, refusing)
    if (place === 'none') failOrWait(notes, item, error)
    else if (place !== 'wait') {
      placed.set(place.cloud, [...(placed.get(place.cloud) ?? []), { item, index: place.index }])
      count++
    }
  }
  let batch = view.next_batch
  for (const cloud of view.clouds) {
    const items = placed.get(cloud) ?? []
    for (let start = 0; start < items.length; start += BATCH_SIZE, batch++) {
      for (const { item, index } of items.slice(start, start + BATCH_SIZE)) {
        notes.open.push({
          item_id: item.id,
          instance_id: item.instance_id,
          number: item.attempts + 1,
          cloud_id: cloud.id,
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

/** The clouds of an item, by preference. */
const cloudsOf = ({ clouds }: OrderView, { cloud_indexes }: ItemView): readonly CloudView[] =>
  cloud_indexes?.map((index) => clouds[index]!) ?? clouds

const hasRealm = (cloud: CloudView, { realm }: ItemView): boolean =>
  realm === null || !cloud.closed_realms.includes(realm)

/** Clouds that may be asked at all. */
const isOpen = (cloud: CloudView, item: ItemView): boolean =>
  cloud.enabled && cloud.credential === 'ok' && hasRealm(cloud, item)

const anyOpen = (view: OrderView, item: ItemView): boolean => cloudsOf(view, item).some((cloud) => isOpen(cloud, item))

/** Ids of clouds that refused an item of this order a moment ago. */
function refusingClouds(view: OrderView, now: number): Set<string> {
  const refusing = new Set<string>()
  for (const item of view.items) {
    const { last_error, cloud_index } = item
    if (!last_error || !REFUSALS.has(last_error.class) || now - Date.parse(last_error.at) >= REFUSAL_MEMORY_MS) continue
    const named = view.clouds.find(({ name }) => name === last_error.evidence?.cloud)
    const cloud = named ?? cloudsOf(view, item)[cloud_index]
    if (cloud) refusing.add(cloud.id)
  }
  return refusing
}

/** An item that goes on to another cloud keeps its error, which from then on names the cloud that it came from. */
function errorOf(view: OrderView, item: ItemView, index: number): { error?: AttemptError } {
  const { last_error, cloud_index } = item
  if (!last_error || index === cloud_index) return {}
  return { error: named(view, item, last_error) }
}

/** An error that names the cloud it came from; it may be kept while its item is another's. */
function named(view: OrderView, item: ItemView, error: AttemptError): AttemptError {
  if (error.evidence?.cloud) return error
  return { ...error, evidence: { ...error.evidence, cloud: cloudsOf(view, item)[item.cloud_index]?.name } }
}

/** The cloud for the next attempt; `none`: all were tried; `wait`: our own allocation is full. */
export function nextCloud(
  notes: Notes,
  item: ItemView,
  from: number,
  error: AttemptError | null,
  refusing: ReadonlySet<string>,
): { readonly cloud: CloudView; readonly index: number } | 'none' | 'wait' {
  const again = !error || (!REFUSALS.has(error.class) && item.attempts % ATTEMPTS_PER_CLOUD_MAX !== 0)
  const moved = notes.items.get(item.id)?.cloud_index !== undefined
  let full = false
  const clouds = cloudsOf(notes.view, item)
  for (let index = again || moved ? from : from + 1; index < clouds.length; index++) {
    const cloud = clouds[index]!
    if (!isOpen(cloud, item) || (refusing.has(cloud.id) && index < clouds.length - 1)) continue
    const free = notes.free.get(cloud.id)
    if (free !== undefined && free <= 0) {
      full = true
      continue
    }
    if (free !== undefined) notes.free.set(cloud.id, free - 1)
    return { cloud, index }
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

/** How many more tries the order grants an item after this error; undefined: it does not say. */
function triesLeft({ view, items }: Notes, { id, errors }: ItemView, error: AttemptError): number | undefined {
  const granted = view.retry_budget[error.class as keyof RetryBudget]
  if (granted === undefined) return undefined
  const met_now = items.get(id)?.error ? 1 : 0 // not counted in the record yet
  return granted + 1 - (errors[error.class] ?? 0) - met_now
}

/** It met this class of errors more often than the order's budget for it. */
const isSpent = (notes: Notes, item: ItemView, error: AttemptError): boolean =>
  (triesLeft(notes, item, error) ?? 1) <= 0

/**
 * All clouds were tried: refusals fail the item, unless its order holds or grants it more tries; anything that may pass
 * starts another round after a pause.
 */
function failOrWait(notes: Notes, item: ItemView, error: AttemptError | null): void {
  const { view } = notes
  const final = error !== null && isRefusal(error) && triesLeft(notes, item, error) === undefined
  if (final && !view.hold && anyOpen(view, item)) {
    endItem(notes, item, 'failed', error)
    return
  }
  const at = notes.now + Math.min(ROUND_PAUSE_MAX_MS, ROUND_PAUSE_MS * 2 ** Math.min(item.rounds, 10))
  setItem(notes, item, 'queued', {
    cloud_index: 0,
    rounds: item.rounds + 1,
    next_attempt_at: at,
    error: final && !view.hold ? null : error && named(view, item, error),
  })
  notes.due.push(at)
  waitForRound(notes, item, error, at)
}

function waitForRound(notes: Notes, item: ItemView, error: AttemptError | null, at: number): void {
  const clouds = cloudsOf(notes.view, item)
  const closed = clouds.find((cloud) => cloud.enabled && cloud.credential !== 'ok')
  const blocker = (code: BlockerDecision['code'], reason: string) =>
    notes.blockers.push({ code, reason, next_try_at: at })
  if (anyOpen(notes.view, item)) {
    if (error && isRefusal(error)) blocker('clouds_refuse', `no cloud takes it: ${error.message}`)
    else if (error?.class === 'auth') blocker('credentials_refused', 'the last cloud refused its credentials')
    else blocker('cloud_unreachable', 'no cloud of the order can be reached')
  } else if (clouds.some((cloud) => cloud.enabled && cloud.credential === 'ok'))
    blocker('realm_unavailable', `realm ${item.realm} is unavailable at the clouds of the order`)
  else if (!closed) blocker('cloud_disabled', 'all clouds of the order are disabled')
  else if (closed.credential === 'expired')
    blocker('credentials_expired', `the credential for cloud ${closed.name} has expired; replace it`)
  else blocker('credentials_refused', `cloud ${closed.name} refused the order's credential; replace it`)
}
