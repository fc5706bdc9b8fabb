/** Events and explanations over the wire. */
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { changeInstances } from '../../store/instances.ts'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'

interface Event {
  id: string
  cursor: string | null
  type: string
  resource_type: string
  resource_id: string
  sequence: number
  at: string
  to: string | null
  cause: { reason: string; event?: string; actor?: { user_id: string } }
}
interface Page {
  events: Event[]
  next: string | null
}

let server: ApiServer
let api: ApiClient

beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.cloud('east', ['web'])
})
afterAll(() => server.close())

interface Order {
  launch_order: { id: string; href: string; deployment: { href: string } }
}
async function order(name: string): Promise<Order['launch_order']> {
  const { body } = await api.post<Order>('/api/launch-orders', { name, size: 'small', image: 'debian' })
  return body.launch_order
}

describe('events', () => {
  test('are shown once they have a position', async () => {
    const { id } = await order('unstamped')
    const path = `/api/events?resource_id=${id}`
    expect((await api.get<Page>(path)).body.events).toEqual([])
    await server.stamp()
    const { events } = (await api.get<Page>(path)).body
    expect(events).toMatchObject([{ type: 'order.created', sequence: 1, resource_id: id }])
    expect((await api.get<{ event: Event }>(`/api/events/${events[0]!.id}`)).body.event).toEqual(events[0])
  })

  test('are followed oldest first without loss or repeat, also from nothing', async () => {
    const follower = await server.client('follower')
    await server.operator.put('/api/clouds/east/grants/follower')
    const empty = (await follower.get<Page>('/api/events?after=')).body
    expect(empty).toEqual({ events: [], next: null })
    const input = { name: 'f', size: 'small', image: 'debian', count: 3 }
    const seen: string[] = []
    let cursor = ''
    for (let round = 0; round < 3; round++) {
      await follower.post('/api/launch-orders', input)
      await server.stamp()
      for (;;) {
        const { events, next } = (await follower.get<Page>(`/api/events?limit=2&after=${cursor}`)).body
        if (!events.length) break
        seen.push(...events.map((event) => event.id))
        cursor = next!
      }
      expect((await follower.get<Page>(`/api/events?after=${cursor}`)).body.next).toBe(cursor)
    }
    expect(seen.length).toBe(3 * 5)
    expect(new Set(seen).size).toBe(seen.length)
    const newest: string[] = []
    for (let path: string | null = '/api/events?limit=4'; path; ) {
      const page: Page = (await follower.get<Page>(path)).body
      newest.push(...page.events.map((event) => event.id))
      path = page.next && `/api/events?limit=4&cursor=${page.next}`
    }
    expect(newest).toEqual(seen.toReversed())
  })

  test('are narrowed by type and resource', async () => {
    await order('narrow')
    await server.stamp()
    const types = async (query: string) =>
      new Set((await api.get<Page>(`/api/events?limit=100&${query}`)).body.events.map((event) => event.type))
    expect(await types('type=order.created')).toEqual(new Set(['order.created']))
    expect(await types('type=order.*')).toEqual(new Set(['order.created']))
    expect(await types('resource_type=instance')).toEqual(new Set(['instance.created']))
    await api.get('/api/events?type=Order', { expect: 400 })
    await api.get('/api/events?after=&cursor=x', { expect: 400 })
  })

  test('of the installation are for operators', async () => {
    await server.stamp()
    const clouds = (client: ApiClient) => client.get<Page>('/api/events?resource_type=cloud')
    expect((await clouds(server.operator)).body.events.length).toBeGreaterThan(0)
    expect((await clouds(api)).body.events).toEqual([])
  })

  test('behind a cursor that was dropped: 410 with the oldest there is', async () => {
    await server.stamp()
    const [first] = (await api.get<Page>('/api/events?after=&limit=1')).body.events
    await sql`delete from deliveries`.execute(server.store.db)
    await sql`delete from events where id = ${first!.id}`.execute(server.store.db)
    const { body } = await api.get<ErrorAnswer>(`/api/events?after=${first!.cursor}`, { expect: 410 })
    const [oldest] = body.error.problems![0]!.accepted!
    const rest = (await api.get<Page>(`/api/events?after=${oldest}`)).body
    expect(rest.events.length).toBeGreaterThan(0)
    await api.get('/api/events?after=', { expect: 200 })
  })

  test('stream from where the reader was', async () => {
    await order('streamed')
    await server.stamp()
    const [newest] = (await api.get<Page>('/api/events?limit=1')).body.events
    const gone = new AbortController()
    const response = await fetch(`${server.url}/api/events`, {
      headers: {
        'X-Auth-Token': await server.token('web', 'reader'),
        accept: 'text/event-stream',
        'last-event-id': newest!.cursor!,
      },
      signal: gone.signal,
    })
    expect(response.headers.get('content-type')).toContain('text/event-stream')
    const { id } = await order('live')
    await server.stamp()
    let text = ''
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk
      if (text.includes('instance.created')) break
    }
    gone.abort()
    expect(text).toContain(id)
    expect(text).toContain('event: order.created')
    expect(text).not.toContain(newest!.id)
  })
})

describe('explain', () => {
  interface Explained {
    explanation: {
      sentence: string
      state: string
      name: string
      waits_for: { what: string; code: string | null; until: string | null } | null
      origin: { kind: string; sentence: string; event_id: string }
      chain: Event[]
      history: { event: Event; because: string[]; origin: { kind: string } }[]
      causes: Event[]
    }
  }
  const explain = async (href: string, at?: string): Promise<Explained['explanation']> =>
    (await api.get<Explained>(`${href}/explain${at ? `?at=${encodeURIComponent(at)}` : ''}`)).body.explanation

  test('says of an instance that the request of its order brought it about', async () => {
    const { id, href } = await order('why')
    const list = await api.get<{ instances: { id: string; href: string }[] }>(`${href}/instances`)
    const found = await explain(`/api/instances/${list.body.instances[0]!.id}`)
    expect(found).toMatchObject({ state: 'pending', name: 'why', origin: { kind: 'request' } })
    expect(found.chain.map((event) => [event.resource_type, event.resource_id])).toEqual([
      ['instance', list.body.instances[0]!.id],
      ['order', id],
    ])
    expect(found.sentence).toContain('member-web asked for it')
    expect(found.waits_for!.what).toContain('launch order')
  })

  test('answers for a past moment: the state and the blocker there were', async () => {
    const { id, href } = await order('held')
    const instance = (await api.get<{ instances: { id: string }[] }>(`${href}/instances`)).body.instances[0]!.id
    const blocker = { code: 'cloud_unreachable', reason: 'no cloud of the order can be reached', since: 'then' }
    const held = await tell(id, 2, 'held', { blocker: { ...blocker, next_try_at: '2030-01-01T00:00:00.000Z' } })
    const running = await tell(id, 3, 'running', { blocker: null })
    const now = await explain(href)
    expect(now).toMatchObject({ state: 'running' })
    expect(now.history.map((entry) => entry.event.sequence)).toEqual([3, 2, 1])
    const then = await explain(href, held)
    expect(then).toMatchObject({
      state: 'held',
      waits_for: { code: 'cloud_unreachable', until: '2030-01-01T00:00:00.000Z' },
    })
    expect(then.sentence).toContain('no cloud of the order can be reached')
    expect((await explain(`/api/instances/${instance}`, held)).waits_for).toMatchObject({ code: 'cloud_unreachable' })
    expect((await explain(href, running)).waits_for).toBeNull()
    await api.get(`${href}/explain?at=2020-01-01T00:00:00Z`, { expect: 404 })
    await api.get(`${href}/explain?at=2100-01-01T00:00:00Z`, { expect: 400 })
  })

  test('goes back to an observation where something was seen', async () => {
    const { href } = await order('seen')
    const instance = (await api.get<{ instances: { id: string }[] }>(`${href}/instances`)).body.instances[0]!.id
    await server.store.db.transaction().execute((trx) =>
      changeInstances(trx, [
        {
          id: instance,
          to: 'running',
          cause: {
            rule: 'observed',
            reason: 'the cloud says ACTIVE',
            evidence: { observed_at: '2026-01-01T00:00:00Z' },
          },
        },
      ]),
    )
    const found = await explain(`/api/instances/${instance}`)
    expect(found).toMatchObject({ state: 'running', origin: { kind: 'observation' }, waits_for: null })
    expect(found.history.at(-1)!.origin.kind).toBe('request')
  })

  test('speaks of every noun', async () => {
    const made = await order('all')
    expect((await explain(made.deployment.href)).waits_for!.what).toContain('orders')
    const moments = { start_at: '2099-01-01T00:00:00.000Z', end_at: '2099-01-02T00:00:00.000Z' }
    const lease = await api.post<{ lease: { href: string } }>('/api/leases', { name: 'l', ...moments })
    expect((await explain(lease.body.lease.href)).waits_for).toMatchObject({
      what: 'its start',
      until: moments.start_at,
    })
    const hook = await api.post<{ hook: { href: string } }>('/api/hooks', { uri: 'https://example.com/e' })
    await api.post(`${hook.body.hook.href}/disable`)
    expect((await explain(hook.body.hook.href)).waits_for!.what).toContain('enable')
    expect((await explain('/api/clouds/east')).state).toBe('unknown')
  })

  /** One more event of an order, as a plan writes it; returns its moment. */
  async function tell(order_id: string, sequence: number, to: string, snapshot: object): Promise<string> {
    const { rows } = await sql<{ at: Date }>`
      with changed as (update launch_orders set state = ${to}, sequence = ${sequence} where id = ${order_id} returning *)
      insert into events (project_id, resource_type, resource_id, sequence, type, from_state, to_state, snapshot, cause)
      select project_id, 'order', id, ${sequence}, 'order.state_changed', 'queued', ${to}, ${JSON.stringify(snapshot)}::jsonb,
        jsonb_build_object('rule', 'test', 'reason', 'so it was') from changed returning at`.execute(server.store.db)
    return new Date(rows[0]!.at.getTime() + 1).toISOString()
  }
})
