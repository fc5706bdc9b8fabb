/** Gaps, inversions, phantoms, duplicates: what each receiver got, against the events its hook asked for. */
import { asked, type Dossier, endAsked, isPromised, mayCount, unseen } from './dossier.ts'
import { at } from './findings.ts'
import type { DeliveryRow, EventRow, HookFilter, HookRow, Received, ReceiverLedger } from './ledgers.ts'
import { bodyDiffers, bodyType } from './received-body.ts'

/** An event so soon after the hook was accepted may not have seen it. */
const SUBSCRIPTION_GRACE_MS = 1_000
const OPEN = new Set(['pending', 'in_flight', 'waiting', 'parked'])
/** States of a hook that hold up its deliveries by themselves. */
const HOLDING = new Set(['unverified', 'paused', 'disabled', 'deleted'])

export function judgeHooks(dossier: Dossier): void {
  if (unseen(dossier, 'events')) return
  const deliveries_of = Map.groupBy(dossier.ledgers.record.deliveries, (delivery) => delivery.hook_id)
  for (const receiver of dossier.ledgers.receivers) {
    const rows = new Map((deliveries_of.get(receiver.hook_id) ?? []).map((row) => [row.event_id, row]))
    const hook = dossier.ledgers.record.hooks.find(({ id }) => id === receiver.hook_id)
    judgeGaps(dossier, receiver, hook, rows)
    judgePhantoms(dossier, receiver, hook)
    judgeOrder(dossier, receiver)
    judgeDuplicates(dossier, receiver)
  }
  for (const row of dossier.ledgers.record.deliveries) judgeOpen(dossier, row)
}

const accepted = ({ answered_status }: Received): boolean =>
  answered_status !== null && answered_status >= 200 && answered_status < 300
const scheduled = ({ trigger }: Received): boolean => trigger !== 'manual' && trigger !== 'recovery'

/** Events the hook must be told of: those with a delivery, and all that its filter takes from its acceptance on. */
function expectedOf(
  dossier: Dossier,
  hook_id: string,
  hook: HookRow | undefined,
  rows: ReadonlyMap<string, DeliveryRow>,
): EventRow[] {
  const made = asked(dossier, hook_id, ['hook']).find(isPromised)
  const ended_ms = Math.min(
    ...asked(dossier, hook_id, ['end'])
      .filter(mayCount)
      .map((entry) => entry.sent_at_ms),
  )
  return dossier.ledgers.record.events.filter((event) => {
    if (rows.has(event.id)) return true
    if (!hook || !made || !wants(hook, event)) return false
    const at_ms = event.at_ms - dossier.clock_offset_ms
    return at_ms > made.at_ms + SUBSCRIPTION_GRACE_MS && at_ms < ended_ms - SUBSCRIPTION_GRACE_MS
  })
}

function wants(hook: HookRow, event: EventRow): boolean {
  if (event.project !== hook.project || (event.resource_type === 'hook' && event.resource_id === hook.id)) return false
  const { types, resource_type, resource_id, deployment_id }: HookFilter = hook.filter
  const typed = types?.some(
    (type) => type === event.type || type === '*' || (type.endsWith('.*') && event.type.startsWith(type.slice(0, -1))),
  )
  return (
    typed !== false &&
    (resource_type === undefined || resource_type === event.resource_type) &&
    (resource_id === undefined || resource_id === event.resource_id) &&
    (deployment_id === undefined || deployment_id === (event.snapshot?.deployment_id ?? event.resource_id))
  )
}

function judgeGaps(
  dossier: Dossier,
  { hook_id, deliveries }: ReceiverLedger,
  hook: HookRow | undefined,
  rows: ReadonlyMap<string, DeliveryRow>,
): void {
  const got = Map.groupBy(deliveries, (received) => received.webhook_id)
  for (const event of expectedOf(dossier, hook_id, hook, rows)) {
    const attempts = got.get(event.id) ?? []
    const row = rows.get(event.id)
    if (attempts.some(accepted) || isExcused(dossier, row, attempts)) continue
    dossier.findings.note(
      'gaps',
      `hook ${hook_id} ${event.id}`,
      `${event.type} of ${event.resource_type}/${event.resource_id} ${event.sequence} at ${at(event.at_ms)} was ` +
        `${attempts.length ? `refused ${attempts.length} times and never accepted` : 'never received'}, ` +
        `its delivery is ${row?.state ?? (unseen(dossier, 'deliveries') ? 'not to be seen' : 'not in the record')}`,
    )
  }
}

/** Still open is judged as such; given up is in order where the receiver refused, or a person asked for it. */
function isExcused(dossier: Dossier, row: DeliveryRow | undefined, attempts: readonly Received[]): boolean {
  if (!row) return false
  if (OPEN.has(row.state) || row.state === 'expired') return true
  if (row.state === 'exhausted' || row.state === 'aborted') return attempts.length > 0
  return row.state === 'cancelled' && endAsked(dossier, [row.hook_id, row.id])
}

function judgePhantoms(dossier: Dossier, { hook_id, deliveries }: ReceiverLedger, hook: HookRow | undefined): void {
  const first_bodies = new Map<string, string>()
  for (const received of deliveries) {
    const { webhook_id, body } = received
    const note = (what: string): void =>
      dossier.findings.note('phantoms', `hook ${hook_id} ${webhook_id}`, `received at ${at(received.at_ms)}, ${what}`)
    const first_body = first_bodies.get(webhook_id)
    if (first_body !== undefined && first_body !== body)
      note(`attempt ${received.attempt} has other bytes than the first`)
    first_bodies.set(webhook_id, first_body ?? body)
    const event = dossier.events.get(webhook_id)
    if (!event) {
      // Pings and samples belong to no event, and housekeeping goes on while the record is read.
      const may_be_unread = received.at_ms >= dossier.ledgers.read_since_ms
      if (bodyType(body) !== 'hook.ping' && received.trigger !== 'test' && !may_be_unread)
        note('the record has no such event')
      continue
    }
    const is_json = hook ? hook.format === 'json' : body.startsWith('{')
    const difference = is_json ? bodyDiffers(body, event) : null
    if (difference) note(`its body differs from the record: ${difference}`)
    if (hook && !wants(hook, event)) note(`the hook did not ask for ${event.type} of project ${event.project}`)
  }
}

/** An event of a resource comes first only once the one before it was accepted or given up. */
function judgeOrder(dossier: Dossier, { hook_id, deliveries }: ReceiverLedger): void {
  const receipts = deliveries.filter(scheduled).flatMap((received) => {
    const event = dossier.events.get(received.webhook_id)
    return event ? [{ received, event }] : []
  })
  for (const [resource, of_resource] of Map.groupBy(
    receipts,
    ({ event }) => `${event.resource_type}/${event.resource_id}`,
  )) {
    const seen = new Set<string>()
    let newest: { event: EventRow; received: Received } | undefined
    const open = new Map<string, EventRow>()
    for (const receipt of of_resource) {
      const { event, received } = receipt
      const behind = newest && event.sequence < newest.event.sequence ? newest : undefined
      const late_acceptance = behind && open.has(event.id) && accepted(received)
      if (behind && (!seen.has(event.id) || late_acceptance)) {
        dossier.findings.note(
          'inversions',
          `hook ${hook_id} ${event.id}`,
          `${resource} ${event.sequence} ${seen.has(event.id) ? 'was still being tried' : 'first came'} at ` +
            `${at(received.at_ms)}, ${behind.event.sequence} had first come at ${at(behind.received.at_ms)}`,
        )
      }
      if (!newest || event.sequence > newest.event.sequence) newest = receipt
      if (accepted(received)) open.delete(event.id)
      else if (!seen.has(event.id)) open.set(event.id, event)
      seen.add(event.id)
    }
  }
}

function judgeDuplicates(dossier: Dossier, { hook_id, deliveries }: ReceiverLedger): void {
  const taken = new Map<string, Received>()
  deliveries.forEach((received, place) => {
    const before = taken.get(received.webhook_id)
    if (before && scheduled(received)) {
      dossier.findings.note(
        'duplicates',
        `hook ${hook_id} ${received.webhook_id} (${place})`,
        `came again at ${at(received.at_ms)}, accepted at ${at(before.at_ms)}`,
      )
    }
    if (!before && accepted(received)) taken.set(received.webhook_id, received)
  })
}

/** A delivery that is open at the end says what it waits for. */
function judgeOpen(dossier: Dossier, row: DeliveryRow): void {
  if (!OPEN.has(row.state) || row.reason) return
  const hook = dossier.ledgers.record.hooks.find(({ id }) => id === row.hook_id)
  if (hook && HOLDING.has(hook.state)) return
  const event = dossier.events.get(row.event_id)
  if (event && event.at_ms - dossier.clock_offset_ms + dossier.grace_ms >= dossier.ledgers.collected_at_ms) return
  dossier.findings.note(
    'stuck',
    `delivery ${row.id}`,
    `of ${row.event_id} to hook ${row.hook_id} is ${row.state} at the end without a reason`,
  )
}
