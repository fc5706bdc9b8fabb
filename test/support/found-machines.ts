/** What tests of machines that no order made say over and over: put one there, adopt it, look at its tags. */
import { randomUUID } from 'node:crypto'
import { SETTLE_TIMEOUT_MS } from './flow.ts'
import { waitFor } from './wait-for.ts'
import type { Place, World } from './world.ts'

export interface ShownAdoption {
  readonly dry_run: boolean
  readonly name: string
  readonly state: string
  readonly order_id: string
  readonly instance_id: string
  readonly instance_href: string
}
export interface ShownOrphan {
  readonly provider_id: string
  readonly removal: { readonly error: { readonly class: string } | null } | null
}

export const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 50 })
const signal = () => AbortSignal.timeout(10_000)

/** A machine that no order made, running; with our tag it is an orphan, else a stranger. */
export async function machineAt(world: World, place: Place, kind: 'orphan' | 'stranger'): Promise<string> {
  const provider = place.cloud.control.provider()
  const owner = { attempt_id: randomUUID(), installation_id: world.h.service.installation_id }
  const size = (await provider.sizes(signal())).find(({ name }) => name.endsWith('.small'))!
  const machine = { ...owner, name: `found-${kind}`, size: size.name, image: 'debian-13' }
  const { provider_id } = await provider.create(machine, signal())
  if (kind === 'stranger') await provider.release(provider_id, signal())
  await waitFor(async () => (await provider.get(provider_id, signal())).state === 'running', wait('it to run'))
  if (kind === 'orphan') {
    await lookAgain(world, place)
    await waitFor(
      async () => (await orphansAt(world, place)).some((one) => one.provider_id === provider_id),
      wait('it to be seen'),
    )
  }
  return provider_id
}

export const adoptPath = (place: Place, provider_id: string, query = '') =>
  `/api/clouds/${place.cloud.name}/machines/${provider_id}/adopt${query}`

/** Adopts a machine for the place's project. */
export async function adopt(
  world: World,
  place: Place,
  provider_id: string,
  more: Record<string, unknown> = {},
): Promise<ShownAdoption> {
  const body = { project: place.project.name, ...more }
  const made = await world.h.operator.post<{ adoption: ShownAdoption }>(adoptPath(place, provider_id), body)
  return made.body.adoption
}

export async function orphansAt(world: World, place: Place): Promise<ShownOrphan[]> {
  const path = `/api/clouds/${place.cloud.name}/orphans`
  return (await world.h.operator.get<{ orphans: ShownOrphan[] }>(path)).body.orphans
}

/** Has the cloud looked at again now: where nothing goes on it is left alone for minutes. */
let turns = 0
export const lookAgain = (world: World, place: Place) =>
  world.h.operator.patch(`/api/clouds/${place.cloud.name}`, { priority: ++turns })

export const untilOrphans = (world: World, place: Place, provider_ids: readonly string[]) =>
  waitFor(
    async () => {
      const found = (await orphansAt(world, place)).map(({ provider_id }) => provider_id)
      return found.toSorted().join() === provider_ids.toSorted().join()
    },
    wait(`the orphans to be ${provider_ids.join() || 'none'}`),
  )

/** A machine as the simulated cloud itself knows it. */
export const lifeOf = async (place: Place, provider_id: string) =>
  (await place.cloud.control.machines()).find(({ id }) => id === provider_id)!

/** Waits until the cloud has our tags on the machine; null: until it has none. */
export const untilTagged = (place: Place, provider_id: string, installation_id: string | null) =>
  waitFor(
    async () => ((await lifeOf(place, provider_id)).tags.holdfast_installation ?? null) === installation_id,
    wait(`the machine to be ${installation_id ? 'tagged' : 'without tags'}`),
  )

export interface ShownEvent {
  readonly type: string
  readonly from: string | null
  readonly to: string | null
  readonly snapshot: Readonly<Record<string, unknown>>
  readonly cause: Readonly<Record<string, unknown>>
}

/** Events of the place's cloud, oldest first. */
export async function cloudEvents(world: World, place: Place, type: string): Promise<ShownEvent[]> {
  const { operator } = world.h
  const { body } = await operator.get<{ cloud: { id: string } }>(`/api/clouds/${place.cloud.name}`)
  const path = `/api/events?after=&resource_type=cloud&resource_id=${body.cloud.id}&type=${type}&limit=100`
  return (await operator.get<{ events: ShownEvent[] }>(path)).body.events
}
