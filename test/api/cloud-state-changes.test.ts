/** Cloud State: changes and ends of instances and orders, their repeats under a key, and their versions. */
import { randomUUID } from 'node:crypto'
import { v7 as newId } from 'uuid'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { INSTANCES, ORDERS, one } from '../support/cloud-state.ts'

interface Shown {
  readonly id: string
  readonly href: string
  readonly name: string
  readonly state: string
  readonly ssh_key: { readonly href: string } | null
}
interface One {
  readonly instance: Shown
}

let server: ApiServer
let api: ApiClient
beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.cloud('east', ['web'])
})
afterAll(() => server.close())

const launch = async (more: Record<string, unknown> = {}) =>
  (await api.post<One>(INSTANCES, one(more), { expect: 202 })).body.instance

/** As its flow and its cloud would leave it. */
const set = (id: string, state: 'failed' | 'missing' | 'terminated') =>
  server.store.db.updateTable('instances').set({ state }).where('id', '=', id).execute()

/** A machine of an instance that its cloud has not confirmed gone. */
async function addMachine(instance_id: string): Promise<string> {
  const { db } = server.store
  const item = await db
    .selectFrom('items')
    .select(['id as item_id', 'order_id'])
    .where('instance_id', '=', instance_id)
    .executeTakeFirstOrThrow()
  const cloud = await db.selectFrom('clouds').select('id').where('name', '=', 'east').executeTakeFirstOrThrow()
  const id = newId()
  const attempt = { ...item, id, instance_id, cloud_id: cloud.id, number: 1, batch: 1, provider_id: `m-${id}` }
  await db
    .insertInto('launch_attempts')
    .values({ ...attempt, state: 'won' })
    .execute()
  return id
}

const actionsOf = async (instance_id: string) => {
  const rows = await server.store.db
    .selectFrom('actions')
    .select('kind')
    .where('instance_id', '=', instance_id)
    .execute()
  return rows.map(({ kind }) => kind)
}

describe('ending', () => {
  test.each(['failed', 'missing'] as const)('one that is %s, as long as its machine lives', async (state) => {
    const { id, href } = await launch()
    const attempt_id = await addMachine(id)
    await set(id, state)
    await api.delete(href, { expect: 409 })
    await api.delete(`${href}?terminate=true`, { expect: 202 })
    expect(await actionsOf(id)).toEqual(['terminate'])
    const gone = { gone_at: new Date() }
    await server.store.db.updateTable('launch_attempts').set(gone).where('id', '=', attempt_id).execute()
    await api.delete(`${href}?terminate=true`, { expect: 204 })
    expect(await actionsOf(id)).toEqual(['terminate'])
  })

  test('a deletion again, under its key, is the same answer', async () => {
    const { id, href } = await launch()
    await set(id, 'terminated')
    const options = { key: randomUUID(), expect: 204 }
    await api.delete(href, options)
    await api.delete(href, options)
    await api.delete(href, { expect: 404 })
  })

  test('a termination again, under its key, deletes nothing when all is over', async () => {
    const { id, href } = await launch()
    const options = { key: randomUUID(), expect: 202 }
    const path = `${href}?terminate=true`
    await api.delete(path, options)
    await set(id, 'terminated')
    expect((await api.delete<One>(path, options)).body.instance).toMatchObject({ id, state: 'terminated' })
    await api.get(href, { expect: 200 })
    await api.delete(href, { expect: 204 })
    await api.delete(path, { ...options, expect: 204 })
  })

  test('a key that ended one instance ends no other', async () => {
    const [first, second] = [await launch(), await launch()]
    const key = randomUUID()
    await api.delete(`${first.href}?terminate=true`, { key, expect: 202 })
    await api.delete(`${second.href}?terminate=true`, { key, expect: 422 })
    expect(await actionsOf(second.id)).toEqual([])
  })

  test('an order cancelled again, under its key, when it runs', async () => {
    const { body } = await api.post<{ launch_order: { id: string; href: string } }>(ORDERS, { instances: [one()] })
    const { id, href } = body.launch_order
    const options = { key: randomUUID(), expect: 202 }
    await api.delete(href, options)
    await server.store.db.updateTable('launch_orders').set({ state: 'running' }).where('id', '=', id).execute()
    await api.delete(href, options)
    await api.delete(href, { expect: 409 })
  })
})

describe('changing', () => {
  test('a name that the inventory gave stays', async () => {
    const sent = { size: 'small', image: 'debian' }
    const made = (await api.post<{ id: string; name: string }>('/pcm_api/v2/clouds/east/instances', sent)).body
    const path = `${INSTANCES}/${made.id}`
    const { body } = await api.put<ErrorAnswer>(path, { name: 'mine' }, { expect: 409 })
    expect(body.error.message).toBe(`instance ${made.id} has its name from the inventory, and keeps it`)
    expect((await api.get<One>(path)).body.instance.name).toBe(made.name)
    await api.put(path, { name: made.name, callbacks: [] }, { expect: 200 })
  })

  test('of two writers who started from the same version one wins', async () => {
    const { href } = await launch()
    const if_match = (await api.get(href)).headers.get('etag')!
    const changed = await api.put<One>(href, { name: 'first' }, { if_match, expect: 200 })
    await api.put(href, { name: 'late' }, { if_match, expect: 412 })
    await api.put(href, { callbacks: [] }, { if_match, expect: 412 })
    expect((await api.get<One>(href)).body.instance.name).toBe('first')
    const fresh = changed.headers.get('etag')!
    await api.put(href, { name: 'in time' }, { if_match: fresh, expect: 200 })
    await api.put(href, { name: 'any' }, { if_match: '*', expect: 200 })
    await api.put(href, { name: 'none' }, { if_match: 'seven', expect: 400 })
  })

  test('a repeat under its key is no late writer', async () => {
    const { href } = await launch()
    const options = { key: randomUUID(), if_match: (await api.get(href)).headers.get('etag')!, expect: 200 }
    await api.put(href, { name: 'first' }, options)
    await api.put(href, { name: 'first' }, options)
  })
})

test('the headers of a private key tell whether there is one, and do not give it out', async () => {
  const { href, ssh_key } = await launch()
  const headers = { authorization: `Bearer ${await server.token('web', 'member')}` }
  const head = async (path: string) => (await fetch(server.url + path, { method: 'HEAD', headers })).status
  expect(await head(ssh_key!.href)).toBe(200)
  expect(await head(ssh_key!.href)).toBe(200)
  await api.get(ssh_key!.href, { expect: 200 })
  expect(await head(ssh_key!.href)).toBe(410)
  const without = await launch({ keyname: 'mine' })
  expect(await head(`${without.href}/ssh_key`)).toBe(404)
  expect(await head(`${href}0/ssh_key`)).toBe(404)
})
