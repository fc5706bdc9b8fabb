/** A machine that its cloud accepted and that never starts holds its order up for its time, by name, and no longer. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { getOrder, instancesOf, untilOrder } from '../support/flow.ts'
import { waitFor } from '../support/wait-for.ts'
import { startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

const stuck = { match: { verb: 'create' }, times: 1, effect: { kind: 'boot', outcome: 'stuck' } } as const

test('is given up when its time is up: another takes its place, and it is deleted', async () => {
  const { project, cloud } = await world.place({ settings: { boot_timeout_ms: 2_000 } })
  await cloud.control.fault(stuck)
  const { id } = await world.order(project, { count: 2 })
  await untilOrder(project.api, id, ['running'])
  expect((await cloud.control.machines()).filter(({ booted_at }) => booted_at === null)).toHaveLength(1)
  await waitFor(async () => (await cloud.control.machines()).every((m) => m.booted_at !== null || m.gone_at !== null), {
    what: 'it to be deleted',
    timeout_ms: 20_000,
  })
  expect((await instancesOf(project.api, id)).map(({ state }) => state)).toEqual(['running', 'running'])
})

test('is named as what its order waits for', async () => {
  const { project, cloud } = await world.place()
  await cloud.control.fault(stuck)
  const { id } = await world.order(project, { count: 1 })
  const order = await waitFor(
    async () => {
      const shown = await getOrder(project.api, id)
      return shown.blocker?.code === 'machine_starting' && shown
    },
    { what: 'the blocker', timeout_ms: 60_000, interval_ms: 500 },
  )
  expect(order).toMatchObject({ state: 'settling', blocker: { reason: expect.stringContaining(cloud.name) } })
  await world.change(project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`)
}, 120_000)

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
})
