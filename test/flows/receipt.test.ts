/** An order on paper, and the receipt of one: equal to the cloud's own list, whenever it is asked for. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { instancesOf, untilInstance, untilOrder } from '../support/flow.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

interface Receipt {
  readonly complete: boolean
  readonly made: number
  readonly undone: number
  readonly remaining: number
  readonly never_made: number
  readonly unknown: number
  readonly machines: readonly { provider_id: string; fate: string; confirmed_at: string | null; owner: string | null }[]
}

const receiptOf = async (place: Place, id: string) =>
  (await place.project.api.get<{ receipt: Receipt }>(`/api/launch-orders/${id}/receipt`)).body.receipt

/** What the receipt says against what the cloud knows. */
async function agrees(place: Place, receipt: Receipt): Promise<void> {
  const machines = await place.cloud.control.machines()
  const alive = machines.filter(({ gone_at }) => gone_at === null).map(({ id }) => id)
  const remains = receipt.machines.filter(({ fate }) => fate === 'remains').map(({ provider_id }) => provider_id)
  expect(remains.toSorted()).toEqual(alive.toSorted())
  expect(receipt.machines.map(({ provider_id }) => provider_id).toSorted()).toEqual(
    machines.map(({ id }) => id).toSorted(),
  )
}

test('of an order that runs, lost one, and was ended', async () => {
  const place = await world.place()
  const { api } = place.project
  const { id } = await world.order(place.project, { count: 3, policy: 'any' })
  await untilOrder(api, id, ['running'])
  const [lost] = await instancesOf(api, id)
  await place.cloud.control.fate(lost!.provider_id!, 'vanish')
  await untilInstance(api, lost!.id, ['missing'])
  const running = await receiptOf(place, id)
  expect(running).toMatchObject({ complete: false, made: 3, undone: 1, remaining: 2 })
  expect(running.machines.find(({ provider_id }) => provider_id === lost!.provider_id)).toMatchObject({
    fate: 'vanished',
    owner: null,
  })
  expect(
    running.machines
      .filter(({ fate }) => fate === 'remains')
      .every(({ owner }) => owner?.startsWith('/api/instances/')),
  ).toBe(true)
  await agrees(place, running)
  await world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilOrder(api, id, ['terminated'])
  const over = await receiptOf(place, id)
  expect(over).toMatchObject({ complete: true, made: 3, undone: 3, remaining: 0, unknown: 0 })
  expect(over.machines.every(({ confirmed_at }) => confirmed_at !== null)).toBe(true)
  // What vanished did so, whatever was ended afterwards.
  for (const { provider_id, fate } of over.machines)
    expect(fate).toBe(provider_id === lost!.provider_id ? 'vanished' : 'deleted')
  await agrees(place, over)
}, 120_000)

test('of a cancel that met creates without an answer', async () => {
  const place = await world.place({ configuration: { presents_as: 'openstack' } })
  const { api } = place.project
  await place.cloud.control.fault({ match: { verb: 'create' }, times: 2, effect: { kind: 'lost_reply' } })
  await place.cloud.control.fault({
    match: { verb: 'create' },
    from: 3,
    times: 1,
    effect: { kind: 'error', class: 'capacity' },
  })
  const { id } = await world.order(place.project, { count: 4 })
  await world.change(place.project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilOrder(api, id, ['cancelled', 'failed'])
  const receipt = await receiptOf(place, id)
  expect(receipt).toMatchObject({ complete: true, remaining: 0, unknown: 0 })
  await agrees(place, receipt)
}, 120_000)

interface Placement {
  readonly fits: boolean
  readonly policy_met: boolean
  readonly clouds: readonly { cloud: string; count: number; free: number | null; concerns: string[] }[]
  readonly waiting: number
  readonly alternatives: readonly string[]
}

test('on paper: where it would go, what would wait, what else there is; nothing is changed', async () => {
  const small = await world.place()
  const { project } = small
  const other = await world.place()
  for (const cloud of [other.cloud.name])
    await world.h.operator.put(`/api/clouds/${cloud}/grants/${project.name}`, undefined)
  await world.h.operator.patch(`/api/clouds/${small.cloud.name}`, { allocation: 2 })
  const count = async () =>
    (await project.api.get<{ launch_orders: unknown[] }>('/api/launch-orders')).body.launch_orders.length
  const preview = async (order: Record<string, unknown>) =>
    (
      await project.api.post<{ placement: Placement }>(
        '/api/launch-orders?dryRun=true',
        { name: 'p', size: 'small', image: 'debian', ...order },
        { expect: 200 },
      )
    ).body.placement
  const both = [small.cloud.name, other.cloud.name]
  expect(await preview({ count: 5, clouds: both })).toMatchObject({
    fits: true,
    policy_met: true,
    clouds: [
      { cloud: both[0], count: 2, free: 2, concerns: [] },
      { cloud: both[1], count: 3, free: null, concerns: [] },
    ],
    waiting: 0,
    alternatives: [],
  })
  expect(await preview({ count: 5, clouds: [both[0]] })).toMatchObject({
    fits: false,
    policy_met: false,
    waiting: 3,
    alternatives: [both[1]],
  })
  expect(await preview({ count: 5, clouds: [both[0]], policy: 'any' })).toMatchObject({ fits: false, policy_met: true })
  await world.h.operator.patch(`/api/clouds/${both[0]}`, { enabled: false })
  expect(await preview({ count: 1, clouds: both })).toMatchObject({
    clouds: [{ count: 0, concerns: ['it is disabled'] }, { count: 1 }],
  })
  await project.api.post(
    '/api/launch-orders?dryRun=true',
    { name: 'p', size: 'giant', image: 'debian' },
    { expect: 400 },
  )
  await project.api.post(
    '/api/launch-orders?dryRun=maybe',
    { name: 'p', size: 'small', image: 'debian' },
    { expect: 400 },
  )
  expect(await count()).toBe(0)
})

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
