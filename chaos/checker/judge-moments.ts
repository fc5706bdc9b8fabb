/** Early, and how late: what a lease does, against its moments, by the clocks of clouds and receivers and its own. */
import { asked, type Dossier, earliest, endAsked, inForce, type Machine, mayCount } from './dossier.ts'
import { at } from './findings.ts'
import type { EventRow, LeaseRow } from './ledgers.ts'

/** One proof that something was done; real time. */
interface Act {
  readonly at_ms: number
  readonly what: string
}

export function judgeMoments(dossier: Dossier): void {
  const receipts = firstReceipts(dossier)
  const creates = firstCreates(dossier)
  for (const lease of dossier.leases.values()) {
    const events = dossier.events_of.get(`lease/${lease.id}`) ?? []
    judgeStart(dossier, lease, events, receipts, creates)
    judgeBeforeEnd(dossier, lease, events, receipts)
    judgeEnd(dossier, lease, events, receipts)
  }
}

/** By the id of an event, or of an order. */
type Receipts = ReadonlyMap<string, Act>

/** When each event first reached a receiver, by the receiver's clock. */
function firstReceipts({ ledgers }: Dossier): Receipts {
  const receipts = new Map<string, Act>()
  for (const { hook_id, deliveries } of ledgers.receivers) {
    for (const { webhook_id, at_ms } of deliveries) {
      const known = receipts.get(webhook_id)
      if (!known || at_ms < known.at_ms) receipts.set(webhook_id, { at_ms, what: `hook ${hook_id} got ${webhook_id}` })
    }
  }
  return receipts
}

/** What shows that an event happened: its own time, and its first receipt. */
function actsOf(dossier: Dossier, event: EventRow, receipts: Receipts): Act[] {
  const receipt = receipts.get(event.id)
  return [
    { at_ms: event.at_ms - dossier.clock_offset_ms, what: `${event.type} ${event.id}` },
    ...(receipt ? [receipt] : []),
  ]
}

/** Notes each act before the moment (real time), and how late the deciding one was. */
function compare(dossier: Dossier, subject: string, moment_ms: number, acts: readonly Act[], deciding?: Act): void {
  for (const act of acts) {
    if (act.at_ms >= moment_ms) continue
    dossier.findings.note(
      'early',
      subject,
      `${act.what} came at ${at(act.at_ms)}, ${moment_ms - act.at_ms} ms before ${at(moment_ms)} (real time)`,
    )
  }
  if (deciding) dossier.findings.late(deciding.at_ms - moment_ms)
}

/** The moment in force, in real time: as promised to the client where the record agrees, or else as promised alone. */
function momentOf(dossier: Dossier, lease: LeaseRow, field: 'start_at_ms' | 'end_at_ms'): number {
  const allowed = inForce(asked(dossier, lease.id, ['lease', 'extend']), field)
  const moment_ms = !allowed.length || allowed.includes(lease[field]) ? lease[field] : earliest(allowed)!
  return moment_ms - dossier.clock_offset_ms
}

function judgeStart(
  dossier: Dossier,
  lease: LeaseRow,
  events: readonly EventRow[],
  receipts: Receipts,
  creates: Receipts,
): void {
  const started = events.filter(
    ({ from, to }) =>
      (from === 'PENDING' || from === 'STARTING') && (to === 'STARTING' || to === 'ACTIVE') && from !== to,
  )
  const order_events = lease.order_id ? (dossier.events_of.get(`order/${lease.order_id}`) ?? []) : []
  const told = [...started, ...order_events.slice(0, 1)].flatMap((event) => actsOf(dossier, event, receipts))
  const create = creates.get(lease.order_id ?? '')
  const acts = create ? [...told, create] : told
  compare(dossier, `start of lease ${lease.id}`, momentOf(dossier, lease, 'start_at_ms'), acts, create ?? told[0])
}

/** The first create of each order, carried out or not, by the clouds' clocks. */
function firstCreates({ ledgers, attempts }: Dossier): Receipts {
  const first = new Map<string, Act>()
  const see = (attempt_id: string | null, at_ms: number, what: string): void => {
    const order_id = attempts.get(attempt_id ?? '')?.order_id
    if (order_id === undefined || at_ms >= (first.get(order_id)?.at_ms ?? Number.POSITIVE_INFINITY)) return
    first.set(order_id, { at_ms, what: `${what} of order ${order_id}` })
  }
  for (const { name, requests, machines } of ledgers.clouds) {
    for (const { verb, attempt_id, at_ms } of requests)
      if (verb === 'create') see(attempt_id, at_ms, `a create at ${name}`)
    for (const life of machines) see(life.attempt_id, life.created_at_ms, `machine ${life.provider_id} at ${name}`)
  }
  return first
}

/** Notices before the end: the n-th must not come before the n-th moment there was for one. */
function judgeBeforeEnd(dossier: Dossier, lease: LeaseRow, events: readonly EventRow[], receipts: Receipts): void {
  const promised = asked(dossier, lease.id, ['lease', 'extend'])
    .filter(mayCount)
    .flatMap((entry) => entry.promised?.before_end_at_ms ?? [])
  const known = lease.before_end_at_ms === null ? promised : [...promised, lease.before_end_at_ms]
  const moments = [...new Set(known)].toSorted((a, b) => a - b)
  const notices = events.filter(({ type }) => type.includes('before_end')).toSorted((a, b) => a.sequence - b.sequence)
  notices.forEach((notice, place) => {
    const moment_ms = moments[Math.min(place, moments.length - 1)]
    if (moment_ms === undefined) return
    const acts = actsOf(dossier, notice, receipts)
    compare(dossier, `notice ${place + 1} of lease ${lease.id}`, moment_ms - dossier.clock_offset_ms, acts, acts[0])
  })
}

function judgeEnd(dossier: Dossier, lease: LeaseRow, events: readonly EventRow[], receipts: Receipts): void {
  const end_ms = momentOf(dossier, lease, 'end_at_ms')
  const ending = events.filter(
    ({ from, to }) => from !== to && (to === 'TERMINATING' || to === 'TERMINATED' || to === 'ERROR'),
  )
  const told = ending
    .flatMap((event) => actsOf(dossier, event, receipts))
    .filter((act) => !endAsked(dossier, [lease.id], act.at_ms))
  const deletes = deletesForLease(dossier, lease)
  const deciding = deletes.find((act) => act.at_ms >= end_ms) ?? told[0]
  compare(dossier, `end of lease ${lease.id}`, end_ms, [...told, ...deletes], deciding)
}

/** First requests to delete machines that ran for the lease, unless a person, a failure or the order's policy explains them. */
function deletesForLease(dossier: Dossier, lease: LeaseRow): Act[] {
  if (lease.order_id === null) return []
  const given_up = (dossier.events_of.get(`order/${lease.order_id}`) ?? []).filter(
    (event) => event.to === 'failed' || (event.to === 'compensating' && event.cause.rule === 'policy_failed'),
  )
  const given_up_ms = earliest(given_up.map((event) => event.at_ms - dossier.clock_offset_ms)) ?? Infinity
  const acts = (dossier.instances_of.get(lease.order_id) ?? []).flatMap((instance) =>
    (dossier.machines_of.get(instance.id) ?? [])
      .filter((machine) => machine.provider_id === instance.provider_id && ranUntilDeleted(machine))
      .map((machine) => ({
        at_ms: machine.doomed_at_ms!,
        what: `the deletion of ${machine.provider_id}`,
        id: instance.id,
      })),
  )
  return acts
    .filter(({ at_ms, id }) => at_ms < given_up_ms && !endAsked(dossier, [lease.id, lease.order_id, id], at_ms))
    .toSorted((a, b) => a.at_ms - b.at_ms)
}

const ranUntilDeleted = ({ running_at_ms, doomed_at_ms, failed_at_ms }: Machine): boolean =>
  running_at_ms !== null && doomed_at_ms !== null && (failed_at_ms === null || failed_at_ms > doomed_at_ms)
