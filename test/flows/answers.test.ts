/** What a batch of creates is answered is kept, answer by answer, whenever each of them comes. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { getOrder, untilOrder } from '../support/flow.ts'
import { startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

/** So far apart that many come while others are being stored. */
const SCATTERED = { create_latency_ms: { uniform_ms: [0, 600] as [number, number] } }
const COUNT = 25

test.each([
  ['machines', {}, 'won'],
  ['refusals', { capacity: 0 }, 'lost'],
])('%s', async (_, more, state) => {
  const { project, cloud } = await world.place({
    configuration: { ...SCATTERED, ...more, boot_latency_ms: 5_000 },
  })
  const { id } = await world.order(project, { count: COUNT, policy: 'any' })
  await untilOrder(project.api, id, ['running', 'failed', 'cancelled'])
  const attempts = await world.h.store.db
    .selectFrom('launch_attempts')
    .select(['state', 'answered_at', 'error'])
    .where('order_id', '=', id)
    .execute()
  expect(attempts).toHaveLength(COUNT)
  for (const attempt of attempts) {
    expect(attempt).toMatchObject({ state, answered_at: expect.any(Date) })
    expect(attempt.error?.class).toBe(state === 'lost' ? 'capacity' : undefined)
  }
  expect((await getOrder(project.api, id)).counts).toEqual({ [state === 'won' ? 'running' : 'failed']: COUNT })
  expect(await cloud.control.machines()).toHaveLength(state === 'won' ? COUNT : 0)
})
