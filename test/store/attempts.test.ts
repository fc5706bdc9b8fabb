import { v7 as newId } from 'uuid'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { markSent, storeOutcomes } from '../../store/attempts.ts'
import { planOrder } from '../../store/order-plan.ts'
import { acceptOrder } from '../../store/orders.ts'
import { type HookWorld, hookWorld } from '../support/hook-world.ts'

const TRAITS = { idempotency_tokens: true, settle_ms: 60_000, call_timeout_ms: 1_000, boot_timeout_ms: 60_000 }
const BATCH = 1

let world: HookWorld
beforeAll(async () => {
  world = await hookWorld()
})
afterAll(() => world.close())

async function orderOfOne(): Promise<string> {
  const { project_id, user_id, store } = world
  const cloud_id = newId()
  await store.db
    .insertInto('clouds')
    .values({ id: cloud_id, name: `cloud-${cloud_id}`, provider: 'simulated', endpoint: 'http://127.0.0.1:1' })
    .execute()
  const order = { name: 'one', count: 1, policy: 'all' as const, size: 's', image: 'i', cloud_ids: [cloud_id] }
  const caller = { project_id, user_id, request_id: 'req_1' }
  const { order_id } = await acceptOrder(store, caller, { ...order, sealed_user_data: null }, null)
  await planOrder(store, order_id, () => TRAITS)
  return order_id
}

const attemptOf = (order_id: string) =>
  world.store.db.selectFrom('launch_attempts').selectAll().where('order_id', '=', order_id).executeTakeFirstOrThrow()

test('an error counts for the send that got it, not for the next one', async () => {
  const order_id = await orderOfOne()
  const [first] = await markSent(world.store, order_id, BATCH, TRAITS)
  const [second] = await markSent(world.store, order_id, BATCH, TRAITS)
  expect([first!.send, second!.send]).toEqual([1, 2])
  const error = { class: 'capacity', message: 'no room', at: new Date().toISOString() }
  await storeOutcomes(world.store, order_id, [{ ...first!, error }])
  expect(await attemptOf(order_id)).toMatchObject({ state: 'sent', error: null })
  await storeOutcomes(world.store, order_id, [{ ...second!, error }])
  expect(await attemptOf(order_id)).toMatchObject({ state: 'lost', error: { class: 'capacity' } })
})
