/** Calls of an inventory outside that overtake each other: which of their answers count. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { beginCall, type InventoryCall, storeNamed, storeRecorded } from '../../store/outside-inventory.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'
import { openPcmClient, type PcmClient } from '../support/pcm-client.ts'

let folder: ConfigFolder
let server: ApiServer
let pcm: PcmClient
let id: string
beforeAll(async () => {
  folder = await openConfigFolder({ inventory: { url: 'http://127.0.0.1:9' } })
  server = await startApi({ config_dir: folder.path })
  pcm = openPcmClient(server.url, await server.token('web', 'member'))
  await server.cloud('east', ['web'])
})
beforeEach(async () => {
  id = (await pcm('POST', '/v2/clouds/east/instances', { size: 'small', image: 'debian' })).body.id
})
afterAll(async () => {
  await server.close()
  await folder.close()
})

const begin = async (what: 'name' | 'record'): Promise<InventoryCall> => (await beginCall(server.store, id, what))!
const error = (message: string) => ({ class: 'refused', message, at: new Date().toISOString() })
const entry = () =>
  server.store.db
    .selectFrom('inventory')
    .innerJoin('instances', 'instances.id', 'instance_id')
    .select(['inventory.name', 'instances.name as instance_name', 'told', 'error', 'tries', 'due_at', 'order_id'])
    .where('instance_id', '=', id)
    .executeTakeFirstOrThrow()
const wakesOf = async (target: string) =>
  (await server.store.db.selectFrom('outbox').select('id').where('target', '=', target).execute()).length

test('the first name counts, whichever call brought it; errors only of the last call', async () => {
  const [first, second] = [await begin('name'), await begin('name')]
  await storeNamed(server.store, id, first, { error: error('of the first') })
  expect(await entry()).toMatchObject({ name: null, error: null, tries: 0 })
  await storeNamed(server.store, id, second, { error: error('of the second') })
  expect(await entry()).toMatchObject({ error: { message: 'of the second' }, tries: 1 })
  await storeNamed(server.store, id, first, { name: `first-${id}` })
  await storeNamed(server.store, id, second, { name: `second-${id}` })
  const { name, instance_name, error: left, tries } = await entry()
  expect([name, instance_name, left, tries]).toEqual([`first-${id}`, `first-${id}`, null, 0])
  expect(await beginCall(server.store, id, 'name')).toBeUndefined()
})

test('a record that was overtaken on its way may be the one the inventory has: it is told again', async () => {
  await storeNamed(server.store, id, await begin('name'), { name: `web-${id}` })
  expect(await beginCall(server.store, id, 'record')).toBeUndefined() // nothing was made yet
  const { db } = server.store
  await db.updateTable('instances').set({ state: 'starting', due_at: null }).where('id', '=', id).execute()
  const building = await begin('record')
  await db.updateTable('instances').set({ state: 'running' }).where('id', '=', id).execute()
  const active = await begin('record')
  await storeRecorded(server.store, id, active, null)
  expect(await entry()).toMatchObject({ told: { status: 'active' }, due_at: null })
  expect(await beginCall(server.store, id, 'record')).toBeUndefined()
  const wakes = await wakesOf(`instance/${id}`)
  await storeRecorded(server.store, id, building, error('of the older'))
  expect(await entry()).toMatchObject({ told: { status: 'active' }, error: null })
  await storeRecorded(server.store, id, building, null)
  expect(await entry()).toMatchObject({ told: null, due_at: expect.any(Date) })
  expect(await wakesOf(`instance/${id}`)).toBe(wakes + 1)
  expect((await begin('record')).body).toMatchObject({ status: 'active' })
})

test('a name that came in vain is told to the order once, and again when there is a name', async () => {
  const { order_id } = await entry()
  const before = await wakesOf(`order/${order_id}`)
  await storeNamed(server.store, id, await begin('name'), { error: error('no') })
  await storeNamed(server.store, id, await begin('name'), { error: error('still no') })
  expect(await wakesOf(`order/${order_id}`)).toBe(before + 1)
  await storeNamed(server.store, id, await begin('name'), { name: `named-${id}` })
  expect(await wakesOf(`order/${order_id}`)).toBe(before + 2)
})
