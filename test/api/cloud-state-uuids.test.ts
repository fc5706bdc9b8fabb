/** Cloud State: whose uuid is which instance, and when it is taken. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { INSTANCES, ORDERS, one } from '../support/cloud-state.ts'

interface One {
  readonly instance: { readonly id: string; readonly uuid: string; readonly href: string; readonly name: string }
}
interface Order {
  readonly launch_order: { readonly id: string; readonly instances: readonly One['instance'][] }
}

let server: ApiServer
let api: ApiClient
let other: ApiClient
beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  other = await server.client('other')
  await server.cloud('east', ['web', 'other'])
})
afterAll(() => server.close())

test('the uuid of one of several is answered with that one', async () => {
  const uuids = [randomUUID(), randomUUID(), randomUUID()]
  const instances = uuids.map((uuid, i) => one({ uuid, name: `n${i}` }))
  await api.post<Order>(ORDERS, { instances }, { expect: 202 })
  for (const [i, uuid] of uuids.entries()) {
    const { body, headers } = await api.post<One>(INSTANCES, instances[i], { expect: 200 })
    expect(body.instance).toMatchObject({ uuid, name: `n${i}` })
    expect(headers.get('location')).toBe(body.instance.href)
    expect((await api.get<One>(`${INSTANCES}/${uuid}`)).body).toEqual(body)
  }
})

describe('a uuid made here', () => {
  test('with the same content is the instance there is, with other content taken', async () => {
    const made = (await api.post<One>(INSTANCES, one(), { expect: 202 })).body.instance
    expect(made.uuid).toBe(made.id)
    const again = await api.post<One>(INSTANCES, one({ uuid: made.uuid.toUpperCase() }), { expect: 200 })
    expect(again.body.instance).toEqual(made)
    const { body } = await api.post<ErrorAnswer>(INSTANCES, one({ uuid: made.uuid, name: 'b' }), { expect: 409 })
    expect(body.error.problems).toEqual([
      { path: 'body.instances[0].uuid', reason: `${made.uuid} is there with other content` },
    ])
  })

  test('of so many like one is known by the name it was given', async () => {
    const { body } = await api.post<Order>(ORDERS, { count: 2, instances: [one()] }, { expect: 202 })
    const instances = body.launch_order.instances.map(({ uuid, name }) => one({ uuid, name }))
    const again = await api.post<Order>(ORDERS, { instances }, { expect: 200 })
    expect(again.body.launch_order.id).toBe(body.launch_order.id)
  })

  test('is nothing to another project', async () => {
    const made = (await api.post<One>(INSTANCES, one(), { expect: 202 })).body.instance
    const theirs = await other.post<One>(INSTANCES, one({ uuid: made.uuid }), { expect: 202 })
    expect(theirs.body.instance.id).not.toBe(made.id)
  })

  test('is known where the instance was ordered in another dialect', async () => {
    const order = { name: 'web', count: 1, size: 'small', image: 'debian' }
    const { body } = await api.post<{ launch_order: { id: string } }>('/api/launch-orders', order, { expect: 202 })
    const list = await api.get<{ instances: { id: string }[] }>(`/api/launch-orders/${body.launch_order.id}/instances`)
    await api.post(INSTANCES, one({ uuid: list.body.instances[0]!.id }), { expect: 409 })
  })
})

test.each([
  ['the caller gave', () => randomUUID()],
  ['was made here', () => undefined],
])('a uuid that %s is taken for good when its instance was deleted', async (_, give) => {
  const sent = one({ uuid: give() })
  const { uuid, id, href } = (await api.post<One>(INSTANCES, sent, { expect: 202 })).body.instance
  await server.store.db.updateTable('instances').set({ state: 'terminated' }).where('id', '=', id).execute()
  await api.delete(href, { expect: 204 })
  for (const [path, body] of [
    [INSTANCES, { ...sent, uuid }],
    [ORDERS, { instances: [{ ...sent, uuid }] }],
  ] as const) {
    const refused = await api.post<ErrorAnswer>(path, body, { expect: 409 })
    expect(refused.body.error.message).toBe(`uuid ${uuid} was used by an instance that was deleted; use a new one`)
    expect(refused.body.error.problems).toMatchObject([{ path: 'body.instances[0].uuid' }])
  }
})
