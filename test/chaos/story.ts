/** How the good run is told: moments, causes, events in their order, and the bodies that hooks get of them. */
import type { Cause, EventRow } from '../../chaos/checker/ledgers.ts'

export const T0 = Date.parse('2026-01-01T00:00:00Z')
/** A moment of the run: so many seconds after its begin. */
export const sec = (seconds: number): number => T0 + seconds * 1_000
export const PROJECT = 'red'

/** The body that hooks get for an event. */
export const bodyOf = (event: EventRow): string =>
  JSON.stringify({
    id: event.id,
    type: event.type,
    timestamp: new Date(event.at_ms).toISOString(),
    data: {
      resource_type: event.resource_type,
      resource_id: event.resource_id,
      sequence: event.sequence,
      from: event.from,
      to: event.to,
      reason: 'because',
      cause: event.cause,
      snapshot: event.snapshot,
    },
  })

export const requested = (request_id: string): Cause => ({
  actor: { user_id: 'user-1', request_id },
  reason: 'requested',
})
export const observed = (ms: number): Cause => ({
  rule: 'observed',
  evidence: { observed_at: new Date(ms).toISOString() },
})
export const because = (event: string, rule = 'rule'): Cause => ({ rule, reason: 'because', event })

/** Events in the order they happened; `id` is `resource_id:sequence`. */
export class Story {
  readonly events: EventRow[] = []

  tell(resource: string, seconds: number, type: string, to: string | null, cause: Cause): void {
    const [resource_type, resource_id] = resource.split('/') as [string, string]
    const earlier = this.events.filter((event) => event.resource_id === resource_id)
    const sequence = earlier.length + 1
    const from = earlier.at(-1)?.to ?? null
    this.events.push({
      id: `${resource_id}:${sequence}`,
      project: resource_type === 'cloud' ? null : PROJECT,
      resource_type,
      resource_id,
      sequence,
      type,
      from,
      to: to ?? from,
      at_ms: sec(seconds),
      cause,
      snapshot: { name: resource_id },
    })
  }

  /** An order of one instance that runs a second after the order was made. */
  launch(order: string, instance: string, seconds: number, cause: Cause): void {
    this.tell(`order/${order}`, seconds, 'order.created', 'queued', cause)
    this.tell(`instance/${instance}`, seconds, 'instance.created', 'pending', because(`${order}:1`))
    this.tell(`instance/${instance}`, seconds + 0.5, 'instance.state_changed', 'starting', observed(sec(seconds + 0.4)))
    this.tell(`instance/${instance}`, seconds + 1, 'instance.state_changed', 'running', observed(sec(seconds + 0.9)))
    this.tell(`order/${order}`, seconds + 1, 'order.state_changed', 'running', because(`${instance}:3`))
  }

  /** The end of what `launch` began. */
  undo(order: string, instance: string, seconds: number, cause: Cause): void {
    this.tell(`order/${order}`, seconds, 'order.wish_changed', null, cause)
    this.tell(`instance/${instance}`, seconds, 'instance.state_changed', 'terminating', because(`${order}:3`))
    this.tell(`order/${order}`, seconds, 'order.state_changed', 'terminating', because(`${order}:3`))
    this.tell(`instance/${instance}`, seconds + 1, 'instance.state_changed', 'terminated', observed(sec(seconds + 0.9)))
    this.tell(`order/${order}`, seconds + 1, 'order.state_changed', 'terminated', because(`${instance}:5`))
  }
}
