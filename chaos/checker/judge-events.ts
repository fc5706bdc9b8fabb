/** The record's own events: gap-free and in order by resource, each led back to a cause, and telling the present state. */
import { type Dossier, unseen } from './dossier.ts'
import { at } from './findings.ts'
import type { EventRow } from './ledgers.ts'

export function judgeEvents(dossier: Dossier): void {
  if (unseen(dossier, 'events')) return
  for (const [resource, events] of dossier.events_of) judgeSequence(dossier, resource, events)
  judgeCauses(dossier)
  const { orders, leases, instances } = dossier
  for (const [type, rows] of [
    ['order', orders],
    ['lease', leases],
    ['instance', instances],
  ] as const)
    for (const row of rows.values()) judgeState(dossier, `${type}/${row.id}`, row.state)
}

function judgeSequence(dossier: Dossier, resource: string, listed: readonly EventRow[]): void {
  const { findings } = dossier
  listed.forEach((event, place) => {
    const before = listed[place - 1]
    if (before && event.sequence < before.sequence)
      findings.note('inversions', `event ${event.id}`, `${resource} lists ${event.sequence} behind ${before.sequence}`)
  })
  const events = listed.toSorted((a, b) => a.sequence - b.sequence)
  let expected = 1
  let before: EventRow | undefined
  for (const event of events) {
    if (event.sequence < expected)
      findings.note('gaps', `${resource} ${event.sequence}`, `is told twice, by ${before?.id} and ${event.id}`)
    for (; expected < event.sequence; expected++)
      findings.note(
        'gaps',
        `${resource} ${expected}`,
        `is missing in the record before ${event.id} of ${at(event.at_ms)}`,
      )
    const follows = before?.sequence === event.sequence - 1
    if (follows && before?.to && event.from && event.from !== before.to) {
      findings.note(
        'disagreements',
        `event ${event.id}`,
        `${resource} left ${event.from} at ${at(event.at_ms)}, but ${before.id} had left it ${before.to}`,
      )
    }
    expected = event.sequence + 1
    before = event
  }
}

/** The last event of a resource tells the state it has. */
function judgeState(dossier: Dossier, resource: string, state: string): void {
  const events = dossier.events_of.get(resource)
  if (!events) {
    dossier.findings.note('gaps', `${resource} 1`, 'the record has no event of it')
    return
  }
  const last = events.toSorted((a, b) => a.sequence - b.sequence).findLast((event) => event.to !== null)
  if (last && last.to !== state)
    dossier.findings.note(
      'disagreements',
      resource,
      `is ${state}, but ${last.id} of ${at(last.at_ms)} left it ${last.to}`,
    )
}

/** Follows every chain of causes to a request or an observation; notes where one breaks, once. */
function judgeCauses(dossier: Dossier): void {
  const led_back = new Set<string>()
  for (const event of dossier.ledgers.record.events) {
    const path = new Set<string>()
    let current: EventRow = event
    for (;;) {
      if (led_back.has(current.id)) break
      if (path.has(current.id)) {
        breaks(dossier, [...path].toSorted()[0]!, 'its causes lead back to itself')
        break
      }
      path.add(current.id)
      if (isRequest(current) || isObservation(current)) break
      const cause = current.cause.event
      const next = typeof cause === 'string' ? dossier.events.get(cause) : undefined
      if (!next) {
        const what =
          cause === undefined
            ? 'neither a request, an observation nor an event'
            : `event ${String(cause)}, which is not there`
        breaks(dossier, current.id, `names as its cause ${what} (rule ${String(current.cause.rule)})`)
        break
      }
      current = next
    }
    for (const id of path) led_back.add(id)
  }
}

function breaks(dossier: Dossier, event_id: string, what: string): void {
  const event = dossier.events.get(event_id)!
  const resource = `${event.resource_type}/${event.resource_id} ${event.sequence}`
  dossier.findings.note('uncaused', `event ${event_id}`, `${event.type} of ${resource} at ${at(event.at_ms)} ${what}`)
}

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}

function isRequest({ cause }: EventRow): boolean {
  const { request_id, user_id } = fieldsOf(cause.actor)
  return Boolean(request_id) && Boolean(user_id)
}

function isObservation({ cause }: EventRow): boolean {
  const { observed_at } = fieldsOf(cause.evidence)
  return typeof observed_at === 'string' && !Number.isNaN(Date.parse(observed_at))
}
