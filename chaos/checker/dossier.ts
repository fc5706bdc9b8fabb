/** The ledgers, indexed: what belongs to what across them, and who asked for what. */
import { Findings, type JudgeOptions } from './findings.ts'
import type {
  ActionRow,
  AttemptRow,
  BlockerRow,
  ClientEntry,
  ClientKind,
  CloudLedger,
  EventRow,
  InstanceRow,
  LeaseRow,
  Ledgers,
  MachineLife,
  OrderRow,
  Promised,
  RecordPart,
} from './ledgers.ts'

/** States in which an order is over. */
export const ORDER_OVER: ReadonlySet<string> = new Set(['cancelled', 'terminated', 'failed'])
export const LEASE_OVER: ReadonlySet<string> = new Set(['TERMINATED', 'ERROR'])
/** States in which an instance needs nothing more. */
export const INSTANCE_OVER: ReadonlySet<string> = new Set(['terminated', 'failed', 'missing'])
/** States in which an instance is used, whatever it is doing. */
export const INSTANCE_IN_USE: ReadonlySet<string> = new Set(['starting', 'running', 'stopping', 'stopped', 'rebooting'])

/** A machine with its cloud. */
export interface Machine extends MachineLife {
  readonly cloud: CloudLedger
  /** Being deleted since: the first request to, carried out or not; null: never asked. */
  readonly doomed_at_ms: number | null
}

export interface Dossier {
  readonly ledgers: Ledgers
  readonly options: JudgeOptions
  readonly findings: Findings
  /** How long a cloud and the record may differ before it counts. */
  readonly grace_ms: number
  readonly clock_offset_ms: number
  readonly orders: ReadonlyMap<string, OrderRow>
  readonly instances: ReadonlyMap<string, InstanceRow>
  readonly leases: ReadonlyMap<string, LeaseRow>
  readonly attempts: ReadonlyMap<string, AttemptRow>
  readonly events: ReadonlyMap<string, EventRow>
  /** Events by `type/id` of their resource, in the order listed. */
  readonly events_of: ReadonlyMap<string, readonly EventRow[]>
  readonly instances_of: ReadonlyMap<string, readonly InstanceRow[]>
  /** Machines of this installation. */
  readonly machines: readonly Machine[]
  /** Machines of an instance: bound to it now, or made by one of its attempts. */
  readonly machines_of: ReadonlyMap<string, readonly Machine[]>
  /** The instance a machine is bound to, by `cloud/provider id`. */
  readonly bound: ReadonlyMap<string, InstanceRow>
  readonly client: ReadonlyMap<string, readonly ClientEntry[]>
  /** Actions of an instance, in order. */
  readonly actions_of: ReadonlyMap<string, readonly ActionRow[]>
}

export const machineKey = (cloud: string | null, provider_id: string | null): string => `${cloud}/${provider_id}`
const byId = <Row extends { readonly id: string }>(rows: readonly Row[]): Map<string, Row> =>
  new Map(rows.map((row) => [row.id, row]))

export function openDossier(ledgers: Ledgers, options: JudgeOptions): Dossier {
  const { record } = ledgers
  const findings = new Findings()
  for (const part of record.unseen) findings.unjudged.add(`the record's ${part} were not to be read`)
  const attempts = byId(record.attempts)
  const bound = new Map(
    record.instances
      .filter((instance) => instance.provider_id !== null)
      // One that was released may be another's by now.
      .toSorted((a, b) => Number(b.state === 'terminated') - Number(a.state === 'terminated'))
      .map((instance) => [machineKey(instance.cloud, instance.provider_id), instance]),
  )
  const machines = ledgers.clouds.flatMap((cloud) => machinesAt(cloud, ledgers.installation_id))
  const ownerOf = (machine: Machine): string =>
    attempts.get(machine.attempt_id ?? '')?.instance_id ??
    bound.get(machineKey(machine.cloud.name, machine.provider_id))?.id ??
    ''
  return {
    ledgers,
    options,
    findings,
    grace_ms: options.settle_ms + options.watch_period_ms,
    clock_offset_ms: options.clock_offset_ms ?? 0,
    orders: byId(record.orders),
    instances: byId(record.instances),
    leases: byId(record.leases),
    attempts,
    events: byId(record.events),
    events_of: Map.groupBy(record.events, (event) => `${event.resource_type}/${event.resource_id}`),
    instances_of: Map.groupBy(record.instances, (instance) => instance.order_id ?? ''),
    machines,
    machines_of: Map.groupBy(machines, ownerOf),
    bound,
    client: Map.groupBy(ledgers.client, (entry) => entry.resource_id),
    actions_of: Map.groupBy(
      record.actions.toSorted((a, b) => a.number - b.number),
      (action) => action.instance_id,
    ),
  }
}

function machinesAt(cloud: CloudLedger, installation_id: string | undefined): Machine[] {
  const asked = new Map<string, number>()
  for (const { verb, machine_id, at_ms } of cloud.requests) {
    if (verb === 'delete' && machine_id !== null) asked.set(machine_id, Math.min(at_ms, asked.get(machine_id) ?? at_ms))
  }
  return cloud.machines
    .filter((life) => (installation_id ? life.installation_id === installation_id : life.installation_id !== null))
    .map((life) => ({
      ...life,
      cloud,
      doomed_at_ms: earliest([life.delete_requested_at_ms, asked.get(life.provider_id)]),
    }))
}

/** The smallest of the moments given; null: there is none. */
export function earliest(moments: readonly (number | null | undefined)[]): number | null {
  const given = moments.filter((ms): ms is number => ms !== null && ms !== undefined)
  return given.length ? Math.min(...given) : null
}

export const unseen = ({ ledgers }: Dossier, ...parts: RecordPart[]): boolean =>
  parts.some((part) => ledgers.record.unseen.includes(part))

/** The client saw a 2xx. */
export const isPromised = ({ status }: ClientEntry): boolean => status !== null && status >= 200 && status < 300
/** It may have been carried out. */
export const mayCount = (entry: ClientEntry): boolean =>
  isPromised(entry) || entry.status === null || entry.status >= 500

/** Requests of a client about a resource. */
export function asked({ client }: Dossier, resource_id: string | null | undefined, kinds: readonly ClientKind[]) {
  return (client.get(resource_id ?? '') ?? []).filter((entry) => kinds.includes(entry.kind))
}

/** A person may have asked for the end of one of these, or of an order's deployment, before the moment (real time). */
export function endAsked(dossier: Dossier, ids: readonly (string | null | undefined)[], before_ms = Infinity): boolean {
  const deployments = ids.map((id) => dossier.orders.get(id ?? '')?.deployment_id)
  return [...ids, ...deployments].some((id) =>
    asked(dossier, id, ['cancel', 'terminate', 'end']).some(
      (entry) => mayCount(entry) && entry.sent_at_ms <= before_ms,
    ),
  )
}

/** The values of a moment that may be in force after all these requests: of the last one promised, and of those in doubt. */
export function inForce(
  entries: readonly ClientEntry[],
  field: keyof Pick<Promised, 'start_at_ms' | 'end_at_ms' | 'before_end_at_ms'>,
): readonly (number | null)[] {
  const telling = entries.filter((entry) => entry.promised?.[field] !== undefined && mayCount(entry))
  const promised = telling.filter(isPromised)
  const standing = promised.filter(
    (entry) => !promised.some((later) => later.sent_at_ms >= entry.at_ms && later !== entry),
  )
  const doubtful = telling.filter((entry) => !isPromised(entry))
  return [...standing, ...doubtful].map((entry) => entry.promised![field]!)
}

/** A blocker with a name, a reason, and a next try that is not long past. */
export function isHeld(dossier: Dossier, blocker: BlockerRow | null): boolean {
  if (!blocker?.code || !blocker.reason) return false
  if (blocker.next_try_at_ms === null) return true
  const { collected_at_ms } = dossier.ledgers
  const latest = Math.max(blocker.next_try_at_ms, blocker.next_try_at_ms - dossier.clock_offset_ms)
  return latest + dossier.grace_ms >= collected_at_ms
}
