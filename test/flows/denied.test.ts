/** A cloud that denies machines it has, in complete lists and when asked, and tells them again later: none is forgotten. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { instancesOf, untilInstance, untilOrder } from '../support/flow.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

/** A calm cloud is looked at every 30 s. */
const SEEN_TIMEOUT_MS = 75_000

async function deny({ cloud }: Place): Promise<void> {
  await cloud.control.fault({ match: { verb: 'get' }, effect: { kind: 'error', class: 'not_found' } })
  await cloud.control.fault({ match: { verb: 'delete' }, effect: { kind: 'error', class: 'not_found' } })
  await cloud.control.fault({ match: { verb: 'list' }, effect: { kind: 'list', omit_probability: 1 } })
}

const aliveAt = async ({ cloud }: Place) =>
  (await cloud.control.machines()).filter(({ gone_at }) => gone_at === null).map(({ id }) => id)

const untilAlive = (place: Place, count: number): Promise<unknown> =>
  waitFor(async () => (await aliveAt(place)).length === count, {
    what: `${count} machines to be left`,
    timeout_ms: SEEN_TIMEOUT_MS,
  })

async function running(order: Record<string, unknown> = {}) {
  const place = await world.place()
  const { id } = await world.order(place.project, { count: 1, ...order })
  await untilOrder(place.project.api, id, ['running'])
  const [instance] = await instancesOf(place.project.api, id)
  return { place, api: place.project.api, id, instance: instance! }
}

test('it serves its instance again, and goes with its order', async () => {
  const { place, api, id, instance } = await running()
  await deny(place)
  await untilInstance(api, instance.id, ['missing'])
  await place.cloud.control.noFaults()
  expect(await untilInstance(api, instance.id, ['running'])).toMatchObject({ provider_id: instance.provider_id })
  await world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilAlive(place, 0)
}, 200_000)

test('where another took its place it is surplus, and is deleted', async () => {
  const { place, api, id, instance } = await running({ healing: 'replace' })
  await deny(place)
  await waitFor(async () => (await aliveAt(place)).length > 1, {
    what: 'a replacement',
    timeout_ms: SEEN_TIMEOUT_MS,
  })
  await place.cloud.control.noFaults()
  await untilAlive(place, 1)
  await untilOrder(api, id, ['running'])
  const [now] = await instancesOf(api, id)
  expect(await aliveAt(place)).toEqual([now!.provider_id])
  expect(now!.provider_id).not.toBe(instance.provider_id)
}, 200_000)

test('where its deletion was confirmed it is deleted once more', async () => {
  const { place, api, id, instance } = await running()
  await deny(place)
  await world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilOrder(api, id, ['terminated'])
  expect(await aliveAt(place)).toEqual([instance.provider_id])
  await place.cloud.control.noFaults()
  // A cloud with nothing alive is looked at every five minutes, unless something is made there.
  const other = await world.order(place.project, { count: 1 })
  await untilOrder(api, other.id, ['running'])
  const [made] = await instancesOf(api, other.id)
  await untilAlive(place, 1)
  expect(await aliveAt(place)).toEqual([made!.provider_id])
}, 200_000)
