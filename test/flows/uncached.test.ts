/**
 * Every flow on a worker that caches nothing: each of its tasks begins with a replay of all before. Moments lie far apart
 * here: timers are late by the sticky time-out then (3 s), and such a worker now and then drops the task that came with a
 * start, which the engine gives out again after ten seconds.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { instancesOf, untilInstance, untilLease, untilOrder } from '../support/flow.ts'
import { startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld({ worker_options: { maxCachedWorkflows: 0 } })
})
afterAll(() => world.close())

test('an order that fails over, loses a reply and is ended; one of its machines is ended before', async () => {
  const { project, cloud } = await world.place({ configuration: { capacity: 2 } })
  const large = await world.place()
  await world.h.operator.put(`/api/clouds/${large.cloud.name}/grants/${project.name}`, undefined)
  await cloud.control.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'lost_reply', how: 'reset' } })
  const { id } = await world.order(project, { count: 4, clouds: [cloud.name, large.cloud.name] })
  await untilOrder(project.api, id, ['running'])
  const [first] = await instancesOf(project.api, id)
  await world.change(project, 'terminate', first!.id, 'POST', `/api/instances/${first!.id}/actions`, {
    action: 'terminate',
  })
  await untilInstance(project.api, first!.id, ['terminated'])
  await world.change(project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilOrder(project.api, id, ['terminated'])
})

test('a lease with an order, and a hook in trouble', async () => {
  const { project, hook } = await world.place()
  hook.receiver.answer = (received) => ({ status: received.attempt === 1 && received.sequence === 1 ? 500 : 200 })
  const { id } = await world.lease(project, {
    start_in_ms: 500,
    before_end_in_ms: 15_000,
    end_in_ms: 27_000,
    order: { count: 2 },
  })
  expect(await untilLease(project.api, id, ['TERMINATED', 'ERROR'])).toMatchObject({ state: 'TERMINATED' })
})

test('afterwards record, clouds and receivers agree', async () => {
  await world.judgeAll()
}, 120_000)
