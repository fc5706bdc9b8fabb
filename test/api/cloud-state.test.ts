/** Cloud State over the wire: what it takes, what it refuses, what it shows. */
import { createPrivateKey, createPublicKey, randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { INSTANCES, ORDERS, one } from '../support/cloud-state.ts'

interface Shown {
  readonly id: string
  readonly uuid: string
  readonly href: string
  readonly name: string
  readonly state: string
  readonly cloud: string | null
  readonly keyname: string | null
  readonly ssh_key: { readonly name: string; readonly fingerprint: string; readonly href: string } | null
  readonly callbacks: readonly { readonly id: string; readonly href: string; readonly action: string }[]
}
interface Order {
  readonly launch_order: {
    readonly id: string
    readonly href: string
    readonly state: string
    readonly count: number
    readonly policy: unknown
    readonly clouds: readonly string[]
    readonly instances: readonly Shown[]
  }
}
interface One {
  readonly instance: Shown
}
interface Callback {
  readonly callback: {
    readonly id: string
    readonly href: string
    readonly action: string
    readonly instance_id: string
  }
}

const CALLBACKS = '/api/cloud_state/callbacks'
const RECEIVER = 'http://127.0.0.1:9/told'

let server: ApiServer
let api: ApiClient
let stranger: ApiClient

beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  stranger = await server.client('other')
  const larger = { sizes: { small: 'm1.small', large: 'm1.large' } }
  await server.cloud('east', ['web', 'other'], { priority: 5 })
  await server.cloud('west', ['web'], larger)
})
afterAll(() => server.close())

const launch = async (more: Record<string, unknown> = {}) =>
  (await api.post<One>(INSTANCES, one(more), { expect: 202 })).body.instance

describe('launch orders', () => {
  test('instances that differ, in one order', async () => {
    const uuids = [randomUUID(), randomUUID().toUpperCase()]
    const input = {
      name: 'shop',
      policy: 'all',
      callback: RECEIVER,
      instances: [
        one({ uuid: uuids[0], user_data: '#!/bin/sh', keyname: 'mine' }),
        one({ uuid: uuids[1], name: 'db', hwp_id: 'large', hwp_memory: '2048', hwp_cpu: 2, hwp_storage: 20 }),
        one({ name: 'third', cloud: 'west', realm_id: 'nova' }),
      ],
    }
    const { body, headers } = await api.post<Order>(ORDERS, input, { expect: 202 })
    const order = body.launch_order
    expect(order).toMatchObject({ state: 'queued', count: 3, policy: 'all', clouds: ['east', 'west'] })
    expect(headers.get('location')).toBe(order.href)
    const [third, second, first] = order.instances
    expect(first).toMatchObject({ uuid: uuids[0], state: 'pending', keyname: 'mine', ssh_key: null })
    expect(second).toMatchObject({
      uuid: uuids[1]!.toLowerCase(),
      name: 'db',
      hwp_id: 'large',
      hwp_memory: 2048,
      hwp_cpu: 2,
      hwp_storage: 20,
      ssh_key: { name: 'db-key', fingerprint: expect.stringMatching(/^SHA256:/) },
    })
    expect(third).toMatchObject({ name: 'third', realm_id: 'nova', uuid: third!.id })
    expect(order.instances.map(({ callbacks }) => callbacks.map(({ action }) => action))).toEqual(
      Array(3).fill([RECEIVER]),
    )
    // The callbacks of all three are one hook: they share its lane.
    const { body: hooks } = await api.get<{ hooks: { uri: string; format: string }[] }>('/api/hooks')
    expect(hooks.hooks.filter(({ uri }) => uri === RECEIVER)).toMatchObject([{ format: 'cloud_state' }])
    expect((await api.get<One>(`${INSTANCES}/${uuids[1]}`)).body.instance).toEqual(second)
    const rows = await server.store.db
      .selectFrom('items')
      .select(['number', 'cloud_indexes'])
      .where('order_id', '=', order.id)
      .orderBy('number')
      .execute()
    expect(rows.map(({ cloud_indexes }) => cloud_indexes)).toEqual([null, [1], [1]])
  })

  test('the same uuids with the same content again are the order there is, other content is refused by name', async () => {
    const uuids = [randomUUID(), randomUUID()]
    const instances = [one({ uuid: uuids[0] }), one({ uuid: uuids[1], name: 'two' })]
    const first = await api.post<Order>(ORDERS, { instances }, { expect: 202 })
    const again = await api.post<Order>(ORDERS, { instances }, { expect: 200 })
    expect(again.body.launch_order.id).toBe(first.body.launch_order.id)
    const changed = [instances[0], { ...instances[1], hwp_id: 'large' }]
    const refused = await api.post<ErrorAnswer>(ORDERS, { instances: changed }, { expect: 409 })
    expect(refused.body.error.problems).toEqual([
      { path: 'body.instances[1].uuid', reason: `${uuids[1]} is there with other content` },
    ])
    const more = [...instances, one({ uuid: randomUUID() })]
    const extended = await api.post<ErrorAnswer>(ORDERS, { instances: more }, { expect: 409 })
    expect(extended.body.error.problems).toMatchObject([{ path: 'body.instances[2].uuid' }])
    // Another project has uuids of its own.
    await stranger.post<Order>(ORDERS, { instances: [instances[0]] }, { expect: 202 })
  })

  test('twenty at once with the same uuid make one instance', async () => {
    const uuid = randomUUID()
    const answers = await Promise.all(Array.from({ length: 20 }, () => api.post<One>(INSTANCES, one({ uuid }))))
    expect(new Set(answers.map(({ body }) => body.instance.id)).size).toBe(1)
    expect(answers.filter(({ status }) => status === 202)).toHaveLength(1)
  })

  test('a thousand with one bad entry: nothing is accepted, the answer names it', async () => {
    const instances = Array.from({ length: 1_000 }, (_, i) =>
      one({ name: `n${i}`, ...(i === 700 ? { hwp_id: 'giant' } : {}) }),
    )
    const before = await count()
    const { body } = await api.post<ErrorAnswer>(ORDERS, { instances }, { expect: 400 })
    expect(body.error.problems).toMatchObject([
      { path: 'body.instances[700].hwp_id', reason: 'no cloud of this project has such a size' },
    ])
    expect(await count()).toBe(before)
  })

  test('so many like one', async () => {
    const { body } = await api.post<Order>(
      ORDERS,
      { count: 3, policy: { at_least: 2 }, instances: [one()] },
      { expect: 202 },
    )
    expect(body.launch_order).toMatchObject({ count: 3, policy: { at_least: 2 } })
    expect(body.launch_order.instances.map(({ name }) => name).toSorted()).toEqual(['web-1', 'web-2', 'web-3'])
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['no instance', { instances: [] }, 'body.instances'],
    ['a uuid that is none', { instances: [one({ uuid: 'seven' })] }, 'body.instances[0].uuid'],
    ['a uuid for several', { count: 2, instances: [one({ uuid: randomUUID() })] }, 'body.instances[0].uuid'],
    ['another count', { count: 3, instances: [one(), one()] }, 'body.count'],
    ['more wanted than there are', { policy: { at_least: 2 }, instances: [one()] }, 'body.policy.at_least'],
    ['no such image', { instances: [one({ image_id: 'plan9' })] }, 'body.instances[0].image_id'],
    ['no such cloud', { cloud: 'south', instances: [one()] }, 'body.clouds[0]'],
    ['a callback that is a method', { callback: 'changed!', instances: [one()] }, 'body.callback'],
  ])('%s is refused', async (_, input, path) => {
    const { body } = await api.post<ErrorAnswer>(ORDERS, input, { expect: 400 })
    expect(body.error.problems?.map((problem) => problem.path)).toContain(path)
  })

  test('the same uuid twice in one order is refused', async () => {
    const uuid = randomUUID()
    const { body } = await api.post<ErrorAnswer>(ORDERS, { instances: [one({ uuid }), one({ uuid })] }, { expect: 400 })
    expect(body.error.problems).toMatchObject([{ path: 'body.instances[1].uuid', reason: 'is there twice' }])
  })

  test('a callback may not point where hooks may not', async () => {
    await api.post(ORDERS, { callback: 'http://169.254.169.254/', instances: [one()] }, { expect: 400 })
    await api.post(ORDERS, { callback: 'ftp://example.com/', instances: [one()] }, { expect: 400 })
  })

  test('lists, and nobody sees the orders of others', async () => {
    const { body } = await api.get<{ launch_orders: { href: string }[]; next: string | null }>(`${ORDERS}?limit=1`)
    expect(body.launch_orders).toHaveLength(1)
    expect(body.next).not.toBeNull()
    await stranger.get(body.launch_orders[0]!.href, { expect: 404 })
    await stranger.delete(body.launch_orders[0]!.href, { expect: 404 })
  })

  test('a withdrawn order keeps what runs', async () => {
    const { body } = await api.post<Order>(ORDERS, { instances: [one(), one()] })
    await api.delete(body.launch_order.href, { expect: 202 })
    const { body: native } = await api.get<{ launch_order: { wish: string } }>(
      `/api/launch-orders/${body.launch_order.id}`,
    )
    expect(native.launch_order.wish).toBe('withdraw')
    await api.delete(`${body.launch_order.href}?terminate=true`, { expect: 202 })
    const { body: ended } = await api.get<{ launch_order: { wish: string } }>(
      `/api/launch-orders/${body.launch_order.id}`,
    )
    expect(ended.launch_order.wish).toBe('cancel')
  })
})

const count = async () => {
  const { n } = await server.store.db
    .selectFrom('instances')
    .select((e) => e.fn.countAll<number>().as('n'))
    .executeTakeFirstOrThrow()
  return Number(n)
}

describe('instances', () => {
  test('are read by id and uuid, by their owner alone', async () => {
    const uuid = randomUUID()
    const instance = await launch({ uuid })
    expect((await api.get<One>(`${INSTANCES}/${uuid.toUpperCase()}`)).body.instance).toEqual(instance)
    expect((await api.get<One>(instance.href)).body.instance).toEqual(instance)
    for (const path of [uuid, instance.id]) await stranger.get(`${INSTANCES}/${path}`, { expect: 404 })
    await api.get(`${INSTANCES}/seven`, { expect: 404 })
    const { body } = await api.get<{ instances: Shown[] }>(`${INSTANCES}?state=pending&limit=1`)
    expect(body.instances[0]).toEqual(instance)
    await api.get(`${INSTANCES}?state=asleep`, { expect: 400 })
  })

  test('a name and callbacks may be changed, a state not', async () => {
    const instance = await launch({ callback: RECEIVER })
    const { body } = await api.put<One>(instance.href, {
      name: 'renamed',
      callbacks: [`${RECEIVER}/2`, `${RECEIVER}/3`],
    })
    expect(body.instance).toMatchObject({ name: 'renamed' })
    expect(body.instance.callbacks.map(({ action }) => action)).toEqual([`${RECEIVER}/2`, `${RECEIVER}/3`])
    const refused = await api.put<ErrorAnswer>(instance.href, { state: 'running' }, { expect: 400 })
    expect(refused.body.error.problems).toMatchObject([{ path: 'body.state' }])
    await stranger.put(instance.href, { name: 'mine' }, { expect: 404 })
  })

  test('one that lives is not deleted without saying so', async () => {
    const instance = await launch({ callback: RECEIVER })
    await api.delete(instance.href, { expect: 409 })
    await api.delete(`${instance.href}?terminate=true`, { expect: 202 })
    await server.store.db.updateTable('instances').set({ state: 'terminated' }).where('id', '=', instance.id).execute()
    await api.delete(instance.href, { expect: 204 })
    await api.get(instance.href, { expect: 404 })
    await api.get(instance.callbacks[0]!.href, { expect: 404 })
    await api.get(`/api/instances/${instance.id}`, { expect: 200 })
  })

  test('actions are named as this dialect names them, and refused with state and what is allowed', async () => {
    const instance = await launch()
    const refused = await api.post<ErrorAnswer>(`${instance.href}/actions`, { action: 'stop' }, { expect: 409 })
    expect(refused.body.error.message).toBe('a stop is not for an instance that is pending; allowed: terminate')
    await api.post(`${instance.href}/actions`, { action: 'explode' }, { expect: 400 })
    const { body } = await api.post<{ action: { href: string; action: string } }>(
      `${instance.href}/actions`,
      { action: 'destroy' },
      { expect: 202 },
    )
    expect(body.action.action).toBe('destroy')
    expect((await api.get<typeof body>(body.action.href)).body).toEqual(body)
  })

  test('its private key is given out once', async () => {
    const instance = await launch()
    await stranger.get(instance.ssh_key!.href, { expect: 404 })
    const reader = await server.client('web', 'reader')
    await reader.get(instance.ssh_key!.href, { expect: 403 })
    await api.request('HEAD', instance.ssh_key!.href)
    const { body: pem } = await api.get<string>(instance.ssh_key!.href)
    const { public_key } = await server.store.db
      .selectFrom('ssh_keys')
      .select('public_key')
      .where('instance_id', '=', instance.id)
      .executeTakeFirstOrThrow()
    const { x } = createPublicKey(createPrivateKey(pem)).export({ format: 'jwk' })
    const blob = Buffer.from(public_key.split(' ')[1]!, 'base64')
    expect(blob.subarray(-32).toString('base64url')).toBe(x)
    await api.get(instance.ssh_key!.href, { expect: 410 })
    const with_key = await launch({ keyname: 'mine' })
    await api.get(`${with_key.href}/ssh_key`, { expect: 404 })
  })
})

describe('callbacks', () => {
  test('are registered by id or uuid, and the same again is the one there is', async () => {
    const uuid = randomUUID()
    const { id } = await launch({ uuid })
    const by_uuid = await api.post<Callback>(CALLBACKS, { instance_uuid: uuid, action: RECEIVER }, { expect: 201 })
    const by_id = await api.post<Callback>(CALLBACKS, { instance_id: id, uri: RECEIVER }, { expect: 201 })
    expect(by_id.body).toEqual(by_uuid.body)
    expect(by_id.headers.get('location')).toBe(by_id.body.callback.href)
    const both = { instance_id: id, instance_uuid: uuid, action: RECEIVER }
    expect((await api.post<Callback>(CALLBACKS, both)).body).toEqual(by_id.body)
    const other = await launch()
    await api.post(CALLBACKS, { ...both, instance_id: other.id }, { expect: 400 })
    const { body } = await api.get<{ callbacks: unknown[] }>(`${CALLBACKS}?instance_uuid=${uuid}`)
    expect(body.callbacks).toEqual([by_id.body.callback])
  })

  test('are redirected and removed; a lane with nobody on it ends', async () => {
    const { id } = await launch()
    const address = `${RECEIVER}/${randomUUID()}`
    const { body } = await api.post<Callback>(CALLBACKS, { instance_id: id, action: address })
    const moved = await api.put<Callback>(body.callback.href, { action: `${address}/b` })
    expect(moved.body.callback).toMatchObject({ id: body.callback.id, action: `${address}/b` })
    const uris = async () =>
      (await api.get<{ hooks: { uri: string }[] }>('/api/hooks')).body.hooks.map(({ uri }) => uri)
    expect(await uris()).toContain(`${address}/b`)
    expect(await uris()).not.toContain(address)
    await stranger.get(body.callback.href, { expect: 404 })
    await stranger.put(body.callback.href, { action: address }, { expect: 404 })
    await stranger.delete(body.callback.href, { expect: 404 })
    await api.delete(body.callback.href, { expect: 204 })
    await api.delete(body.callback.href, { expect: 404 })
    expect(await uris()).not.toContain(`${address}/b`)
  })

  test.each([
    ['an unknown instance', { instance_id: randomUUID(), action: RECEIVER }, 404],
    ['no instance', { action: RECEIVER }, 400],
    ['no address', { instance_id: randomUUID() }, 400],
    ['the name of a method', { instance_id: randomUUID(), action: 'instance_changed' }, 400],
    ['two addresses', { instance_id: randomUUID(), action: RECEIVER, uri: `${RECEIVER}/2` }, 400],
  ])('%s is refused', async (_, input, status) => {
    await api.post(CALLBACKS, input, { expect: status })
  })
})
