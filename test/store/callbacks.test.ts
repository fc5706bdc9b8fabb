/** Callbacks that enter and leave a lane at the same moment. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { listCallbacks, registerCallback, removeCallback } from '../../store/callbacks.ts'
import { type Trx, write } from '../../store/database.ts'
import { acceptOrder } from '../../store/orders.ts'
import { blockedStatements } from '../support/database.ts'
import { type HookWorld, hookWorld } from '../support/hook-world.ts'
import { waitFor } from '../support/wait-for.ts'

let world: HookWorld
beforeAll(async () => {
  world = await hookWorld()
})
afterAll(() => world.close())

const callerOf = ({ project_id, user_id }: HookWorld) => ({ project_id, user_id, request_id: 'req_test' })

async function makeInstance(): Promise<string> {
  const order = {
    name: 'o',
    count: 1,
    policy: 'all',
    cloud_ids: [],
    size: 's',
    image: 'i',
    sealed_user_data: null,
  } as const
  const { made } = await acceptOrder(world.store, callerOf(world), order, null)
  return made!.instances[0]!.id
}

const enter = (trx: Trx, instance_id: string, uri: string) =>
  registerCallback(trx, callerOf(world), instance_id, uri, world.envelope)
const leave = (trx: Trx, callback_id: string) => removeCallback(trx, callerOf(world), callback_id)

/** Runs one transaction, and another that has to wait for its commit. */
async function interleave(first: (trx: Trx) => Promise<unknown>, second: (trx: Trx) => Promise<unknown>) {
  let waiting: Promise<unknown> | undefined
  await world.store.db.transaction().execute(async (trx) => {
    await first(trx)
    waiting = write(world.store, second)
    await waitFor(async () => (await blockedStatements(world.store)) > 0, {
      what: 'the second to wait',
      timeout_ms: 2_500,
    })
  })
  await waiting
}

/** An address with one callback, and another instance that is about to have one there. */
async function setScene(uri: string) {
  const [instance_id, newcomer] = [await makeInstance(), await makeInstance()]
  const callback_id = await write(world.store, (trx) => enter(trx, instance_id, uri))
  return { callback_id, newcomer }
}

const lanesOf = (instance_id: string) => listCallbacks(world.store.db, world.project_id, { instance_id, limit: 10 })

test('whoever enters a lane that the last one is leaving gets a lane that lives', async () => {
  const uri = 'https://leaving.example/'
  const { callback_id, newcomer } = await setScene(uri)
  await interleave(
    (trx) => leave(trx, callback_id),
    (trx) => enter(trx, newcomer, uri),
  )
  expect(await lanesOf(newcomer)).toMatchObject([{ uri, lane_state: 'active' }])
})

test('a lane that somebody is entering is not ended by the last one to leave', async () => {
  const uri = 'https://entering.example/'
  const { callback_id, newcomer } = await setScene(uri)
  await interleave(
    (trx) => enter(trx, newcomer, uri),
    (trx) => leave(trx, callback_id),
  )
  expect(await lanesOf(newcomer)).toMatchObject([{ uri, lane_state: 'active' }])
})

test('of two who leave at the same moment the later one ends the lane', async () => {
  const uri = 'https://both.example/'
  const { callback_id, newcomer } = await setScene(uri)
  const other_id = await write(world.store, (trx) => enter(trx, newcomer, uri))
  await interleave(
    (trx) => leave(trx, callback_id),
    (trx) => leave(trx, other_id),
  )
  const lanes = await world.store.db.selectFrom('hooks').select('state').where('uri', '=', uri).execute()
  expect(lanes).toEqual([{ state: 'deleted' }])
})
