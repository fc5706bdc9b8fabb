/** Hosts of leases: no two have one at a time, by the clouds' own lists, and none has more than it asked for. */
import { asked, type Dossier, type Machine } from './dossier.ts'
import { at } from './findings.ts'

/** A machine of a lease that asked for hosts of its own. */
interface Tenant {
  readonly lease_id: string
  readonly machine: Machine
}

export function judgeHosts(dossier: Dossier): void {
  const tenants = [...dossier.leases.keys()].flatMap((lease_id) => judgeLease(dossier, lease_id))
  const hostOf = ({ machine }: Tenant): string => `${machine.host} at ${machine.cloud.name}`
  for (const [host, all] of Map.groupBy(tenants, hostOf)) {
    const by_age = all.toSorted((a, b) => a.machine.created_at_ms - b.machine.created_at_ms)
    by_age.forEach((first, place) => {
      const until_ms = first.machine.gone_at_ms ?? Number.POSITIVE_INFINITY
      for (const { lease_id, machine } of by_age.slice(place + 1)) {
        if (lease_id === first.lease_id || machine.created_at_ms >= until_ms) continue
        dossier.findings.note(
          'shared_hosts',
          `host ${host}`,
          `machine ${machine.provider_id} of lease ${lease_id} was made ${at(machine.created_at_ms)}, when ` +
            `${first.machine.provider_id} of lease ${first.lease_id} was there: gone ${at(first.machine.gone_at_ms)}`,
        )
      }
    })
  }
}

/** The machines of a lease that asked for hosts; they are on as many of them as it asked for, or fewer. */
function judgeLease(dossier: Dossier, lease_id: string): Tenant[] {
  const wanted = asked(dossier, lease_id, ['lease']).flatMap((entry) => entry.promised?.hosts ?? [])[0]
  if (wanted === undefined) return []
  const order_id = dossier.leases.get(lease_id)!.order_id ?? 'none'
  const machines = (dossier.instances_of.get(order_id) ?? []).flatMap(({ id }) => dossier.machines_of.get(id) ?? [])
  const hosts = new Set(machines.map((machine) => `${machine.host} at ${machine.cloud.name}`))
  if (hosts.size > wanted)
    dossier.findings.note(
      'shared_hosts',
      `lease ${lease_id}`,
      `has machines on ${[...hosts].toSorted().join(', ')}, but asked for ${wanted}`,
    )
  return machines.map((machine) => ({ lease_id, machine }))
}
