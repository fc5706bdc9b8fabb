/** Twins, leaked, disagreements: what the clouds really had, against what the record says of it. */
import {
  type Dossier,
  earliest,
  endAsked,
  INSTANCE_IN_USE,
  isHeld,
  LEASE_OVER,
  type Machine,
  machineKey,
  unseen,
} from './dossier.ts'
import { at } from './findings.ts'
import type { InstanceRow, OrderRow } from './ledgers.ts'

export function judgeMachines(dossier: Dossier): void {
  judgeTwins(dossier)
  if (!unseen(dossier, 'instances')) {
    for (const machine of dossier.machines) if (machine.gone_at_ms === null) judgeAlive(dossier, machine)
    const machines = new Map(dossier.machines.map((life) => [machineKey(life.cloud.name, life.provider_id), life]))
    for (const instance of dossier.instances.values()) {
      const machine = machines.get(machineKey(instance.cloud, instance.provider_id))
      judgeInstance(dossier, instance, machine)
    }
    judgeClaims(dossier)
  }
}

const nameOf = (machine: Machine): string => `machine ${machine.provider_id} at ${machine.cloud.name}`

/** Until when a machine served, or could have served, its item. */
const inUseUntil = (machine: Machine, collected_at_ms: number): number =>
  earliest([machine.failed_at_ms, machine.doomed_at_ms, machine.gone_at_ms, collected_at_ms])!

function judgeTwins(dossier: Dossier): void {
  const { collected_at_ms } = dossier.ledgers
  const itemOf = (machine: Machine): string =>
    dossier.attempts.get(machine.attempt_id ?? '')?.item ?? `of attempt ${machine.attempt_id}`
  for (const [item, machines] of Map.groupBy(dossier.machines, itemOf)) {
    if (item === 'of attempt null') continue
    const by_age = machines.toSorted((a, b) => a.created_at_ms - b.created_at_ms)
    by_age.forEach((first, place) => {
      for (const second of by_age.slice(place + 1)) {
        const until_ms = Math.min(inUseUntil(first, collected_at_ms), inUseUntil(second, collected_at_ms))
        const both_ms = until_ms - second.created_at_ms
        dossier.findings.twin(both_ms)
        const same_token_cloud = first.cloud === second.cloud && first.cloud.idempotency_tokens
        if (both_ms <= (same_token_cloud ? 0 : dossier.grace_ms)) continue
        dossier.findings.note(
          'twins',
          `item ${item}`,
          `${nameOf(first)} (made ${at(first.created_at_ms)}) and ${nameOf(second)} (made ${at(second.created_at_ms)}) ` +
            `were both in use for ${both_ms} ms, until ${at(until_ms)}`,
        )
      }
    })
  }
}

/** A machine that is there at the end has a live owner, or its removal is held by a named blocker, or is just under way. */
function judgeAlive(dossier: Dossier, machine: Machine): void {
  const { collected_at_ms } = dossier.ledgers
  const instance = dossier.bound.get(machineKey(machine.cloud.name, machine.provider_id))
  const attempt = dossier.attempts.get(machine.attempt_id ?? '')
  const order = dossier.orders.get(attempt?.order_id ?? instance?.order_id ?? '')
  if (instance && instance.state !== 'terminated') {
    // What an instance that is still used, or on its way out, does with its machine is judged with the instance.
    if (instance.state !== 'failed' || order?.state === 'running' || isKept(dossier, order)) return
  }
  if (isHeld(dossier, order?.blocker ?? null) || isHeld(dossier, instance?.blocker ?? null)) return
  const touched_ms = Math.max(machine.created_at_ms, machine.delete_requested_at_ms ?? 0)
  if (touched_ms + dossier.grace_ms >= collected_at_ms) return
  const owner = instance
    ? `its instance ${instance.id} is ${instance.state}`
    : attempt
      ? `its attempt ${attempt.id} (${attempt.state}) of order ${attempt.order_id} does not own it`
      : `the record has no attempt ${machine.attempt_id}`
  dossier.findings.note(
    'leaked',
    nameOf(machine),
    `made ${at(machine.created_at_ms)}, still ${machine.state} at ${at(collected_at_ms)}, but ${owner}`,
  )
}

/**
 * Its machines ran once and died; nobody asked for its end and its lease, if it has one, goes on. What is left is a
 * person's to look at and to end, or its lease's.
 */
function isKept(dossier: Dossier, order: OrderRow | undefined): boolean {
  if (order?.state !== 'failed' || endAsked(dossier, [order.id])) return false
  if (order.lease_id !== null && LEASE_OVER.has(dossier.leases.get(order.lease_id)?.state ?? 'TERMINATED')) return false
  return (dossier.events_of.get(`order/${order.id}`) ?? []).some((event) => event.to === 'running')
}

function judgeInstance(dossier: Dossier, instance: InstanceRow, machine: Machine | undefined): void {
  const { findings, ledgers, grace_ms, clock_offset_ms } = dossier
  if (!ledgers.clouds.some((cloud) => cloud.name === instance.cloud)) return
  const subject = `instance ${instance.id}`
  const gone = !machine || (machine.gone_at_ms !== null && machine.gone_at_ms + grace_ms < ledgers.collected_at_ms)
  if (gone && INSTANCE_IN_USE.has(instance.state)) {
    const fate = machine ? `is gone since ${at(machine.gone_at_ms)}` : 'never was there'
    findings.note(
      'leaked',
      subject,
      `is ${instance.state}, but machine ${instance.provider_id} at ${instance.cloud} ${fate}`,
    )
  }
  if (!machine) return
  const differ = (what: string): void => findings.note('disagreements', subject, what)
  if (machine.gone_at_ms === null && contradicts(instance.state, machine, ledgers.collected_at_ms - grace_ms))
    differ(`is ${instance.state} in the record, but ${nameOf(machine)} is ${machine.state}`)
  for (const event of dossier.events_of.get(`instance/${instance.id}`) ?? []) {
    if (event.from === event.to) continue
    const told_ms = event.at_ms - clock_offset_ms
    if (event.to === 'running') {
      const ran_ms = earliest((dossier.machines_of.get(instance.id) ?? [machine]).map((life) => life.running_at_ms))
      if (ran_ms === null || told_ms < ran_ms)
        differ(`was told running at ${at(told_ms)} (${event.id}), its machine ran at ${at(ran_ms)}`)
    }
    if (event.cause.rule === 'released') continue // its machine lives on
    if (event.to === 'terminated' && machine.gone_at_ms !== null && told_ms < machine.gone_at_ms)
      differ(
        `was told terminated at ${at(told_ms)} (${event.id}), ${nameOf(machine)} was gone at ${at(machine.gone_at_ms)}`,
      )
  }
}

const SETTLED_WORDS = new Set(['running', 'stopped', 'failed'])

/** Whether the record's word for an instance cannot be true of its machine, which exists. */
function contradicts(state: string, machine: Machine, long_ago_ms: number): boolean {
  if (state === 'missing') return true
  if (!SETTLED_WORDS.has(state)) return false
  if (SETTLED_WORDS.has(machine.state)) return state !== machine.state
  return state !== 'failed' && (machine.delete_requested_at_ms ?? Number.POSITIVE_INFINITY) < long_ago_ms
}

const UNDER_WAY = new Set(['open', 'sent', 'unknown'])

/** Places claimed at a cloud: one for each machine bound, and at most one more for each attempt still under way. */
function judgeClaims(dossier: Dossier): void {
  const { ledgers, findings, attempts, bound } = dossier
  const alive = new Set(dossier.machines.filter((life) => life.gone_at_ms === null).map((life) => life.attempt_id))
  for (const { name, claimed } of ledgers.record.clouds) {
    if (claimed === null || !ledgers.clouds.some((cloud) => cloud.name === name)) continue
    const used = dossier.machines.filter(
      (machine) =>
        machine.cloud.name === name &&
        machine.gone_at_ms === null &&
        bound.has(machineKey(name, machine.provider_id)) &&
        bound.get(machineKey(name, machine.provider_id))!.state !== 'terminated',
    ).length
    const open = [...attempts.values()].filter(
      ({ id, cloud, state }) => cloud === name && (UNDER_WAY.has(state) || (state === 'surplus' && alive.has(id))),
    ).length
    if (claimed < used || claimed > used + open)
      findings.note(
        'disagreements',
        `cloud ${name}`,
        `${claimed} places are claimed for ${used} machines and ${open} attempts`,
      )
  }
}
