/** Faults in force: which of them strike a call, and what follows from it. */
import { ulid } from 'ulid'
import { type PlaceOfMachine, placeMatches } from './behaviour.ts'
import { type Effect, type Fault, faultInput, type ListBehaviour, type Verb } from './configuration.ts'
import { appendLedger } from './ledger.ts'
import { draw, drawLatency } from './random.ts'
import type { BootOutcome } from './records.ts'
import type { Cloud, World } from './world.ts'

/** What a call is about, as far as it is known before it is carried out. */
export interface Subject extends PlaceOfMachine {
  readonly verb: Verb
  readonly name?: string | null
  readonly machine_id?: string | null
  readonly attempt_id?: string | null
}

type Ending = Exclude<Effect, { kind: 'delay' | 'boot' | 'list' }>

/** All that befalls one call. */
export interface Verdict {
  readonly fault_ids: string[]
  delay_ms: number
  boot_latency_ms: number | null
  boot_outcome: BootOutcome | null
  /** How its list lies, on top of the configuration, with the fault that says so. */
  list: Partial<ListBehaviour>
  /** The fault that decides how the call ends; null: normally. */
  ending: Ending | null
}

/** Sets a fault; one with the same id is replaced. Throws ZodError on bad input. */
export function setFault(world: World, cloud: Cloud, input: unknown): Fault {
  const parsed = faultInput.parse(input)
  const number = (cloud.faults.at(-1)?.number ?? 0) + 1
  const fault: Fault = { ...parsed, id: parsed.id ?? ulid(), number, set_at: Date.now(), matched: 0, struck: 0 }
  world.store.transaction(() => {
    removeFaults(world, cloud, fault.id)
    saveFault(world, cloud, fault)
    appendLedger(world.store, cloud.name, 'control', { action: 'fault_set', fault })
  })
  cloud.faults.push(fault)
  return fault
}

/** Removes one fault or all of them; returns how many there were. */
export function removeFaults(world: World, cloud: Cloud, id: string | null): number {
  const removed = cloud.faults.filter((fault) => id === null || fault.id === id)
  for (const fault of removed) {
    cloud.faults.splice(cloud.faults.indexOf(fault), 1)
    world.store.run('DELETE FROM faults WHERE cloud = ? AND id = ?', cloud.name, fault.id)
    appendLedger(world.store, cloud.name, 'control', { action: 'fault_removed', fault_id: fault.id })
  }
  return removed.length
}

/**
 * Judges one call: the most specific fault first, of equals the older one. Delays and lies add up; the first fault
 * that ends a call differently decides, and those after it do not count the call.
 */
export function judge(world: World, cloud: Cloud, subject: Subject): Verdict {
  const verdict: Verdict = {
    fault_ids: [],
    delay_ms: 0,
    boot_latency_ms: null,
    boot_outcome: null,
    list: {},
    ending: null,
  }
  const matching = cloud.faults
    .filter((fault) => isInForce(fault) && matches(cloud, fault, subject))
    .sort((one, other) => specificity(other) - specificity(one) || one.number - other.number)
  for (const fault of matching) {
    fault.matched += 1
    const strikes =
      fault.matched >= fault.from &&
      draw(cloud.configuration.seed, `fault ${fault.id}`, fault.matched) < fault.probability
    if (strikes) {
      fault.struck += 1
      verdict.fault_ids.push(fault.id)
      apply(cloud, fault, verdict)
    }
    saveFault(world, cloud, fault)
    if (verdict.ending) break
  }
  return verdict
}

function apply(cloud: Cloud, fault: Fault, verdict: Verdict): void {
  const { effect } = fault
  const { seed } = cloud.configuration
  if (effect.kind === 'delay') {
    verdict.delay_ms += drawLatency(effect.latency_ms, seed, `delay ${fault.id}`, fault.struck)
  } else if (effect.kind === 'boot') {
    verdict.boot_outcome ??= effect.outcome
    if (effect.latency_ms !== undefined) {
      verdict.boot_latency_ms ??= drawLatency(effect.latency_ms, seed, `boot ${fault.id}`, fault.struck)
    }
  } else if (effect.kind === 'list') {
    const { kind: _, ...lies } = effect
    verdict.list = { ...lies, ...verdict.list }
  } else {
    verdict.ending = effect
  }
}

function isInForce(fault: Fault): boolean {
  if (fault.times !== null && fault.struck >= fault.times) return false
  return fault.for_ms === null || Date.now() < fault.set_at + fault.for_ms
}

function matches(cloud: Cloud, fault: Fault, subject: Subject): boolean {
  const { verb, name, machine_id, attempt_id, ...place } = fault.match
  if (verb !== undefined && !(Array.isArray(verb) ? verb.includes(subject.verb) : verb === subject.verb)) return false
  if (name !== undefined && name !== subject.name) return false
  if (machine_id !== undefined && machine_id !== subject.machine_id) return false
  if (attempt_id !== undefined && attempt_id !== subject.attempt_id) return false
  return placeMatches(cloud.configuration, place, subject)
}

function specificity(fault: Fault): number {
  return Object.keys(fault.match).length
}

function saveFault(world: World, cloud: Cloud, fault: Fault): void {
  world.store.run(
    'INSERT INTO faults (cloud, id, body) VALUES (?, ?, ?) ON CONFLICT (cloud, id) DO UPDATE SET body = excluded.body',
    cloud.name,
    fault.id,
    JSON.stringify(fault),
  )
}
