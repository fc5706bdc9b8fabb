/** Credentials of orders: how long they are kept, whose machines are looked for with them, and what refuses them. */
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { accountsInUse, changeCredential, noteRefused } from '../../store/credentials.ts'
import { realNow, write } from '../../store/database.ts'
import { dropOld } from '../../store/housekeeping.ts'
import { acceptOrder } from '../../store/orders.ts'
import { type HookWorld, hookWorld } from '../support/hook-world.ts'

let world: HookWorld
beforeAll(async () => {
  world = await hookWorld()
})
afterAll(() => world.close())

const caller = () => ({ project_id: world.project_id, user_id: world.user_id, request_id: 'req_1' })

/** An order of one that is over but for what a test says, with the credential it came with and its only attempt. */
async function orderWith(attempt: { state: 'won' | 'lost'; gone: boolean; settled_ago_ms?: number }) {
  const { db } = world.store
  const cloud_id = newId()
  await db
    .insertInto('clouds')
    .values({ id: cloud_id, name: `cloud-${cloud_id}`, provider: 'simulated', endpoint: 'http://127.0.0.1:1' })
    .execute()
  const order = { name: 'one', count: 1, policy: 'any' as const, size: 's', image: 'i', cloud_ids: [cloud_id] }
  const { order_id } = await acceptOrder(world.store, caller(), { ...order, sealed_user_data: null }, null)
  const credential_id = newId()
  await db
    .insertInto('credentials')
    .values({
      id: credential_id,
      project_id: world.project_id,
      cloud_id,
      order_id,
      name: credential_id,
      sealed: Buffer.from('sealed'),
    })
    .execute()
  const item = await db.selectFrom('items').selectAll().where('order_id', '=', order_id).executeTakeFirstOrThrow()
  await db.updateTable('launch_orders').set({ state: 'running', due_at: null }).where('id', '=', order_id).execute()
  await db.updateTable('instances').set({ state: 'missing' }).where('id', '=', item.instance_id).execute()
  await db
    .insertInto('launch_attempts')
    .values({
      id: newId(),
      item_id: item.id,
      instance_id: item.instance_id,
      order_id,
      number: 1,
      cloud_id,
      credential_id,
      batch: 1,
      state: attempt.state,
      provider_id: attempt.state === 'won' ? `i-${order_id}` : null,
      settle_at: sql<Date>`clock_timestamp() - ${attempt.settled_ago_ms ?? 0} * interval '1 ms'`,
      gone_at: attempt.gone ? sql<Date>`record_now()` : null,
    })
    .execute()
  const item_is = (state: 'running' | 'failed') =>
    db.updateTable('items').set({ state }).where('id', '=', item.id).execute()
  return { cloud_id, credential_id, item_is }
}

async function isKept(credential_id: string): Promise<boolean> {
  await dropOld(world.store)
  const row = await world.store.db
    .selectFrom('credentials')
    .select('sealed')
    .where('id', '=', credential_id)
    .executeTakeFirstOrThrow()
  return row.sealed !== null
}

test('is kept while the order has not heard that its machine vanished: it may heal it', async () => {
  const { credential_id, item_is } = await orderWith({ state: 'won', gone: true })
  await item_is('running')
  expect(await isKept(credential_id)).toBe(true)
  await item_is('failed')
  expect(await isKept(credential_id)).toBe(false)
})

test('is kept for an hour after a create of which nobody heard anything', async () => {
  const late = await orderWith({ state: 'lost', gone: false, settled_ago_ms: 3_000 })
  await late.item_is('failed')
  expect(await isKept(late.credential_id)).toBe(true)
  const over = await orderWith({ state: 'lost', gone: false, settled_ago_ms: 3_700_000 })
  await over.item_is('failed')
  expect(await isKept(over.credential_id)).toBe(false)
})

test('goes on being looked with for a while after its last machine went: a cloud may have denied it', async () => {
  const { cloud_id, credential_id } = await orderWith({ state: 'won', gone: true })
  expect(await accountsInUse(world.store.db, cloud_id)).toEqual([credential_id])
  await world.store.db
    .updateTable('launch_attempts')
    .set({ gone_at: sql<Date>`record_now() - interval '2 hours'` })
    .where('credential_id', '=', credential_id)
    .execute()
  expect(await accountsInUse(world.store.db, cloud_id)).toEqual([])
})

test('a refusal of the secret before says nothing of the one that replaced it', async () => {
  const { credential_id } = await orderWith({ state: 'won', gone: false })
  const { store } = world
  const answer = { message: 'no', at: new Date().toISOString() }
  const refused = async () =>
    (
      await store.db
        .selectFrom('credentials')
        .select('refused_at')
        .where('id', '=', credential_id)
        .executeTakeFirstOrThrow()
    ).refused_at !== null
  const before = await realNow(store.db)
  await write(store, (trx) =>
    changeCredential(trx, caller(), credential_id, { sealed: Buffer.from('other') }, undefined),
  )
  await noteRefused(store, credential_id, answer, before)
  expect(await refused()).toBe(false)
  await noteRefused(store, credential_id, answer, new Date(Date.now() + 1_000))
  expect(await refused()).toBe(true)
})
