/** What the watcher of a cloud saw, as in store/watch.ts. */
import { stateObserved } from '../../domain/instance.ts'
import { isThere, type Listed, type MachineState } from '../cloud/machines.ts'
import { instanceFlow, orderFlow, wake } from '../motion/wakes.ts'
import type { World } from '../world.ts'
import type { Found } from './attempts.ts'
import { changeAttempt, changeInstance } from './change.ts'
import type { AttemptRow, CloudRow, InstanceRow, InstanceState, OrderRow } from './rows.ts'

const ACTIVE: readonly InstanceState[] = ['starting', 'running']

/**
 * Writes down a complete list. `news`: something in it was new, or will be once the record has caught up; `returned`:
 * attempts whose machine is there though it was proved gone.
 */
export function observeList(
  world: World,
  listed: readonly Listed[],
  sent_at: number,
): { news: boolean; returned: AttemptRow[] } {
  const unbound = new Map<OrderRow, Found[]>()
  const seen: { instance: InstanceRow; machine: Listed }[] = []
  const returned: AttemptRow[] = []
  for (const machine of listed) {
    const attempt = world.record.attempts.get(machine.attempt_id)
    if (!attempt || (attempt.provider_id !== null && attempt.provider_id !== machine.provider_id)) continue
    const { instance, order } = attempt.item
    if (attempt.provider_id !== null && attempt.gone_at !== null) {
      if (isThere(machine.state)) returned.push(attempt)
    } else if (attempt.provider_id === null) {
      const found = { attempt, provider_id: machine.provider_id, how: 'found_by_tag' as const }
      unbound.set(order, [...(unbound.get(order) ?? []), found])
      if (machine.state !== 'starting') seen.push({ instance, machine })
    } else if (attempt.state === 'won' && isNews(instance, machine)) seen.push({ instance, machine })
  }
  for (const [order, found] of unbound) {
    world.store.bindMachines(world, order, found)
    wake(world, orderFlow(order), 0, order.attended_until)
  }
  const changed = seen.filter(({ instance, machine }) => observe(world, instance, machine, sent_at))
  wakeOwners(
    world,
    changed.map(({ instance }) => instance),
  )
  return { news: unbound.size + seen.length > 0, returned }
}

/** As in store/returns.ts: a machine that was proved gone is there: it serves its instance again, or is surplus. */
export function takeBack(world: World, attempt: AttemptRow, state: MachineState): void {
  const { item, cloud, provider_id } = attempt
  if (attempt.gone_at === null) return
  const { instance, order } = item
  const serves = attempt.state === 'won' && instance.state === 'missing' && instance.provider_id === provider_id
  world.say(attempt.id, `${provider_id} was proved gone, and is there`)
  attempt.gone_at = null
  attempt.denied = true
  changeAttempt(world, attempt, serves ? 'won' : 'surplus')
  if (serves) {
    cloud.claims.add(attempt)
    changeInstance(world, { instance, to: state as InstanceState })
  }
  wake(world, orderFlow(order), 0, order.attended_until)
}

const observed = (instance: InstanceRow, { provider_id, attempt_id, state }: Listed): InstanceState | null =>
  stateObserved(instance.state, {
    provider_id,
    attempt_id,
    state,
    raw_state: state,
    public_addresses: [],
    private_addresses: [],
    created_at: null,
  }) as InstanceState | null

function isNews(instance: InstanceRow, machine: Listed): boolean {
  const next = observed(instance, machine)
  return (next !== null && next !== instance.state) || instance.absent_lists > 0
}

function observe(world: World, instance: InstanceRow, machine: Listed, sent_at: number): boolean {
  instance.absent_lists = 0
  const to = instance.provider_id === machine.provider_id ? observed(instance, machine) : null
  return to !== null && changeInstance(world, { instance, to, seen_at: sent_at })
}

/** Wakes the flows that care about these instances. */
function wakeOwners(world: World, instances: readonly InstanceRow[]): void {
  for (const order of new Set(instances.map(({ item }) => item.order)))
    wake(world, orderFlow(order), 0, order.attended_until)
  for (const instance of instances) if (instance.action !== null) wake(world, instanceFlow(instance))
}

/**
 * Instances that a complete list should have shown and did not: their absence is counted; those absent twice only a get
 * can now prove missing.
 */
export function countAbsent(
  row: CloudRow,
  listed: readonly Listed[],
  sent_at: number,
): { counted: boolean; absent: InstanceRow[] } {
  const shown = new Set(listed.flatMap(({ state, provider_id }) => (state === 'terminated' ? [] : [provider_id])))
  const absent: InstanceRow[] = []
  let counted = false
  for (const instance of row.instances) {
    if (shown.has(instance.provider_id!) || !ACTIVE.includes(instance.state)) continue
    counted = true
    if (instance.acknowledged_at! + row.traits.list_lag_ms >= sent_at) continue
    instance.absent_lists++
    if (instance.absent_lists >= 2) absent.push(instance)
  }
  return { counted, absent }
}

/** Machines that two lists did not show and a get did not find are missing. */
export function markMissing(world: World, row: CloudRow, missing: readonly InstanceRow[], proved_at: number): void {
  const gone: AttemptRow[] = []
  const changed: InstanceRow[] = []
  for (const instance of missing) {
    const { provider_id } = instance
    if (!changeInstance(world, { instance, to: 'missing', only_from: ACTIVE, seen_at: proved_at })) continue
    changed.push(instance)
    for (const attempt of instance.item.open)
      if (attempt.provider_id === provider_id && attempt.cloud === row) gone.push(attempt)
  }
  for (const attempt of gone) {
    attempt.gone_at = world.now
    changeAttempt(world, attempt)
  }
  world.store.releaseClaims(world, gone)
  wakeOwners(world, changed)
}
