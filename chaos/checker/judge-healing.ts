/** Lost machines: what was to be healed runs again once all is calm. Two machines of an item are judged as twins. */
import { asked, type Dossier, endAsked, LEASE_OVER, mayCount, unseen } from './dossier.ts'
import type { InstanceRow, OrderRow } from './ledgers.ts'

const OVER: ReadonlySet<string> = new Set(['failed', 'missing', 'terminated'])

export function judgeHealing(dossier: Dossier): void {
  if (unseen(dossier, 'instances', 'events', 'actions')) return
  for (const order of dossier.orders.values()) {
    if (!heals(dossier, order)) continue
    for (const instance of dossier.instances_of.get(order.id) ?? []) judgeInstance(dossier, order, instance)
  }
}

/** It ran, is to be healed, and nobody wishes otherwise. */
function heals(dossier: Dossier, { id, healing, lease_id }: OrderRow): boolean {
  if (healing !== 'replace' && healing !== 'restart') return false
  if (endAsked(dossier, [id]) || asked(dossier, id, ['withdraw']).some(mayCount)) return false
  if (lease_id !== null && LEASE_OVER.has(dossier.leases.get(lease_id)?.state ?? 'TERMINATED')) return false
  return ran(dossier, `order/${id}`)
}

const ran = (dossier: Dossier, resource: string): boolean =>
  (dossier.events_of.get(resource) ?? []).some(({ to }) => to === 'running')

function judgeInstance(dossier: Dossier, { id, healing }: OrderRow, instance: InstanceRow): void {
  const wanted = instance.wish === 'run' && !endAsked(dossier, [instance.id])
  if (!OVER.has(instance.state) || !wanted || !ran(dossier, `instance/${instance.id}`)) return
  if (healing === 'replace' ? wasRefused(dossier, instance) : wasInVain(dossier, instance)) return
  dossier.findings.note(
    'lost',
    `healing of instance ${instance.id}`,
    `its order ${id} heals by ${healing}, but it is ${instance.state}: ${tellOf(dossier, instance)}`,
  )
}

const lastChange = (dossier: Dossier, { id }: InstanceRow) =>
  (dossier.events_of.get(`instance/${id}`) ?? [])
    .toSorted((a, b) => a.sequence - b.sequence)
    .findLast(({ from, to }) => from !== to)

/** No cloud had room for another, and the record says so. */
const wasRefused = (dossier: Dossier, instance: InstanceRow): boolean =>
  lastChange(dossier, instance)?.cause.rule === 'no_cloud_left'

/** What vanished cannot be restarted, and what was restarted in vain is left. */
function wasInVain(dossier: Dossier, instance: InstanceRow): boolean {
  const machine = (dossier.machines_of.get(instance.id) ?? []).find((life) => life.provider_id === instance.provider_id)
  const vanished = machine?.gone_at_ms != null && machine.doomed_at_ms === null
  const last = dossier.actions_of.get(instance.id)?.findLast(({ action }) => action === 'reboot')
  return vanished || last?.state === 'failed'
}

function tellOf(dossier: Dossier, instance: InstanceRow): string {
  const last = lastChange(dossier, instance)
  return last
    ? `${last.from} to ${last.to} at ${new Date(last.at_ms).toISOString()} by ${String(last.cause.rule)}`
    : 'no event'
}
