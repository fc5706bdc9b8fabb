/** Orders with a deadline, and orders that hold. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { getOrder, instancesOf, SETTLE_TIMEOUT_MS, untilOrder } from '../support/flow.ts'
import { waitFor } from '../support/wait-for.ts'
import { startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

const soon = () => new Date(Date.now() + 2_500).toISOString()
const stuck = (name: string) =>
  ({ match: { verb: 'create', name }, effect: { kind: 'boot', outcome: 'stuck' } }) as const

test('by its deadline as many run as must: the rest is given up', async () => {
  const place = await world.place()
  await place.cloud.control.fault(stuck('late-2'))
  const deadline_at = soon()
  const { id } = await world.order(place.project, { name: 'late', count: 2, policy: 'any', deadline_at })
  const order = await untilOrder(place.project.api, id, ['running'])
  expect(order).toMatchObject({ partial: true })
  expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(deadline_at))
  const states = (await instancesOf(place.project.api, id)).map(({ state }) => state)
  expect(states.toSorted()).toEqual(['running', 'terminated'])
})

test('too few by its deadline: all is undone', async () => {
  const place = await world.place()
  await place.cloud.control.fault(stuck('late-2'))
  const { id } = await world.order(place.project, { name: 'late', count: 2, deadline_at: soon() })
  await untilOrder(place.project.api, id, ['failed', 'cancelled'])
  const alive = (await place.cloud.control.machines()).filter(({ gone_at }) => gone_at === null)
  expect(alive).toEqual([])
})

test('one that holds waits for its cloud to change its mind', async () => {
  const place = await world.place()
  await place.cloud.control.fault({
    id: 'full',
    match: { verb: 'create' },
    effect: { kind: 'error', class: 'capacity' },
  })
  const { id } = await world.order(place.project, { count: 1, hold: true })
  await waitFor(async () => (await getOrder(place.project.api, id)).blocker?.code === 'clouds_refuse', {
    what: 'the order to say who refuses',
    timeout_ms: SETTLE_TIMEOUT_MS,
  })
  await place.cloud.control.send('DELETE', '/faults/full')
  await untilOrder(place.project.api, id, ['running'])
})

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
