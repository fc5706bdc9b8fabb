/** Forward: an item is served by attempts, one after the other, until one of its machines runs. */
import { nameBlocker } from '../pcm/inventory.ts'
import { healItem } from './heal.ts'
import { addCreate, doom, endItem, type Notes, setItem } from './notes.ts'
import { isUnseen, settledAt, undoItem } from './undo.ts'
import type { AttemptView, CloudView, ItemView } from './view.ts'

/** Sends of one attempt that met an unreachable cloud before the next cloud is tried. */
const UNREACHABLE_SENDS_MAX = 3
/** While machines start, the sight of their cloud is checked this often. */
const SIGHT_CHECK_MS = 10_000
/** A machine that takes longer to start than this is named as what its order waits for. */
const SLOW_START_MS = 30_000
/** While a name is missing, what is in its way is told as it is by now this often. */
const NAME_CHECK_MS = 10_000

/** Looks at one item: its winner, or the attempt under way, or that it wants one. */
export function serveItem(notes: Notes, item: ItemView): void {
  for (const attempt of item.open) if (attempt.state === 'surplus' || attempt.state === 'lost') doom(notes, attempt)
  const winner = item.open.find((attempt) => attempt.state === 'won')
  if (item.state === 'failed' || item.state === 'cancelled' || item.state === 'terminated') return
  if (item.instance_wish === 'terminate') {
    if (winner) leaveToInstance(notes, item)
    else undoItem(notes, item)
  } else if (item.naming) awaitName(notes, item.naming)
  else if (winner) followWinner(notes, item, winner)
  else {
    const current = item.open.find((a) => a.state === 'open' || a.state === 'sent' || a.state === 'unknown')
    if (!current) replaceMachine(notes, item)
    else if (!followAttempt(notes, item, current)) notes.wanting.push(item)
  }
}

/** `instance/<id>` asks for the name, and wakes its order when there is one, or trouble. */
function awaitName(notes: Notes, { error }: NonNullable<ItemView['naming']>): void {
  if (error === null) return
  const check_at = notes.now + NAME_CHECK_MS
  notes.due.push(check_at)
  notes.blockers.push(nameBlocker(error, check_at))
}

/** No attempt is under way: another one, unless the machine came to an end. */
function replaceMachine(notes: Notes, item: ItemView): void {
  if (item.instance_state === 'terminated') endItem(notes, item, 'terminated')
  else if (item.instance_state !== 'missing') notes.wanting.push(item)
  else if (item.state === 'running') healItem(notes, item, null)
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
      if (item.state === 'running') healItem(notes, item, winner)
      else giveUp(notes, item, winner, 'the machine failed to start')
      return
    case 'terminating':
    case 'terminated':
    case 'missing':
      return
    default:
      // Once it has run, a start of it is its own affair.
      if (item.state === 'running') return
      awaitStart(notes, item, winner)
  }
}

/** For as long as its cloud is in sight and its time is not up. */
function awaitStart(notes: Notes, item: ItemView, winner: AttemptView): void {
  const { now, view } = notes
  const cloud = view.clouds.find((c) => c.id === winner.cloud_id)!
  const since = winner.sent_at ?? now
  const give_up_at = since + cloud.boot_timeout_ms
  const in_sight = awaitSight(notes, cloud, since)
  if (in_sight && give_up_at <= now) {
    giveUp(notes, item, winner, 'the machine did not start in time')
    return
  }
  setItem(notes, item, 'starting')
  if (!in_sight) return
  notes.due.push(give_up_at)
  if (now - since >= SLOW_START_MS)
    notes.blockers.push({
      code: 'machine_starting',
      reason: `a machine at cloud ${cloud.name} has been starting since ${new Date(since).toISOString()}; if it never does, another is made`,
      next_try_at: give_up_at,
    })
}

/** Its machine is of no use: it goes, and another attempt follows. */
function giveUp(notes: Notes, item: ItemView, winner: AttemptView, reason: string): void {
  notes.attempts.push({ id: winner.id, state: 'surplus', gone: false, reason })
  doom(notes, winner)
  startOver(notes, item, reason)
}

/** What starts is seen by the watcher; where the cloud has not been listed for a while, that is what blocks. */
function awaitSight(notes: Notes, { name, listed_at }: CloudView, since: number): boolean {
  const { now } = notes
  notes.due.push(now + SIGHT_CHECK_MS)
  // An account that had no machines was not listed before.
  if (listed_at !== null && now - Math.max(listed_at, since) < SIGHT_CHECK_MS) return true
  notes.blockers.push({
    code: 'cloud_unseen',
    reason: `cloud ${name} cannot be listed; its machines were not seen lately`,
    next_try_at: now + SIGHT_CHECK_MS,
  })
  return false
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
      // For as long as it takes: another attempt could be a second machine, the same token never is.
      if (cloud.idempotency_tokens) {
        if (send_at > now) block(notes, attempt, cloud, send_at)
        else addCreate(notes, attempt)
        return true
      }
      if (settle_at > now || isUnseen(cloud, attempt)) {
        block(notes, attempt, cloud, settledAt(cloud, attempt, now))
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
