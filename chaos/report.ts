/** What a run came to, for programs and for people. */
import { COUNTERS, type Counter } from './checker/judge.ts'
import type { AttemptRow } from './checker/ledgers.ts'
import type { Outcome, RunOptions } from './run.ts'

/** Told beside the counters that are promised to be zero, and counted for `ok`; `duplicates` are told only. */
const FURTHER: readonly Counter[] = ['uncaused', 'disagreements']
const PROMISED = COUNTERS.filter((counter) => counter !== 'duplicates' && !FURTHER.includes(counter))

export interface Report {
  readonly ok: boolean
  /** The last line on stdout. */
  readonly summary: Readonly<Record<string, unknown>>
  /** Everything that speaks against it, one line each. */
  readonly findings: readonly string[]
}

export function report(outcome: Outcome, { kills, seed, engine }: RunOptions, elapsed_ms: number): Report {
  const { verdict, ledgers, stuck, recoveries, complaints } = outcome
  const stuck_at_the_end = verdict.violations.filter((line) => line.startsWith('stuck: '))
  const stuck_meanwhile = [...stuck].map(([subject, evidence]) => `stuck: ${subject}: ${evidence}`)
  const subjects = new Set([...stuck_at_the_end, ...stuck_meanwhile].map((line) => line.split(': ')[1]))
  const counters = { ...Object.fromEntries(PROMISED.map((name) => [name, verdict[name]])), stuck: subjects.size }
  const further = Object.fromEntries(FURTHER.map((name) => [name, verdict[name]]))
  const unrecovered = recoveries.filter((ms) => ms === null).length
  const findings = [
    // At least once: what was in flight when a process died may come again.
    ...verdict.violations.filter((line) => !line.startsWith('duplicates: ')),
    ...stuck_meanwhile,
    ...verdict.unjudged.map((line) => `unjudged: ${line}`),
    ...complaints.map((line) => `complaint: ${line}`),
    ...(unrecovered ? [`recovery: after ${unrecovered} kills nothing moved`] : []),
  ]
  const { record, clouds, receivers } = ledgers
  const ok = findings.length === 0
  const summary = {
    ok,
    kills,
    seed,
    ...counters,
    longest_twin_ms: verdict.longest_twin_ms,
    late_ms: verdict.late_ms,
    recovery_ms: percentiles(recoveries.filter((ms) => ms !== null)),
    ...further,
    complaints: complaints.length,
    duplicates: verdict.duplicates,
    engine,
    elapsed_s: Math.round(elapsed_ms / 1000),
    orders: record.orders.length,
    leases: record.leases.length,
    instances: record.instances.length,
    actions: record.actions.length,
    deployment_actions: record.deployment_actions.length,
    healed: record.events.filter(({ cause }) => cause.rule === 'healing').length,
    failed_over: [...Map.groupBy(record.attempts, ({ item }) => item).values()].filter(isAtSeveral).length,
    machines: clouds.reduce((sum, { machines }) => sum + machines.length, 0),
    events: record.events.length,
    hooks: receivers.length,
    deliveries: receivers.reduce((sum, { deliveries }) => sum + deliveries.length, 0),
    answers: outcome.statuses,
  }
  return { ok, summary, findings }
}

const isAtSeveral = (attempts: readonly AttemptRow[]): boolean => new Set(attempts.map(({ cloud }) => cloud)).size > 1

function percentiles(values: readonly number[]): { p50: number; p99: number; max: number } {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0
  return { p50: at(0.5), p99: at(0.99), max: sorted.at(-1) ?? 0 }
}
