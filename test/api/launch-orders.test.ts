/** Launch orders over the wire. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'

interface Order {
  launch_order: {
    id: string
    href: string
    name: string
    state: string
    count: number
    counts: Record<string, number>
    clouds: string[]
    user_data: boolean
    wish: string
    sequence: number
    deployment: { id: string; name: string; href: string }
    created_at: string
  }
}

const ORDER = { name: 'web', count: 2, size: 'small', image: 'debian' }

let server: ApiServer
let api: ApiClient

beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.cloud('east', ['web'], { priority: 5 })
  await server.cloud('west', ['web'], { sizes: { small: 'm1.small', large: 'm1.large' } })
})
afterAll(() => server.close())

describe('happy', () => {
  test('an order is accepted with what a later look shows', async () => {
    const { body, headers } = await api.post<Order>('/api/launch-orders', ORDER, { expect: 202 })
    const order = body.launch_order
    expect(order).toMatchObject({ state: 'queued', counts: { queued: 2 }, clouds: ['east', 'west'] })
    expect(headers.get('location')).toBe(order.href)
    expect(headers.get('etag')).toBe('"1"')
    const read = await api.get<Order>(order.href)
    expect(read.body).toEqual(body)
    expect(server.accepted.at(-1)).toMatchObject({ order_id: order.id })
  })

  test('it comes in its envelope as well, and names its deployment', async () => {
    const input = { ...ORDER, count: 1, deployment: 'shop', clouds: ['west', 'east'], policy: 'any', priority: 3 }
    const { body } = await api.post<Order>('/api/launch-orders', { launch_order: input })
    expect(body.launch_order).toMatchObject({ clouds: ['west', 'east'], deployment: { name: 'shop' } })
    const again = await api.post<Order>('/api/launch-orders', input)
    expect(again.body.launch_order.deployment).toEqual(body.launch_order.deployment)
    const { body: list } = await api.get<{ launch_orders: { id: string }[] }>(
      `/api/launch-orders?deployment_id=${body.launch_order.deployment.id}`,
    )
    expect(list.launch_orders.map((order) => order.id)).toEqual([again.body.launch_order.id, body.launch_order.id])
  })

  test('only clouds that offer size and image are chosen by default', async () => {
    const { body } = await api.post<Order>('/api/launch-orders', { ...ORDER, size: 'large' })
    expect(body.launch_order.clouds).toEqual(['west'])
  })

  test('its instances stand in its list, page by page, and resolve by both addresses', async () => {
    const { body } = await api.post<Order>('/api/launch-orders', { ...ORDER, count: 5 })
    const seen: string[] = []
    for (let path: string | null = `${body.launch_order.href}/instances?limit=2`; path; ) {
      const page: { instances: { id: string; href: string }[]; next: string | null } = (
        await api.get<{ instances: { id: string; href: string }[]; next: string | null }>(path)
      ).body
      expect(page.instances.length).toBeLessThanOrEqual(2)
      seen.push(...page.instances.map((instance) => instance.id))
      path = page.next && `${body.launch_order.href}/instances?limit=2&cursor=${page.next}`
    }
    expect(new Set(seen).size).toBe(5)
    expect(seen).toEqual(seen.toSorted().toReversed())
    const one = await api.get<{ instance: { id: string; href: string } }>(`/api/instances/${seen[0]}`)
    const same = await api.get(one.body.instance.href)
    expect(same.body).toEqual(one.body)
    await api.get(`/api/deployments/${body.launch_order.id}/instances/${seen[0]}`, { expect: 404 })
  })

  test.each([
    ['DELETE', ''],
    ['POST', '/cancel'],
  ])('%s ends it; a repeat changes nothing', async (method, suffix) => {
    const { body } = await api.post<Order>('/api/launch-orders', ORDER)
    const path = body.launch_order.href + suffix
    const first = await api.request<Order>(method, path, undefined, { expect: 202 })
    expect(first.body.launch_order).toMatchObject({ wish: 'cancel', sequence: 2 })
    const second = await api.request<Order>(method, path, undefined, { expect: 202 })
    expect(second.body).toEqual(first.body)
  })

  test('user data is kept sealed and never shown', async () => {
    const { body } = await api.post<Order>('/api/launch-orders', { ...ORDER, user_data: 'the-secret-word' })
    expect(body.launch_order.user_data).toBe(true)
    expect(JSON.stringify((await api.get(body.launch_order.href)).body)).not.toContain('the-secret-word')
    const row = await server.store.db
      .selectFrom('launch_orders')
      .select('sealed_user_data')
      .where('id', '=', body.launch_order.id)
      .executeTakeFirstOrThrow()
    expect(row.sealed_user_data!.includes('the-secret-word')).toBe(false)
    expect(server.envelope.open(row.sealed_user_data!, 'user_data')).toBe('the-secret-word')
  })

  test('accepting takes three round trips at most', async () => {
    const counted = await countQueries(() => api.post('/api/launch-orders', { ...ORDER, count: 100 }))
    expect(counted).toBe(3)
    const keyed = await countQueries(() => api.post('/api/launch-orders', ORDER, { key: 'trips' }))
    expect(keyed).toBe(3)
  })
})

describe('error', () => {
  test.each([
    [{ size: 'huge' }, 'body.size', ['small', 'large']],
    [{ image: 'windows' }, 'body.image', ['debian']],
    [{ clouds: ['east', 'north'] }, 'body.clouds[1]', ['east', 'west']],
    [{ clouds: ['east'], size: 'large' }, 'body.size', ['small']],
    [{ clouds: ['east', 'east'] }, 'body.clouds', undefined],
    [{ clouds: [] }, 'body.clouds', ['at least 1']],
    [{ count: 0 }, 'body.count', ['at least 1']],
    [{ count: 1_001 }, 'body.count', ['at most 1000']],
    [{ count: 1.5 }, 'body.count', undefined],
    [{ policy: 'most' }, 'body.policy', ['all', 'at_least', 'any']],
    [{ policy: 'at_least' }, 'body.at_least', undefined],
    [{ policy: 'at_least', at_least: 3 }, 'body.at_least', undefined],
    [{ at_least: 1 }, 'body.at_least', undefined],
    [{ name: 'a\nb' }, 'body.name', undefined],
    [{ name: 'a\0b' }, 'body.name', undefined],
    [{ name: '\ud800' }, 'body.name', undefined],
    [{ extra: { a: 1 } }, 'body.extra.a', undefined],
    [{ colour: 'red' }, 'body.colour', undefined],
    [{ user_data: 'x'.repeat(65_537) }, 'body.user_data', undefined],
  ])('%j is refused with place, reason and what is accepted, and changes nothing', async (change, path, accepted) => {
    const before = await countOrders()
    const { body } = await api.post<ErrorAnswer>('/api/launch-orders', { ...ORDER, ...change }, { expect: 400 })
    const problem = body.error.problems?.find((found) => found.path === path)
    expect(problem, JSON.stringify(body)).toBeDefined()
    if (accepted) expect(problem!.accepted).toEqual(accepted)
    expect(body.error.message).toContain(body.error.problems![0]!.path)
    expect(await countOrders()).toBe(before)
  })

  test('an unknown field names those there are', async () => {
    const { body } = await api.post<ErrorAnswer>('/api/launch-orders', { ...ORDER, siz: 'small' }, { expect: 400 })
    expect(body.error.problems![0]!.accepted).toContain('size')
  })

  test('a project without clouds learns that', async () => {
    const { body } = await (await server.client('bare')).post<ErrorAnswer>('/api/launch-orders', ORDER, { expect: 400 })
    expect(body.error.message).toContain('no cloud')
  })

  test('If-Match of another version refuses the end', async () => {
    const { body } = await api.post<Order>('/api/launch-orders', ORDER)
    await api.delete(body.launch_order.href, { if_match: '"7"', expect: 412 })
    await api.delete(body.launch_order.href, { if_match: 'seven', expect: 400 })
    await api.delete(body.launch_order.href, { if_match: '"1"', expect: 202 })
  })
})

describe('security', () => {
  test("another project's order is not there, for any route", async () => {
    const { body } = await api.post<Order>('/api/launch-orders', ORDER)
    const other = await server.client('other')
    for (const suffix of ['', '/instances', '/attempts', '/explain'])
      await other.get(body.launch_order.href + suffix, { expect: 404 })
    await other.delete(body.launch_order.href, { expect: 404 })
    await other.post(`${body.launch_order.href}/cancel`, undefined, { expect: 404 })
    expect((await other.get<{ launch_orders: unknown[] }>('/api/launch-orders')).body.launch_orders).toEqual([])
  })

  test('a reader reads and does not write', async () => {
    const reader = await server.client('web', 'reader')
    await reader.get('/api/launch-orders')
    await reader.post('/api/launch-orders', ORDER, { expect: 403 })
  })
})

async function countOrders(): Promise<number> {
  const row = await server.store.db
    .selectFrom('launch_orders')
    .select((e) => e.fn.countAll<number>().as('count'))
    .executeTakeFirstOrThrow()
  return Number(row.count)
}

/** Statements sent to the record while `job` runs. */
async function countQueries(job: () => Promise<unknown>): Promise<number> {
  const { Client } = (await import('pg')).default
  const original = Client.prototype.query
  let count = 0
  const counting = function (this: unknown, ...parameters: unknown[]) {
    const [query] = parameters as [{ text?: string } | string]
    // Hints follow the commit and are not waited for.
    if (!/pg_notify/.test(typeof query === 'string' ? query : (query?.text ?? ''))) count++
    return Reflect.apply(original, this, parameters)
  }
  Client.prototype.query = counting as typeof original
  try {
    await job()
  } finally {
    Client.prototype.query = original
  }
  return count
}
