import { v7 as newId } from 'uuid'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { markSent, storeOutcomes } from '../../store/attempts.ts'
import { planOrder } from '../../store/order-plan.ts'
import { acceptOrder } from '../../store/orders.ts'
import { type HookWorld, hookWorld } from '../support/hook-world.ts'
import { TRAITS } from '../support/traits.ts'

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

const refused = { class: 'capacity', message: 'no room', at: new Date().toISOString() }
const lost = { ...refused, class: 'lost_reply' }
const throttled = { ...refused, class: 'throttled', retry_after_ms: 0 }

/** Sends again, whenever that is due, and stores what is answered. */
async function resend(order_id: string, error: typeof refused | null): Promise<number> {
  await world.store.db
    .updateTable('launch_attempts')
    .set({ next_send_at: null })
    .where('order_id', '=', order_id)
    .execute()
  const [sent] = await markSent(world.store, order_id, BATCH, TRAITS)
  if (error) await storeOutcomes(world.store, order_id, [{ ...sent!, error }])
  return sent!.send
}

test('an error counts for the send that got it, not for the next one', async () => {
  const order_id = await orderOfOne()
  const [first] = await markSent(world.store, order_id, BATCH, TRAITS)
  expect(await resend(order_id, null)).toBe(2)
  await storeOutcomes(world.store, order_id, [{ ...first!, error: refused }])
  expect(await attemptOf(order_id)).toMatchObject({ state: 'sent', sends: 2 })
})

test('a refusal ends an attempt of which every send was answered', async () => {
  const order_id = await orderOfOne()
  await resend(order_id, throttled)
  await resend(order_id, refused)
  expect(await attemptOf(order_id)).toMatchObject({ state: 'lost', error: { class: 'capacity' } })
})

test.each([
  ['was not answered', lost],
  ['was lost with its worker', null],
])('a refusal does not answer an earlier send that %s; after the silence it counts', async (_, before) => {
  const order_id = await orderOfOne()
  await resend(order_id, before)
  await resend(order_id, throttled)
  expect(await attemptOf(order_id)).toMatchObject({ state: 'unknown', error: { class: 'lost_reply' }, gone_at: null })
  await resend(order_id, refused)
  const doubted = await attemptOf(order_id)
  expect(doubted).toMatchObject({ state: 'unknown', error: { class: 'capacity' }, gone_at: null })
  expect(doubted.next_send_at!.getTime()).toBeGreaterThanOrEqual(doubted.settle_at!.getTime() - 1)
  await resend(order_id, refused)
  expect(await attemptOf(order_id)).toMatchObject({ state: 'lost', gone_at: expect.any(Date) })
})
