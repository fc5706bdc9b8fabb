/** Actions on whole deployments, as they are asked for: who may, when, and what the same request again is. */
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

interface Made {
  readonly action: {
    readonly id: string
    readonly href: string
    readonly action: string
    readonly state: string
    readonly wave_size: number | null
    readonly counts: Readonly<Record<string, number>>
  }
  readonly actions: readonly Made['action'][]
  readonly next: string | null
}

/** A deployment whose instances are in these states; no flow looks after it. */
async function deployment(...states: readonly string[]): Promise<{ id: string; path: string }> {
  const order = { name: 'w', size: 'small', image: 'debian', count: states.length }
  const { body } = await api.post<{ launch_order: { id: string; deployment: { id: string } } }>(
    '/api/launch-orders',
    order,
  )
  const { id: order_id } = body.launch_order
  const { id } = body.launch_order.deployment
  await sql`
    update instances set state = (${[...states]}::text[])[items.number] from items
    where items.instance_id = instances.id and items.order_id = ${order_id}`.execute(server.store.db)
  await sql`update launch_orders set state = 'running' where id = ${order_id}`.execute(server.store.db)
  await sql`update deployments set state = 'running' where id = ${id}`.execute(server.store.db)
  return { id, path: `/api/deployments/${id}/actions` }
}

const ask = async (path: string, body: unknown, options?: { key?: string }) =>
  (await api.post<Made>(path, body, options)).body.action

test('one is made, told, listed and read', async () => {
  const { id, path } = await deployment('running', 'running', 'stopped')
  const { body, headers } = await api.post<Made>(path, { action: 'restart', wave_size: 2 }, { expect: 202 })
  expect(body.action).toMatchObject({
    action: 'restart',
    state: 'running',
    wave_size: 2,
    counts: { waiting: 3, open: 0, done: 0, failed: 0, superseded: 0, skipped: 0 },
  })
  expect(headers.get('location')).toBe(`${path}/${body.action.id}`)
  expect((await api.get<Made>(headers.get('location')!)).body).toEqual(body)
  expect((await api.get<Made>(path)).body).toEqual({ actions: [body.action], next: null })
  await server.stamp()
  const { body: told } = await api.get<{ events: object[] }>(`/api/events?resource_id=${id}&limit=1`)
  expect(told.events).toMatchObject([
    {
      type: 'deployment.wish_changed',
      from: 'running',
      to: 'running',
      cause: { actor: {}, reason: 'restart requested' },
      snapshot: { wish: 'restart', action: 'restart', action_id: body.action.id, wave_size: 2 },
    },
  ])
  const { body: explained } = await api.get<{ explanation: object }>(`/api/deployments/${id}/explain`)
  expect(explained.explanation).toMatchObject({
    wish: 'restart',
    waits_for: { what: 'its restart to begin', code: null, until: expect.any(String) },
    origin: { kind: 'request' },
  })
  await ask(path, { action: 'terminate' })
  const first = await api.get<Made>(`${path}?limit=1`)
  expect(first.body.actions).toMatchObject([{ action: 'terminate' }])
  const second = await api.get<Made>(`${path}?limit=1&cursor=${first.body.next}`)
  expect(second.body).toMatchObject({ actions: [{ action: 'restart', state: 'superseded' }], next: null })
})

test('where nobody says how many at once, it is a fifth', async () => {
  const { path } = await deployment(...Array.from({ length: 12 }, () => 'running'), 'terminated', 'terminated')
  expect((await ask(path, { action: 'stop' })).wave_size).toBe(2)
})

describe('refused', () => {
  test.each([
    { action: 'stop', wave_size: 0 },
    { action: 'stop', wave_size: 26 },
    { action: 'stop', wave_size: 1.5 },
    { action: 'stop', wave_size: '2' },
    { action: 'terminate', wave_size: 2 },
    { action: 'reboot' },
    { wave_size: 2 },
  ])('%o', async (body) => {
    const { path } = await deployment('running')
    await api.post(path, body, { expect: 400 })
    expect((await api.get<Made>(path)).body.actions).toEqual([])
  })

  test('what fits none of its instances, naming state and what is allowed', async () => {
    const { path } = await deployment('stopped', 'stopped', 'failed')
    const { body } = await api.post<ErrorAnswer>(path, { action: 'stop' }, { expect: 409 })
    expect(body.error).toMatchObject({
      code: 'conflict',
      message:
        'a stop is not for a deployment that is running (instances: 2 stopped, 1 failed); allowed: start, restart, terminate',
      problems: [{ path: 'body.action', accepted: ['start', 'restart', 'terminate'] }],
    })
  })

  test('another while one is open, but for a terminate', async () => {
    const { path } = await deployment('running', 'running', 'stopped')
    const stop = await ask(path, { action: 'stop', wave_size: 2 })
    for (const same of [{ action: 'stop' }, { action: 'stop', wave_size: 2 }])
      expect((await ask(path, same)).id).toBe(stop.id)
    const { body } = await api.post<ErrorAnswer>(path, { action: 'start' }, { expect: 409 })
    expect(body.error.message).toMatch(/its stop in waves of 2 is not over; allowed: stop, terminate$/)
    await api.post(path, { action: 'stop', wave_size: 1 }, { expect: 409 })
    const end = await ask(path, { action: 'terminate' })
    expect((await ask(path, { action: 'terminate' })).id).toBe(end.id)
    await api.post(path, { action: 'stop' }, { expect: 409 })
    expect((await api.get<Made>(path)).body.actions).toMatchObject([
      { id: end.id, state: 'running', wave_size: null },
      { id: stop.id, state: 'superseded', finished_at: expect.any(String) },
    ])
  })

  test('anything on one that is over', async () => {
    const { id, path } = await deployment('terminated')
    await sql`update deployments set state = 'terminated' where id = ${id}`.execute(server.store.db)
    const { body } = await api.post<ErrorAnswer>(path, { action: 'terminate' }, { expect: 409 })
    expect(body.error.message).toMatch(/allowed: nothing$/)
  })
})

test('what its instances come to counts, not what they are now', async () => {
  const { id, path } = await deployment('running')
  const { body } = await api.get<{ instances: { id: string }[] }>(`/api/instances?deployment_id=${id}`)
  await api.post(path, { action: 'start' }, { expect: 409 })
  await api.post(`/api/instances/${body.instances[0]!.id}/actions`, { action: 'stop' })
  await ask(path, { action: 'start' })
})

test('under a key it is asked for once, however often and however much at once', async () => {
  const { path } = await deployment('running', 'running')
  const repeat = () => ask(path, { action: 'stop' }, { key: 'once' })
  const made = await Promise.all([repeat(), repeat(), repeat()])
  await ask(path, { action: 'terminate' })
  made.push(await repeat())
  expect(new Set(made.map(({ id }) => id)).size).toBe(1)
  expect((await api.get<Made>(path)).body.actions).toHaveLength(2)
  await api.post(path, { action: 'start' }, { key: 'once', expect: 422 })
})

test('of many at once one is taken, and a terminate beside it', async () => {
  const { path } = await deployment('running', 'stopped')
  const kinds = ['start', 'stop', 'restart', 'terminate', 'start', 'stop', 'restart', 'terminate']
  const answers = await Promise.allSettled(kinds.map((action) => api.post(path, { action })))
  const refused = answers.flatMap((answer) => (answer.status === 'rejected' ? [String(answer.reason)] : []))
  for (const reason of refused) expect(reason).toContain(' answered 409')
  const { actions } = (await api.get<Made>(path)).body
  expect(actions[0]).toMatchObject({ action: 'terminate', state: 'running' })
  expect(actions.slice(1).every(({ state }) => state === 'superseded')).toBe(true)
  expect(actions.length).toBeLessThanOrEqual(2)
})

test('only its project may, and a monitor with the grant', async () => {
  const { path } = await deployment('running')
  const stranger = await server.client('other')
  await stranger.post(path, { action: 'stop' }, { expect: 404 })
  await stranger.get(path, { expect: 404 })
  await (await server.client('web', 'reader')).post(path, { action: 'stop' }, { expect: 403 })
  await (await server.client('web', 'monitor')).post(path, { action: 'stop' }, { expect: 403 })
  const acting = openApiClient(server.url, await server.token('web', 'monitor', { grants: ['act'] }))
  const { body } = await acting.post<Made>(path, { action: 'stop' })
  await stranger.get(`${path}/${body.action.id}`, { expect: 404 })
  const { path: elsewhere } = await deployment('running')
  await api.get(`${elsewhere}/${body.action.id}`, { expect: 404 })
  await (await server.client('web', 'reader')).get(`${path}/${body.action.id}`)
})
