/** Housekeeping: wakes whatever is overdue, as store/housekeeping.ts does every 30 s. */
import { isFinal } from '../record/change.ts'
import type { OrderRow } from '../record/rows.ts'
import { after, type World } from '../world.ts'
import { instanceFlow, leaseFlow, orderFlow, type Target, wake } from './wakes.ts'

const OVERDUE_MS = 30_000
const EVERY_MS = 30_000

export interface Due {
  readonly flow: Target
  readonly row: { readonly due_at: number | null }
}

/** To be called when a noun's moment was set: looks at it when it would be overdue. */
export function housekeep(world: World, due: Due): void {
  const { due_at } = due.row
  if (due_at !== null) lookAt(world, due, Math.max(due_at + OVERDUE_MS, world.now) + world.chance.whole(1, EVERY_MS))
}

function lookAt(world: World, due: Due, at: number): void {
  const { id } = due.flow
  if ((world.minded.get(id) ?? Number.POSITIVE_INFINITY) <= at) return
  world.minded.set(id, at)
  world.agenda.put(at, () => {
    if (world.minded.get(id) !== at) return
    world.minded.delete(id)
    const { due_at } = due.row
    if (due_at === null) return due.flow.kind === 'order' ? lookAfterSettled(world, due.flow.row) : undefined
    if (due_at + OVERDUE_MS >= world.now) return housekeep(world, due)
    world.say(id, 'overdue: woken by housekeeping')
    wake(world, due.flow)
    lookAt(world, due, world.now + EVERY_MS)
  })
}

const DEAD = new Set(['failed', 'missing', 'terminated'])

/** A settled order that has not taken notice of what became of its machines. */
export const isBehind = (order: OrderRow): boolean =>
  order.due_at === null &&
  order.items.some(
    ({ state, instance, open }) =>
      open.some((attempt) => attempt.state === 'surplus') || (state === 'running' && DEAD.has(instance.state)),
  )

/** A settled order was to be woken: should that be lost, it is found to be behind. */
export function mindSettled(world: World, order: OrderRow): void {
  const due = { flow: orderFlow(order), row: order }
  if (order.due_at === null) lookAt(world, due, world.now + OVERDUE_MS + world.chance.whole(1, EVERY_MS))
}

function lookAfterSettled(world: World, order: OrderRow): void {
  if (!isBehind(order)) return
  world.say(order.id, 'settled and behind: woken by housekeeping')
  wake(world, orderFlow(order))
}

/** The engine is new and knows no flow: every open noun is woken. */
export function wakeOpen(world: World): void {
  const { orders, leases } = world.record
  for (const order of orders)
    if (order.due_at !== null || !isFinal(order.state) || isBehind(order)) wake(world, orderFlow(order))
  for (const lease of leases) if (lease.state !== 'TERMINATED' && lease.state !== 'ERROR') wake(world, leaseFlow(lease))
  for (const { items } of orders)
    for (const { instance } of items) if (instance.action !== null) wake(world, instanceFlow(instance))
}

/** The engine and all that it knew is lost; a new one comes up. */
export function loseEngine(world: World): void {
  world.say('engine', 'lost, with all flows and wakes')
  for (const flow of world.flows.values()) flow.over = true
  world.flows.clear()
  for (const rows of world.outbox.values()) for (const row of rows) row.answered = true
  world.outbox.clear()
  after(world, world.chance.spread(1_000, 600_000), () => wakeOpen(world))
}
