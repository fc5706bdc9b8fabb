/** What must hold at the end of the year, after a time in which nothing went wrong. */
import { stateOf } from '../cloud/machines.ts'
import type { OrderRow } from '../record/rows.ts'
import type { World } from '../world.ts'
import type { Invariant } from './invariants.ts'

/** What was to happen so shortly before the end may still be under way. */
const UNDER_WAY_MS = 3_600_000

/** What runs of it is to go on. */
const isWanted = ({ wish }: OrderRow): boolean => wish === 'run' || wish === 'withdraw'

const OVER = new Set(['cancelled', 'terminated', 'failed'])

export const AT_THE_END = {
  /** Every machine serves an item whose end nobody wishes, or is kept: it died after its order had run. */
  no_leak(world, against) {
    for (const [item, machines] of world.made)
      for (const machine of machines) {
        const { order, instance } = item
        if (isUnderWay(world, order)) continue
        const attempt = world.record.attempts.get(machine.attempt_id)
        const serves = attempt?.state === 'won' && instance.provider_id === machine.provider_id
        const wanted = isWanted(order) && instance.wish === 'run'
        const kept = order.settled_at !== null && item.state === 'failed'
        if (!serves || !wanted || (instance.state !== 'running' && !kept) || attempt.gone_at !== null)
          against(
            machine.attempt_id,
            `${machine.provider_id} is ${stateOf(machine)}, its attempt ${attempt?.state}${attempt?.gone_at === null ? '' : ' and gone'}, ` +
              `its item ${item.state}, its instance ${instance.state}, its order ${order.state}, wished to ${order.wish}`,
          )
      }
  },

  /** An instance that is said to run has its machine. */
  no_phantom(world, against) {
    for (const { items } of world.record.orders)
      for (const { instance } of items) {
        if (instance.state !== 'running' && instance.state !== 'starting') continue
        const machine = (world.made.get(instance.item) ?? []).find((m) => m.provider_id === instance.provider_id)
        if (!machine) against(instance.id, `is ${instance.state}, and its machine ${instance.provider_id} is gone`)
      }
  },

  /** Orders, instances and leases are where they were wished to be. */
  settled_as_wished(world, against) {
    for (const order of world.record.orders) if (!isUnderWay(world, order)) judgeOrder(order, against)
    for (const lease of world.record.leases) {
      const over = lease.state === 'TERMINATED' || lease.state === 'ERROR'
      const ends = lease.wish === 'end' || lease.end_at < world.now - UNDER_WAY_MS
      if (ends && !over) against(lease.id, `is ${lease.state} though its end has come`)
      if (over && lease.order && !OVER.has(lease.order.state)) against(lease.id, `is over, ${lease.order.id} is not`)
      if (!over && lease.state === 'PENDING' && lease.start_at < world.now - UNDER_WAY_MS)
        against(lease.id, 'has not started')
    }
  },
} satisfies Record<string, Invariant>

function isUnderWay(world: World, order: OrderRow): boolean {
  const recent = world.now - UNDER_WAY_MS
  const lease_ends = order.lease !== null && order.lease.wish === 'run' && order.lease.end_at > recent
  return order.created_at > recent || (lease_ends && order.lease.end_at <= world.now)
}

function judgeOrder(order: OrderRow, against: (noun: string, what: string) => void): void {
  const { state, wish, items, blocker, partial } = order
  if (state !== 'running' && !OVER.has(state))
    against(order.id, `is ${state}, wished to ${wish}, held by ${blocker?.code ?? 'nothing'}`)
  if (!isWanted(order) && !OVER.has(state)) against(order.id, `is ${state}, though it was wished to ${wish}`)
  for (const { instance, id } of items) {
    if (instance.action !== null) against(instance.id, `has an open action, and is ${instance.state}`)
    if (OVER.has(state) && !isWanted(order) && instance.state === 'running') against(id, `runs, its order is ${state}`)
  }
  const running = items.filter(({ instance }) => instance.state === 'running').length
  if (state === 'running' && running === 0) against(order.id, 'is running, and none of its instances is')
  if (state === 'running' && !partial && running < items.length)
    against(order.id, `is running and not partial, and ${running} of ${items.length} instances are`)
}
