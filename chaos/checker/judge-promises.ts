/** Lost and stuck: whether everything a client was promised settled as it should, and whether anything is left open. */
import {
  asked,
  type Dossier,
  endAsked,
  INSTANCE_IN_USE,
  INSTANCE_OVER,
  inForce,
  isHeld,
  isPromised,
  LEASE_OVER,
  mayCount,
  ORDER_OVER,
  unseen,
} from './dossier.ts'
import { at } from './findings.ts'
import type { ClientEntry, InstanceRow, LeaseRow, OrderRow } from './ledgers.ts'

export function judgePromises(dossier: Dossier): void {
  for (const entry of dossier.ledgers.client) if (isPromised(entry)) judgeEntry(dossier, entry)
  for (const order of dossier.orders.values()) judgeOrder(dossier, order)
  for (const lease of dossier.leases.values()) judgeLease(dossier, lease)
  for (const instance of dossier.instances.values()) judgeInstance(dossier, instance)
}

function judgeEntry(dossier: Dossier, entry: ClientEntry): void {
  const { orders, instances, leases, ledgers } = dossier
  const { kind, resource_id, promised } = entry
  const lost = (subject: string, what: string): void =>
    dossier.findings.note('lost', subject, `${kind} was accepted at ${at(entry.at_ms)} (${entry.status}), ${what}`)
  switch (kind) {
    case 'order': {
      const order = orders.get(resource_id)
      if (!order) {
        if (!unseen(dossier, 'orders')) lost(`order ${resource_id}`, 'the record has none')
        return
      }
      for (const field of ['count', 'policy', 'at_least'] as const) {
        if (promised?.[field] !== undefined && promised[field] !== order[field])
          lost(`order ${resource_id}`, `${field} ${promised[field]} was promised, the record says ${order[field]}`)
      }
      return
    }
    case 'lease':
      if (!leases.has(resource_id) && !unseen(dossier, 'leases')) lost(`lease ${resource_id}`, 'the record has none')
      return
    case 'hook': {
      const known = ledgers.record.hooks.some((hook) => hook.id === resource_id && hook.state !== 'deleted')
      if (!known && !unseen(dossier, 'hooks') && !endAsked(dossier, [resource_id]))
        lost(`hook ${resource_id}`, 'the record has none')
      return
    }
    case 'terminate':
    case 'cancel': {
      for (const order of orders.values()) {
        const concerned =
          order.id === resource_id || (order.deployment_id === resource_id && madeBefore(dossier, order, entry))
        if (concerned && order.state === 'running') lost(`order ${order.id}`, 'it is still running')
      }
      const instance = instances.get(resource_id)
      if (instance && (INSTANCE_IN_USE.has(instance.state) || instance.state === 'missing'))
        lost(`instance ${resource_id}`, `it is ${instance.state}`)
      return
    }
    case 'end': {
      const lease = leases.get(resource_id)
      if (lease && (lease.state === 'ACTIVE' || lease.state === 'PENDING' || lease.state === 'STARTING'))
        lost(`lease ${resource_id}`, `it is still ${lease.state}`)
      const hook = ledgers.record.hooks.find(({ id }) => id === resource_id)
      if (hook && hook.state !== 'deleted') lost(`hook ${resource_id}`, `it is still ${hook.state}`)
    }
  }
}

/** Of a deployment, the orders that were there when its end was asked for are concerned. */
const madeBefore = ({ clock_offset_ms }: Dossier, { created_at_ms }: OrderRow, { sent_at_ms }: ClientEntry): boolean =>
  created_at_ms - clock_offset_ms < sent_at_ms

function judgeOrder(dossier: Dossier, order: OrderRow): void {
  const { findings, instances_of, leases } = dossier
  const subject = `order ${order.id}`
  const lost = (what: string): void => findings.note('lost', subject, `is ${order.state}, ${what}`)
  if (order.state !== 'running' && !ORDER_OVER.has(order.state)) {
    if (!isHeld(dossier, order.blocker)) findings.note('stuck', subject, describeOpen(order.state, order.blocker))
    return
  }
  if (unseen(dossier, 'instances')) return
  const members = instances_of.get(order.id) ?? []
  if (members.length !== order.count) lost(`with ${members.length} of ${order.count} instances on record`)
  const in_use = members.filter((instance) => INSTANCE_IN_USE.has(instance.state))
  if (ORDER_OVER.has(order.state)) {
    for (const instance of in_use) lost(`but its instance ${instance.id} is ${instance.state}`)
    const lease = leases.get(order.lease_id ?? '')
    const lease_over = lease !== undefined && (lease.state === 'TERMINATING' || LEASE_OVER.has(lease.state))
    const by_members = members.length > 0 && members.every((instance) => endAsked(dossier, [instance.id]))
    const by_wish = endAsked(dossier, [order.id]) || isWithdrawn(dossier, order)
    if (order.state !== 'failed' && !lease_over && !by_members && !by_wish) lost('though nobody asked for its end')
    judgeHold(dossier, order, lost)
    return
  }
  judgeRunning(dossier, order, members, in_use, lost)
}

/** Who asked that it wait where all clouds refuse is not told that none was left. */
function judgeHold(dossier: Dossier, order: OrderRow, lost: (what: string) => void): void {
  if (!order.hold || order.state !== 'failed' || endAsked(dossier, [order.id, order.lease_id])) return
  const events = dossier.events_of.get(`order/${order.id}`) ?? []
  const excused = events.some(({ to, cause }) => to === 'running' || cause.rule === 'deadline_passed')
  if (!excused && !isWithdrawn(dossier, order) && !lostMember(dossier, order))
    lost('though it was to wait for the clouds to change their minds')
}

/** One of its machines ran and died while others were awaited, and it is not to be healed: no cloud refused that one. */
const lostMember = (dossier: Dossier, { id, healing }: OrderRow): boolean =>
  healing === 'none' &&
  (dossier.instances_of.get(id) ?? []).some((instance) =>
    (dossier.events_of.get(`instance/${instance.id}`) ?? []).some(
      ({ from, to }) => from === 'running' && (to === 'failed' || to === 'missing'),
    ),
  )

/** What did not run yet was not wanted any more. */
const isWithdrawn = (dossier: Dossier, { id }: OrderRow): boolean => asked(dossier, id, ['withdraw']).some(mayCount)

/** A running order met its policy when it settled: that many machines really ran; what died later makes it partial. */
function judgeRunning(
  dossier: Dossier,
  order: OrderRow,
  members: readonly InstanceRow[],
  in_use: readonly InstanceRow[],
  lost: (what: string) => void,
): void {
  if (!in_use.length) lost('but none of its instances is left')
  else if (!order.partial && in_use.length < order.count)
    lost(`and not partial, but only ${in_use.length} of ${order.count} instances are left`)
  const ran = members.filter(
    ({ id }) =>
      endAsked(dossier, [id]) || (dossier.machines_of.get(id) ?? []).some((machine) => machine.running_at_ms !== null),
  )
  const needed = order.policy === 'all' ? order.count : order.policy === 'any' ? 1 : (order.at_least ?? order.count)
  const at_unread_cloud = members.some(
    ({ cloud }) => cloud !== null && !dossier.ledgers.clouds.some((ledger) => ledger.name === cloud),
  )
  if (ran.length < needed && !at_unread_cloud && !isWithdrawn(dossier, order))
    lost(`but only ${ran.length} machines ever ran where policy ${order.policy} takes ${needed}`)
}

function judgeLease(dossier: Dossier, lease: LeaseRow): void {
  const { findings, orders, grace_ms } = dossier
  const subject = `lease ${lease.id}`
  const lost = (what: string): void => findings.note('lost', subject, `is ${lease.state}, ${what}`)
  const entries = asked(dossier, lease.id, ['lease', 'extend'])
  for (const field of ['start_at_ms', 'end_at_ms', 'before_end_at_ms'] as const) {
    const allowed = inForce(entries, field)
    if (allowed.length && !allowed.includes(lease[field]))
      lost(`${field} ${allowed.map(at).join(' or ')} was promised, the record says ${at(lease[field])}`)
  }
  const now_ms = dossier.ledgers.collected_at_ms + dossier.clock_offset_ms
  const due = (moment_ms: number): boolean => moment_ms + grace_ms < now_ms
  if (LEASE_OVER.has(lease.state)) {
    const order = orders.get(lease.order_id ?? '')
    if (lease.state === 'TERMINATED' && order?.state === 'running') lost(`but its order ${order.id} is still running`)
    return
  }
  if (isHeld(dossier, lease.blocker)) return
  const ends_by_wish = asked(dossier, lease.id, ['end']).some(isPromised)
  if (lease.state === 'TERMINATING') {
    // An order that is held says what the lease waits for.
    if (!isHeld(dossier, orders.get(lease.order_id ?? '')?.blocker ?? null))
      findings.note('stuck', subject, describeOpen(lease.state, lease.blocker))
  } else if (ends_by_wish) return
  else if (due(lease.end_at_ms)) lost(`though its end ${at(lease.end_at_ms)} passed`)
  else if (lease.state !== 'ACTIVE' && due(lease.start_at_ms)) lost(`though its start ${at(lease.start_at_ms)} passed`)
}

/** An instance on its way somewhere, with nothing that holds it up, and nothing that its order waits for. */
function judgeInstance(dossier: Dossier, instance: InstanceRow): void {
  const { id, state } = instance
  if (INSTANCE_OVER.has(state) || state === 'running' || state === 'stopped') return
  const order = dossier.orders.get(instance.order_id ?? '')
  const order_open = order !== undefined && order.state !== 'running' && !ORDER_OVER.has(order.state)
  if (order_open || isHeld(dossier, instance.blocker) || isHeld(dossier, order?.blocker ?? null)) return
  dossier.findings.note('stuck', `instance ${id}`, describeOpen(state, instance.blocker))
}

function describeOpen(state: string, blocker: { code: string; next_try_at_ms: number | null } | null): string {
  if (!blocker?.code) return `is ${state} at the end without a named blocker`
  return `is ${state} at the end, held by ${blocker.code}, whose next try ${at(blocker.next_try_at_ms)} is long past`
}
