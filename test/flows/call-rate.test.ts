/** A cloud that takes only so many calls a second gets no more, from however many processes. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { getOrder, submitOrder } from '../support/flow.ts'
import { startServiceProcess } from '../support/service-process.ts'
import { waitFor } from '../support/wait-for.ts'
import { startWorld, type World } from '../support/world.ts'

const CALLS_PER_S = 20
const COUNT = 40

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

test('two processes together keep the rate that was declared, and every machine runs', async () => {
  const place = await world.place({
    configuration: { rate_limit: { calls_per_s: CALLS_PER_S, burst: 5 } },
    settings: { calls_per_s: CALLS_PER_S * 0.8, call_timeout_ms: 2_000 },
  })
  const other = await startServiceProcess(world.h)
  const { project, cloud } = place
  const orders = await Promise.all(
    [project, other.ask(project)].map((by) => submitOrder(by, { count: COUNT / 2, clouds: [cloud.name] })),
  )
  for (const { id } of orders)
    await waitFor(async () => (await getOrder(project.api, id)).state === 'running', {
      what: 'the order to run',
      timeout_ms: 45_000,
      interval_ms: 200,
    })
  const ledger = await cloud.control.ledger()
  expect(ledger.filter(({ kind, status }) => kind === 'answer' && status === 429)).toEqual([])
  expect(ledger.filter(({ kind }) => kind === 'request').length).toBeGreaterThan(COUNT)
  expect(await cloud.control.machines()).toHaveLength(COUNT)
  for (const { id } of orders) await project.api.delete(`/api/launch-orders/${id}`)
  await world.untilQuiet()
  await other.end('SIGTERM')
})

test('what does not get its turn in time was not sent, and is not held against the cloud', async () => {
  const place = await world.place({ settings: { calls_per_s: 2, call_timeout_ms: 1_000 } })
  const { id } = await world.order(place.project, { count: 5 })
  const order = await waitFor(
    async () => {
      const shown = await getOrder(place.project.api, id)
      return shown.state === 'running' && shown
    },
    { what: 'the order to run', timeout_ms: 45_000, interval_ms: 200 },
  )
  expect(order).toMatchObject({ partial: false, counts: { running: 5 } })
  expect(await place.cloud.control.machines()).toHaveLength(5)
})
