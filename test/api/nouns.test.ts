/** Leases, hooks, deliveries, clouds, projects and tokens over the wire. */
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ApiClient, type ErrorAnswer, openApiClient } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'

let server: ApiServer
let api: ApiClient

beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.cloud('east', ['web'])
})
afterAll(() => server.close())

const later = (hours: number): string => new Date(Date.now() + hours * 3_600_000).toISOString()
const problemOf = (answer: { body: ErrorAnswer }) => answer.body.error.problems?.[0]

describe('leases', () => {
  interface Lease {
    lease: {
      id: string
      href: string
      state: string
      name: string
      start_at: string
      end_at: string
      before_end_at: string | null
      order: Record<string, unknown> | null
      events: { type: string; time: string; status: string }[]
      sequence: number
      wish: string
    }
  }
  const make = (change: object = {}) =>
    api.post<Lease>('/api/leases', { name: 'night', start_at: later(1), end_at: later(3), ...change })

  test('begin with what they will launch and when they act', async () => {
    const { body } = await make({ before_end_minutes: 30, order: { size: 'small', image: 'debian', count: 2 } })
    expect(body.lease).toMatchObject({ state: 'PENDING', order: { name: 'night', clouds: ['east'], count: 2 } })
    const types = body.lease.events.map((event) => event.type)
    expect(types).toEqual(['start_lease', 'before_end_lease', 'end_lease'])
    expect(Date.parse(body.lease.end_at) - Date.parse(body.lease.before_end_at!)).toBe(30 * 60_000)
    expect((await api.get<Lease>(body.lease.href)).body).toEqual(body)
  })

  test('take "now", and moments of any zone', async () => {
    const { body } = await make({ start_at: 'now', end_at: '2099-06-01T12:00:00+02:00' })
    expect(body.lease.end_at).toBe('2099-06-01T10:00:00.000Z')
  })

  test.each(['patch', 'put'] as const)('are renamed, extended and shortened with %s', async (method) => {
    const { body } = await make()
    const end_at = later(5)
    const changed = await api[method]<Lease>(body.lease.href, { lease: { end_at, name: 'day' } })
    expect(changed.body.lease).toMatchObject({ name: 'day', end_at, sequence: 2, start_at: body.lease.start_at })
  })

  test('end when deleted; again is the same', async () => {
    const { body } = await make()
    const ended = await api.delete<Lease>(body.lease.href, { expect: 202 })
    expect(ended.body.lease.wish).toBe('end')
    await api.delete(body.lease.href, { expect: 202 })
    await api.patch(body.lease.href, { name: 'late' }, { expect: 409 })
  })

  test.each([
    [{ end_at: later(0.5) }, 'end_at'],
    [{ start_at: 'tomorrow' }, 'start_at'],
    [{ start_at: '2026-01-01T10:00:00' }, 'start_at'],
    [{ end_at: '0000-01-01T00:00:00Z' }, 'end_at'],
    [{ end_at: '9999-12-31T23:59:59Z' }, 'end_at'],
    [{ before_end_at: later(9) }, 'before_end_at'],
    [{ before_end_at: later(2), before_end_minutes: 5 }, 'before_end_minutes'],
    [{ order: { size: 'huge', image: 'debian' } }, 'body.order.size'],
    [{ order: { size: 'small', image: 'debian', user_data: 'x' } }, 'body.order.user_data'],
  ])('with %j are refused', async (change, path) => {
    const answer = await api.post<ErrorAnswer>(
      '/api/leases',
      { name: 'night', start_at: later(1), end_at: later(3), ...change },
      { expect: 400 },
    )
    expect(problemOf(answer)?.path).toContain(path)
  })
})

describe('hooks and deliveries', () => {
  interface Hook {
    hook: { id: string; href: string; uri: string; state: string; secret?: string; filter: object; sequence: number }
  }
  interface Deliveries {
    deliveries: { id: number; href: string; state: string; hook_id: string; event_type: string; resource_id: string }[]
    next: string | null
  }

  test('give their secret once; the same again is the same hook without it', async () => {
    const input = { uri: 'https://example.com/once', filter: { types: ['order.*'] } }
    const first = await api.post<Hook>('/api/hooks', { hook: input }, { expect: 201 })
    expect(first.body.hook.secret).toMatch(/^whsec_/)
    const second = await api.post<Hook>('/api/hooks', input, { expect: 200 })
    expect(second.body.hook).toEqual({ ...first.body.hook, secret: undefined })
    expect((await api.get<Hook>(first.body.hook.href)).body.hook.secret).toBeUndefined()
  })

  test('are changed, disabled, enabled and deleted', async () => {
    const { href } = (await api.post<Hook>('/api/hooks', { uri: 'https://example.com/life' })).body.hook
    const changed = await api.patch<Hook>(href, { timeout_ms: 5_000, filter: { resource_type: 'lease' } })
    expect(changed.body.hook).toMatchObject({ sequence: 2, filter: { resource_type: 'lease' } })
    expect((await api.post<Hook>(`${href}/disable`)).body.hook.state).toBe('disabled')
    expect((await api.post<Hook>(`${href}/enable`)).body.hook.state).toBe('active')
    await api.delete(href, { expect: 204 })
    await api.get(href, { expect: 404 })
    await api.delete(href, { expect: 404 })
  })

  test('have the default schedule of retries, or their own', async () => {
    const hookOf = async (input: object, expect = 201) =>
      (await api.post<{ hook: Hook['hook'] & { schedule_ms: unknown } }>('/api/hooks', input, { expect })).body.hook
    expect(await hookOf({ uri: 'https://example.com/default' })).toMatchObject({ schedule_ms: null })
    const { href } = await hookOf({ uri: 'https://example.com/own', schedule_ms: [1_000, 5_000] })
    const same = await api.patch<Hook>(href, { schedule_ms: [1_000, 5_000] })
    expect(same.body.hook).toMatchObject({ sequence: 1, schedule_ms: [1_000, 5_000] })
    expect((await api.patch<Hook>(href, { schedule_ms: [1_000] })).body.hook).toMatchObject({ sequence: 2 })
    expect((await api.patch<Hook>(href, { schedule_ms: null })).body.hook).toMatchObject({ schedule_ms: null })
    for (const schedule_ms of [[], [999], [86_400_001], Array(21).fill(1_000), Array(8).fill(86_400_000), '1000']) {
      await api.patch(href, { schedule_ms }, { expect: 400 })
    }
  })

  test.each([
    'http://8.8.8.8/',
    'https://nodots/',
    'https://printer.local/',
    'https://169.254.169.254/',
    'https://user:word@example.com/',
    'ftp://example.com/',
    'example.com',
    'https://10.0.0.1/',
  ])('at %s are refused', async (uri) => {
    await api.post('/api/hooks', { uri }, { expect: 400 })
  })

  test('are 50 a project at most', async () => {
    const crowd = await server.client('crowd')
    for (let i = 0; i < 50; i++) await crowd.post('/api/hooks', { uri: `https://example.com/${i}` })
    await crowd.post('/api/hooks', { uri: 'https://example.com/51' }, { expect: 429 })
  })

  test('get deliveries, which are listed by hook, state and resource, cancelled and sent again', async () => {
    const { hook } = (
      await api.post<Hook>('/api/hooks', { uri: 'https://example.com/d', filter: { types: ['lease.*'] } })
    ).body
    const lease = await api.post<{ lease: { id: string } }>('/api/leases', {
      name: 'd',
      start_at: later(1),
      end_at: later(2),
    })
    const path = `/api/deliveries?hook_id=${hook.id}&state=pending&resource_id=${lease.body.lease.id}`
    const [delivery] = (await api.get<Deliveries>(path)).body.deliveries
    expect(delivery).toMatchObject({ event_type: 'lease.created', state: 'pending' })
    const cancelled = await api.post<{ delivery: { state: string } }>(`${delivery!.href}/cancel`)
    expect(cancelled.body.delivery.state).toBe('cancelled')
    const retried = await api.post<{ delivery: { state: string } }>(`${delivery!.href}/retry`, undefined, { key: 'r' })
    expect(retried.body.delivery.state).toBe('pending')
    await api.post(`${delivery!.href}/retry`, undefined, { key: 'r' })
    expect((await api.get<{ attempts: unknown[] }>(`${delivery!.href}/attempts`)).body.attempts).toEqual([])
  })
})

describe('clouds', () => {
  interface Cloud {
    cloud: { name: string; endpoint: string | null; credential: boolean; allocation: number | null; sequence: number }
  }
  const input = {
    name: 'north',
    provider: 'simulated',
    endpoint: 'https://north.example.com/v3',
    credential: 'pass-word',
  }

  test('are made with a sealed credential, an event, and a wake for their watcher', async () => {
    const { body } = await server.operator.post<Cloud>('/api/clouds', { cloud: input }, { expect: 201 })
    expect(body.cloud).toMatchObject({ credential: true, sequence: 1 })
    const { rows } = await sql<{ credential: string; woken: number; events: number }>`
      select credentials::text as credential, (select count(*)::int from outbox where target = 'cloud/north') as woken,
        (select count(*)::int from events where resource_id = clouds.id) as events
      from clouds join credentials on credentials.id = credential_id where clouds.name = 'north'`.execute(
      server.store.db,
    )
    expect(rows[0]).toMatchObject({ woken: 1, events: 1 })
    expect(rows[0]!.credential).not.toContain(Buffer.from('pass-word').toString('hex'))
    await server.operator.post('/api/clouds', { ...input, endpoint: 'https://other.example.com' }, { expect: 409 })
  })

  test('are changed: what is left out stays', async () => {
    await server.operator.post('/api/clouds', { ...input, name: 'south', allocation: 4 })
    const changed = await server.operator.patch<Cloud>('/api/clouds/south', { enabled: false, sizes: { big: 'b1' } })
    expect(changed.body.cloud).toMatchObject({ enabled: false, allocation: 4, sizes: { big: 'b1' }, sequence: 2 })
    const same = await server.operator.put<Cloud>('/api/clouds/south', { enabled: false })
    expect(same.body.cloud.sequence).toBe(2)
    const unlimited = await server.operator.patch<Cloud>('/api/clouds/south', { allocation: null })
    expect(unlimited.body.cloud.allocation).toBeNull()
  })

  test('are seen by projects they are granted to, without what is for operators', async () => {
    await server.operator.post('/api/clouds', { ...input, name: 'granted' })
    await api.get('/api/clouds/granted', { expect: 404 })
    await server.operator.put('/api/clouds/granted/grants/web', undefined, { key: 'grant' })
    await server.operator.put('/api/clouds/granted/grants/web', undefined, { key: 'grant' })
    expect((await api.get<Cloud>('/api/clouds/granted')).body.cloud).toMatchObject({ endpoint: null, settings: null })
    const { body } = await server.operator.get<{ grants: { project: string }[] }>('/api/clouds/granted/grants')
    expect(body.grants.map((grant) => grant.project)).toEqual(['default', 'web'])
    await server.operator.delete('/api/clouds/granted/grants/web', { expect: 204 })
    await api.get('/api/clouds/granted', { expect: 404 })
    await server.operator.put('/api/clouds/granted/grants/nobody', undefined, { expect: 404 })
  })

  test.each([
    [{ provider: 'none' }, 'body.provider', ['simulated']],
    [{ endpoint: 'file:///etc/passwd' }, 'body.endpoint', undefined],
    [{ endpoint: 'https://a:b@example.com' }, 'body.endpoint', undefined],
    [{ name: 'a/b' }, 'body.name', undefined],
    [{ allocation: -1 }, 'body.allocation', undefined],
    [{ allocation: 2 ** 31 }, 'body.allocation', undefined],
    [{ sizes: { a: 1 } }, 'body.sizes.a', undefined],
    [{ settings: { calls_per_s: 0 } }, 'body.settings.calls_per_s', undefined],
    [{ settings: { settle_ms: 'soon' } }, 'body.settings.settle_ms', undefined],
    [{ settings: { settle_time: 1 } }, 'body.settings.settle_time', expect.arrayContaining(['settle_ms'])],
  ])('with %j are refused', async (change, path, accepted) => {
    const answer = await server.operator.post<ErrorAnswer>(
      '/api/clouds',
      { ...input, name: 'bad', ...change },
      { expect: 400 },
    )
    expect(problemOf(answer)?.path).toBe(path)
    if (accepted) expect(problemOf(answer)?.accepted).toEqual(accepted)
  })

  test('are not changed to what their adapter cannot work with', async () => {
    await server.operator.post('/api/clouds', { ...input, name: 'steady', settings: { settle_ms: 1 } })
    const settings = { settle_ms: 2, calls_per_s: -1 }
    const answer = await server.operator.patch<ErrorAnswer>('/api/clouds/steady', { settings }, { expect: 400 })
    expect(problemOf(answer)?.path).toBe('body.settings.calls_per_s')
    const { body } = await server.operator.get<{ cloud: object }>('/api/clouds/steady')
    expect(body.cloud).toMatchObject({ settings: { settle_ms: 1 }, sequence: 1 })
  })

  test('show machines that belong to nothing, page by page', async () => {
    await sql`insert into orphans (cloud_id, provider_id, tag, raw_state)
      select id, 'srv-' || n, null, 'ACTIVE' from clouds, generate_series(1, 3) n where name = 'east'`.execute(
      server.store.db,
    )
    interface Page {
      orphans: { provider_id: string }[]
      next: string | null
    }
    const first = (await server.operator.get<Page>('/api/clouds/east/orphans?limit=2')).body
    const second = (await server.operator.get<Page>(`/api/clouds/east/orphans?limit=2&cursor=${first.next}`)).body
    expect([...first.orphans, ...second.orphans].map((orphan) => orphan.provider_id)).toEqual([
      'srv-1',
      'srv-2',
      'srv-3',
    ])
    expect(second.next).toBeNull()
  })
})

describe('projects and tokens', () => {
  interface Token {
    token: { id: string; text: string; role: string; revoked_at: string | null }
  }

  test('a token works at once, in three forms, until it is revoked', async () => {
    await server.operator.post('/api/projects', { name: 'fresh' })
    await server.operator.post('/api/projects', { name: 'fresh' }, { expect: 409 })
    const { body } = await server.operator.post<Token>('/api/tokens', { project: 'fresh', role: 'member', user: 'ann' })
    const { id, text } = body.token
    const forms: Record<string, string>[] = [
      { authorization: `Bearer ${text}` },
      { authorization: `bearer ${text}` },
      { 'x-auth-token': text },
      { authorization: `Basic ${Buffer.from(`anyone:${text}`).toString('base64')}` },
    ]
    const nobody = openApiClient(server.url, null)
    for (const headers of forms) await nobody.get('/api/launch-orders', { headers })
    expect((await server.operator.get<Token>(`/api/tokens/${id}`)).body.token.text).toBeUndefined()
    await server.operator.delete(`/api/tokens/${id}`, { expect: 204 })
    await server.operator.delete(`/api/tokens/${id}`, { expect: 204 })
    for (const headers of forms) await nobody.get('/api/launch-orders', { headers, expect: 401 })
  })

  test('one that expired is none', async () => {
    const token = await server.token('web', 'member', { expires_at: new Date(Date.now() - 1_000) })
    await openApiClient(server.url, token).get('/api/hooks', { expect: 401 })
  })

  test('a monitor with the grant may act on instances, and nothing else', async () => {
    await api.post('/api/launch-orders', { name: 'w', size: 'small', image: 'debian' })
    const list = await api.get<{ instances: { id: string }[] }>('/api/instances')
    const path = `/api/instances/${list.body.instances[0]!.id}/actions`
    const plain = await server.client('web', 'monitor')
    await plain.post(path, { action: 'terminate' }, { expect: 403 })
    const acting = openApiClient(server.url, await server.token('web', 'monitor', { grants: ['act'] }))
    await acting.post(path, { action: 'terminate' })
    await acting.post('/api/hooks', { uri: 'https://example.com' }, { expect: 403 })
    await acting.get('/api/instances')
  })

  test('only the hash of a token is on record', async () => {
    const token = await server.token('web', 'member')
    const { rows } = await sql<{ row: string }>`select tokens::text as row from tokens`.execute(server.store.db)
    expect(rows.some(({ row }) => row.includes(token) || row.includes(Buffer.from(token).toString('hex')))).toBe(false)
  })
})
