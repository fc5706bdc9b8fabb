/** Launch attempts, as in store/attempts.ts: what was sent, and what is known of it. */
import { attend, orderFlow, wake } from '../motion/wakes.ts'
import { hintWatch } from '../motion/watcher.ts'
import { tell, type World } from '../world.ts'
import { changeAttempt, changeInstance, changeItem, setError } from './change.ts'
import type { AttemptRow, OrderRow } from './rows.ts'

export const ATTENDED_MS = 4_000
const BACKOFF_FIRST_MS = 500
const BACKOFF_MAX_MS = 10_000

const isEnding = (order: OrderRow): boolean =>
  order.wish !== 'run' || order.state === 'compensating' || order.state === 'failed'

/** Marks the due attempts of a batch as sent; returns them with the number of the send. */
export function markSent(world: World, order: OrderRow, batch: number): { attempt: AttemptRow; send: number }[] {
  const attempts = order.items.flatMap((item) => item.open.filter((attempt) => attempt.batch === batch))
  const first = attempts[0]
  if (first) attend(world, order, Math.min(first.cloud.traits.call_timeout_ms, ATTENDED_MS))
  if (isEnding(order)) return []
  const sent: { attempt: AttemptRow; send: number }[] = []
  for (const attempt of attempts) {
    const { traits } = attempt.cloud
    const was = attempt.state
    if (!traits.idempotency_tokens && was === 'sent') {
      changeAttempt(world, attempt, 'unknown')
      continue
    }
    if (was !== 'open' && !(traits.idempotency_tokens && (was === 'sent' || was === 'unknown'))) continue
    if (attempt.next_send_at !== null && attempt.next_send_at > world.now) continue
    if (attempt.item.instance.wish === 'terminate') continue
    tell(world, { act: 'sent', attempt, was, due_at: attempt.next_send_at })
    if (was === 'sent') attempt.error = silence(world)
    attempt.sends++
    attempt.sent_at = world.now
    attempt.next_send_at = null
    attempt.settle_at = world.now + traits.call_timeout_ms + traits.settle_ms + traits.list_lag_ms
    changeAttempt(world, attempt, 'sent')
    sent.push({ attempt, send: attempt.sends })
  }
  if (first) hintWatch(world, first.cloud)
  return sent
}

const silence = ({ now }: World) => ({
  class: 'lost_reply',
  message: 'its answer was lost',
  at: new Date(now).toISOString(),
})

export interface SendOutcome {
  readonly attempt: AttemptRow
  readonly send: number
  readonly provider_id?: string
  readonly error?: { readonly class: string; readonly retry_after_ms?: number }
}

/** Stores what a create was answered. */
export function storeOutcome(world: World, order: OrderRow, outcome: SendOutcome): void {
  const { attempt, send, provider_id, error } = outcome
  attend(world, order, ATTENDED_MS)
  if (provider_id !== undefined) world.store.bindMachines(world, order, [{ attempt, provider_id, how: 'acknowledged' }])
  else if (error && attempt.state === 'sent' && attempt.sends === send) storeError(world, attempt, error)
  hintWatch(world, attempt.cloud)
  wake(world, orderFlow(order), ATTENDED_MS)
}

function storeError(world: World, attempt: AttemptRow, error: NonNullable<SendOutcome['error']>): void {
  const backoff_ms = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.max(0, attempt.sends - 1))
  const kept = { class: error.class, message: `${error.class} said`, at: new Date(world.now).toISOString() }
  const passes = error.class === 'throttled' || error.class === 'unavailable'
  const in_doubt = attempt.error?.class === 'lost_reply'
  if (!(in_doubt && passes)) attempt.error = kept
  world.say(attempt.id, `answered ${error.class}`)
  if (passes) {
    attempt.next_send_at = world.now + (error.retry_after_ms ?? backoff_ms)
    changeAttempt(world, attempt, in_doubt ? 'unknown' : 'open')
  } else if (in_doubt && error.class !== 'lost_reply') {
    attempt.next_send_at = Math.max(world.now + backoff_ms, attempt.settle_at ?? 0)
    changeAttempt(world, attempt, 'unknown')
  } else if (error.class === 'lost_reply') {
    attempt.next_send_at = world.now + backoff_ms
    changeAttempt(world, attempt, 'unknown')
  } else {
    attempt.next_send_at = null
    attempt.gone_at = world.now
    changeAttempt(world, attempt, 'lost')
    world.store.releaseClaims(world, [attempt])
    if (attempt.item.state !== 'creating') return
    setError(attempt.item, kept)
    changeItem(world, attempt.item, 'queued')
  }
}

export interface Found {
  readonly attempt: AttemptRow
  readonly provider_id: string
  readonly how: 'acknowledged' | 'found_by_tag'
}

/** Binds machines to the attempts they belong to; one whose item is served, or not wanted any more, is surplus. */
export function bindMachines(world: World, order: OrderRow, found: readonly Found[]): void {
  for (const { attempt, provider_id, how } of found) {
    if (attempt.provider_id !== null) continue
    const { item, cloud } = attempt
    const { instance } = item
    const wins =
      !isEnding(order) &&
      attempt.state !== 'lost' &&
      instance.wish !== 'terminate' &&
      instance.state === 'pending' &&
      !item.open.some(({ state }) => state === 'won')
    world.say(attempt.id, `${how} ${provider_id} as ${wins ? 'won' : 'surplus'}`)
    attempt.provider_id = provider_id
    attempt.next_send_at = null
    attempt.gone_at = null
    changeAttempt(world, attempt, wins ? 'won' : 'surplus')
    if (!wins) continue
    changeItem(world, item, 'starting')
    changeInstance(world, { instance, to: 'starting', cloud, provider_id, acknowledged: true, only_from: ['pending'] })
  }
}
