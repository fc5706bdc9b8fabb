/** What should move, and how it stands. */
import { type Json, object } from './checker/shapes.ts'

/** Time without progress after which something is stuck. */
export const STUCK_AFTER_MS = 60_000

/** Something that should move, and how it stands: as long as that stays the same it has made no progress. */
export interface Open {
  readonly subject: string
  readonly stand: string
  /** A blocker with a name, or its moment has not come: it may stand still. */
  readonly excused: boolean
}

export interface Found {
  readonly orders: readonly Json[]
  readonly instances: readonly Json[]
  readonly leases: readonly Json[]
  readonly deliveries: readonly Json[]
  readonly actions: readonly OpenAction[]
}

/** An action that is not over; its instance, where it is one of an instance. */
export interface OpenAction {
  readonly action: Json
  readonly instance: Json | null
}

/** What should move, each judged by the noun that moves it: an open order stands for its instances and its lease. */
export function* standOf({ orders, instances, leases, deliveries, actions }: Found): Generator<Open> {
  const open_orders = new Set(orders.map(({ id }) => id))
  for (const row of orders)
    yield {
      subject: `order ${row.id}`,
      stand: `${row.state} ${row.sequence} ${JSON.stringify(row.counts)}`,
      excused: isHeld(row.blocker),
    }
  for (const row of instances)
    yield {
      subject: `instance ${row.id}`,
      stand: `${row.state} ${row.sequence}`,
      excused: open_orders.has(row.order_id) || isHeld(row.blocker),
    }
  for (const { action, instance } of actions)
    yield {
      subject: `action ${action.id}`,
      stand: `${action.state} ${instance?.sequence} ${action.wave} ${JSON.stringify(action.counts)}`,
      // What a deployment waits for is moved by its instances and orders.
      excused: instance ? open_orders.has(instance.order_id) || isHeld(instance.blocker) : openParts(action) > 0,
    }
  const now = Date.now()
  const due = (moment: unknown): boolean => typeof moment === 'string' && Date.parse(moment) < now
  for (const row of leases) {
    const moment =
      row.state === 'PENDING' ? row.start_at : row.state === 'ACTIVE' && row.wish !== 'end' ? row.end_at : null
    yield {
      subject: `lease ${row.id}`,
      stand: `${row.state} ${row.sequence}`,
      excused: (moment !== null && !due(moment)) || open_orders.has(row.order_id) || isHeld(row.blocker),
    }
  }
  // A hook's deliveries are a queue: what is due longest is what must move, and only the first of a resource can.
  const heads = new Map<string, Json>()
  for (const row of deliveries) {
    const place = `${row.hook_id} ${row.resource_type} ${row.resource_id}`
    const head = heads.get(place)
    if (!head || Number(row.sequence) < Number(head.sequence)) heads.set(place, row)
  }
  const oldest = new Map<unknown, Json>()
  for (const row of heads.values()) {
    if (row.state === 'parked' || (row.state === 'waiting' && !due(row.next_attempt_at))) continue
    const before = oldest.get(row.hook_id)
    if (!before || Number(row.id) < Number(before.id)) oldest.set(row.hook_id, row)
  }
  for (const [hook_id, row] of oldest)
    yield { subject: `hook ${hook_id}`, stand: `delivery ${row.id} ${row.state} ${row.sends}`, excused: false }
}

const openParts = ({ counts }: Json): number => Number(object(counts).open)

/** A blocker with a name and a next try that is not long past. */
function isHeld(value: unknown): boolean {
  const { code, next_try_at } = object(value)
  if (!code) return false
  return typeof next_try_at !== 'string' || Date.parse(next_try_at) + STUCK_AFTER_MS > Date.now()
}
