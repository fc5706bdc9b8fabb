/** A wake that is lost with the engine is made up for, also where the order had settled and nothing of it is due. */
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Machine } from '../../domain/machine.ts'
import { orderWorkflowId } from '../../domain/workflow-ids.ts'
import { markSent, storeOutcomes } from '../../store/attempts.ts'
import { write } from '../../store/database.ts'
import { wakeAll, wakeOverdue } from '../../store/housekeeping.ts'
import { changeInstances } from '../../store/instances.ts'
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

const plan = (order_id: string) => planOrder(world.store, order_id, () => TRAITS)

const observe = (instance_id: string, to: string) =>
  write(world.store, (trx) => changeInstances(trx, [{ id: instance_id, to, cause: { rule: 'test', reason: 'seen' } }]))

/** An order of two that runs, with nothing due and no wake under way. */
async function settled() {
  const { project_id, user_id, store } = world
  const cloud_id = newId()
  await store.db
    .insertInto('clouds')
    .values({ id: cloud_id, name: `cloud-${cloud_id}`, provider: 'simulated', endpoint: 'http://127.0.0.1:1' })
    .execute()
  const order = { name: 'two', count: 2, policy: 'any' as const, size: 's', image: 'i', cloud_ids: [cloud_id] }
  const caller = { project_id, user_id, request_id: 'req_1' }
  const { order_id } = await acceptOrder(store, caller, { ...order, sealed_user_data: null }, null)
  await plan(order_id)
  const machine = (attempt_id: string): Machine => ({
    provider_id: `m-${attempt_id}`,
    attempt_id,
    state: 'running',
    raw_state: 'running',
    public_addresses: [],
    private_addresses: [],
    created_at: null,
  })
  const sent = await markSent(store, order_id, BATCH, TRAITS)
  const outcomes = sent.map(({ attempt_id, send }) => ({ attempt_id, send, machine: machine(attempt_id) }))
  await storeOutcomes(store, order_id, outcomes)
  const attempts = await store.db
    .selectFrom('launch_attempts')
    .selectAll()
    .where('order_id', '=', order_id)
    .orderBy('id')
    .execute()
  for (const { instance_id } of attempts) await observe(instance_id, 'running')
  expect(await plan(order_id)).toMatchObject({ state: 'running', done: true })
  return { order_id, attempts }
}

async function loseWakes(): Promise<void> {
  await world.store.db.deleteFrom('outbox').execute()
}

async function wokenBy(housekeeping: () => Promise<number>): Promise<string[]> {
  await loseWakes()
  await housekeeping()
  const rows = await world.store.db.selectFrom('outbox').select('target').execute()
  return rows.map(({ target }) => target)
}

const overdue = () => wokenBy(() => wakeOverdue(world.store))

test('a settled order whose machine died is woken until it knows', async () => {
  const { order_id, attempts } = await settled()
  const target = orderWorkflowId(order_id)
  expect(await overdue()).not.toContain(target)
  const { instance_id } = attempts[0]!
  await observe(instance_id, 'failed')
  expect(await overdue()).not.toContain(target) // its wake has half a minute
  await sql`update instances set terminated_at = record_now() - interval '1 min' where id = ${instance_id}`.execute(
    world.store.db,
  )
  expect(await overdue()).toContain(target)
  expect(await wokenBy(() => wakeAll(world.store))).toContain(target)
  expect(await plan(order_id)).toMatchObject({ state: 'running', done: true })
  expect(await overdue()).not.toContain(target)
})

test('so is one with a machine too many', async () => {
  const { order_id, attempts } = await settled()
  const { id: _, state: __, ...first } = attempts[0]!
  const late = { ...first, id: newId(), number: 9, state: 'surplus' as const, provider_id: 'late', error: null }
  await world.store.db.insertInto('launch_attempts').values(late).execute()
  expect(await overdue()).toContain(orderWorkflowId(order_id))
  expect(await plan(order_id)).toMatchObject({ steps: [{ activity: 'deleteInstances' }] })
})
