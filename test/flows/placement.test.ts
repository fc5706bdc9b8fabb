/** Where the instances of an order go, as its callers ask for it. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { getOrder, instancesOf, untilOrder } from '../support/flow.ts'
import { lookAgain } from '../support/found-machines.ts'
import type { Project } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

/** Two clouds of one project; the names are unique, so that others are not in the way. */
async function twoPlaces(first: Parameters<World['place']>[0] = {}): Promise<{ project: Project; places: Place[] }> {
  const [east, west] = [await world.place(first), await world.place()]
  await world.h.operator.put(`/api/clouds/${west.cloud.name}/grants/${east.project.name}`, undefined)
  return { project: east.project, places: [east, west] }
}

/** How many of an order's instances are at each cloud. */
async function countAt(project: Project, order_id: string, places: readonly Place[]): Promise<number[]> {
  const instances = await instancesOf(project.api, order_id)
  return places.map(({ cloud }) => instances.filter((instance) => instance.cloud === cloud.name).length)
}

const price = (place: Place, small: number) =>
  world.h.operator.patch(`/api/clouds/${place.cloud.name}`, { prices: { small } })

interface Preview {
  readonly clouds: readonly { cloud: string; count: number }[]
}

describe.concurrent('an order', () => {
  test.each([
    ['in_order', [4, 0]],
    ['spread', [2, 2]],
    ['cheapest', [0, 4]],
  ])('placed %s runs where its preview said', async (placement, expected) => {
    const { project, places } = await twoPlaces()
    await price(places[0]!, 7)
    await price(places[1]!, 5)
    const order = { count: 4, clouds: places.map(({ cloud }) => cloud.name), placement }
    const asked = { name: 'on paper', size: 'small', image: 'debian', ...order }
    const { body } = await project.api.post<{ placement: Preview }>('/api/launch-orders?dryRun=true', asked)
    expect(body.placement.clouds.map(({ count }) => count)).toEqual(expected)
    const { id } = await world.order(project, order)
    await untilOrder(project.api, id, ['running'])
    expect(await countAt(project, id, places)).toEqual(expected)
    expect(await getOrder(project.api, id)).toMatchObject({ placement })
  })

  test('for a realm goes past a cloud where that is closed, and waits where all are', async () => {
    const realm = (available: boolean) => ({ realms: [{ id: 'id-north', name: 'north', available }] })
    const { project, places } = await twoPlaces({ configuration: realm(false) })
    const [closed, open] = places as [Place, Place]
    await open.cloud.control.change(realm(true))
    for (const place of places) await lookAgain(world, place)
    const told = (place: Place) =>
      waitFor(
        async () => {
          const { body } = await project.api.get<{ realms: unknown[] }>(`/api/clouds/${place.cloud.name}/realms`)
          return body.realms.length
        },
        { what: 'its realms to be told', timeout_ms: 20_000 },
      )
    for (const place of places) await told(place)
    const clouds = places.map(({ cloud }) => cloud.name)
    const { id } = await world.order(project, { count: 1, clouds, instances: [{ realm: 'north' }] })
    await untilOrder(project.api, id, ['running'])
    expect(await countAt(project, id, places)).toEqual([0, 1])

    const only = { count: 1, clouds: clouds.slice(0, 1), instances: [{ realm: 'id-north' }] }
    const waiting = await world.order(project, only)
    await waitFor(async () => (await getOrder(project.api, waiting.id)).blocker?.code === 'realm_unavailable', {
      what: 'the realm to be named',
      timeout_ms: 20_000,
    })
    await closed.cloud.control.change(realm(true))
    await lookAgain(world, closed)
    await untilOrder(project.api, waiting.id, ['running'])
  })

  test('with a retry budget asks a full cloud as often as that grants', async () => {
    const place = await world.place({ configuration: { capacity: 0 } })
    const { id } = await world.order(place.project, { count: 1, retry_budget: { capacity: 1 } })
    await waitFor(async () => (await getOrder(place.project.api, id)).blocker?.code === 'clouds_refuse', {
      what: 'the first refusal',
      timeout_ms: 20_000,
    })
    await untilOrder(place.project.api, id, ['failed', 'cancelled'])
    const creates = (await place.cloud.control.ledger()).filter(
      ({ kind, verb }) => kind === 'request' && verb === 'create',
    )
    expect(creates).toHaveLength(2)
  })
})

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
})
