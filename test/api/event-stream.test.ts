/** Events as they come: streams and waiting requests, over real HTTP. */
import { get, type IncomingMessage } from 'node:http'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { recordEvents } from '../../store/events.ts'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { type EventReader, openEvents } from '../support/event-source.ts'
import { waitFor } from '../support/wait-for.ts'

interface Event {
  id: string
  cursor: string
  type: string
  resource_id: string
  sequence: number
}
interface Page {
  events: Event[]
  next: string | null
}

let server: ApiServer
let stamping: NodeJS.Timeout | undefined

beforeAll(async () => {
  server = await startApi()
  await server.cloud('east', [])
})
afterAll(() => {
  clearInterval(stamping)
  return server.close()
})

/** A project with a cloud, its client and its token. */
async function project(name: string) {
  const api = await server.client(name)
  await server.operator.put(`/api/clouds/east/grants/${name}`)
  return { api, token: await server.token(name, 'reader') }
}

const order = async (api: ApiClient, count = 1): Promise<string> =>
  (
    await api.post<{ launch_order: { id: string } }>('/api/launch-orders', {
      name: 'o',
      size: 'small',
      image: 'debian',
      count,
    })
  ).body.launch_order.id

/** All that a project's list has, oldest first. */
async function listed(api: ApiClient, query = ''): Promise<Event[]> {
  const events: Event[] = []
  for (let after = ''; ; ) {
    const page: Page = (await api.get<Page>(`/api/events?limit=100&after=${after}${query}`)).body
    if (!page.events.length) return events
    events.push(...page.events)
    after = page.next!
  }
}

const parsed = (reader: EventReader): Event[] => reader.messages.map((message) => JSON.parse(message.data) as Event)

describe('a stream', () => {
  test('has the events of the list, each with its cursor and type', async () => {
    const { api, token } = await project('shape')
    await order(api)
    await server.stamp()
    const reader = await openEvents(server.url, token)
    await reader.until('its events', (messages) => messages.length === 3)
    expect(parsed(reader)).toEqual(await listed(api))
    for (const message of reader.messages) {
      const event = JSON.parse(message.data) as Event
      expect(message).toMatchObject({ id: event.cursor, event: event.type })
    }
    expect(reader.text()).toMatch(/^retry: \d+\n\n/)
    expect(reader.response.headers.get('cache-control')).toBe('no-store')
    await reader.leave()
  })

  test('goes on after hanging up anywhere: nothing missed, nothing twice, whoever writes meanwhile', async () => {
    const { api, token } = await project('burst')
    const ORDERS = 40
    stamping = setInterval(() => void server.stamp().catch(() => {}), 5)
    const writing = Promise.all(
      [1, 2, 3, 4].map(async () => {
        for (let written = 0; written < ORDERS / 4; written++) await order(api, 3)
      }),
    )
    const seen: Event[] = []
    let last: string | undefined
    for (let round = 1; seen.length < ORDERS * 5 - 10; round++) {
      const reader = await openEvents(server.url, token, { last })
      await reader.until('some events', (messages) => messages.length >= Math.min(7 * round, ORDERS * 5 - seen.length))
      await reader.leave()
      seen.push(...parsed(reader))
      last = reader.messages.at(-1)?.id ?? last
    }
    await writing
    clearInterval(stamping)
    await server.stamp()
    const rest = await openEvents(server.url, token, { last })
    await rest.until('the rest', (messages) => seen.length + messages.length >= ORDERS * 5)
    seen.push(...parsed(rest))
    await rest.leave()
    expect(seen.map((event) => event.id)).toEqual((await listed(api)).map((event) => event.id))
    expect(new Set(seen.map((event) => event.id)).size).toBe(ORDERS * 5)
  })

  test('does not jump over a transaction that takes long', async () => {
    const { api, token } = await project('slow')
    const reader = await openEvents(server.url, token)
    const { rows } = await admin(server.database_url, "select id from projects where name = 'slow'")
    const resource_id = '01890000-0000-7000-8000-00000000aaaa'
    const early = await server.store.db.startTransaction().execute()
    await recordEvents(early as never, [
      {
        project_id: rows[0].id,
        resource_type: 'deployment',
        resource_id,
        sequence: 1,
        type: 'deployment.told',
        snapshot: {},
        cause: { rule: 'test', reason: 'slow' },
      },
    ])
    const fast = await order(api)
    await server.stamp()
    await reader.until('the later event', (messages) => messages.some((message) => message.data.includes(fast)))
    await early.commit().execute()
    await server.stamp()
    await reader.until('the earlier one', (messages) => messages.some((message) => message.data.includes(resource_id)))
    await reader.leave()
    expect(parsed(reader).map((event) => event.id)).toEqual((await listed(api)).map((event) => event.id))
  })

  test('is narrowed as a list, and has nothing of another project', async () => {
    const [mine, other] = [await project('mine'), await project('other')]
    const all = await openEvents(server.url, mine.token)
    const narrow = await openEvents(server.url, mine.token, { query: '?type=instance.*' })
    for (let round = 0; round < 3; round++) {
      await order(other.api)
      await server.stamp()
      await order(mine.api)
      await server.stamp()
    }
    await all.until('nine events', (messages) => messages.length === 9)
    await narrow.until('three events', (messages) => messages.length === 3)
    await Promise.all([all.leave(), narrow.leave()])
    expect(parsed(all)).toEqual(await listed(mine.api))
    expect(narrow.messages.map((message) => message.event)).toEqual(Array(3).fill('instance.created'))
  })

  test('from a cursor that was dropped, or is none, is an answer: 410 with the oldest, or 400', async () => {
    const { api, token } = await project('dropped')
    await order(api)
    await server.stamp()
    const [first, second] = await listed(api)
    await admin(server.database_url, 'delete from events where id = $1', [first!.id])
    const headers = { accept: 'text/event-stream' }
    const { body } = await api.get<ErrorAnswer>(`/api/events?after=${first!.cursor}`, { headers, expect: 410 })
    expect(body.error.problems![0]!.accepted).toHaveLength(1)
    await api.get('/api/events', { headers: { ...headers, 'last-event-id': first!.cursor }, expect: 410 })
    const none = await api.get<ErrorAnswer>('/api/events', {
      headers: { ...headers, 'last-event-id': 'x' },
      expect: 400,
    })
    expect(none.body.error.problems![0]!.path).toBe('headers.last-event-id')
    await api.get('/api/events?wait_s=1', { headers, expect: 400 })
    const reader = await openEvents(server.url, token, { query: '?after=' })
    await reader.until('what is left', (messages) => messages.length === 2)
    expect(parsed(reader)[0]!.id).toBe(second!.id)
    await reader.leave()
  })

  test('asked for by HEAD holds nothing open', async () => {
    const { token } = await project('head')
    for (let asked = 0; asked < 60; asked++) {
      const headers = { authorization: `Bearer ${token}`, accept: 'text/event-stream' }
      expect((await fetch(`${server.url}/api/events`, { method: 'HEAD', headers })).status).toBe(200)
    }
    const reader = await openEvents(server.url, token)
    await reader.leave()
  })

  test('is one of at most fifty of a project; a place is free again when its reader left', async () => {
    const { api, token } = await project('many')
    const readers = await Promise.all(Array.from({ length: 50 }, () => openEvents(server.url, token)))
    const headers = { accept: 'text/event-stream' }
    const refused = await api.get<ErrorAnswer>('/api/events', { headers, expect: 429 })
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    await api.get('/api/events?after=&wait_s=1', { expect: 429 })
    const another = await openEvents(server.url, (await project('fresh')).token)
    await order(api)
    await server.stamp()
    await Promise.all(readers.map((reader) => reader.until('the order', (messages) => messages.length === 3)))
    await Promise.all([another, ...readers].map((reader) => reader.leave()))
    const again = await waitFor(() => openEvents(server.url, token), { what: 'a free place' })
    await again.leave()
  })

  test('ends with its token', async () => {
    await project('revoked')
    const { body } = await server.operator.post<{ token: { id: string; text: string } }>('/api/tokens', {
      project: 'revoked',
      user: 'u',
      role: 'reader',
    })
    const reader = await openEvents(server.url, body.token.text)
    await server.operator.delete(`/api/tokens/${body.token.id}`)
    await waitFor(() => reader.isEnded(), { what: 'the end of the stream', timeout_ms: 30_000 })
    const again = openEvents(server.url, body.token.text)
    await expect(again).rejects.toThrow('401')
  }, 40_000)

  test('outlives the loss of every connection to PostgreSQL', async () => {
    const { api, token } = await project('lost')
    const reader = await openEvents(server.url, token)
    for (let round = 1; round <= 3; round++) {
      await admin(
        server.database_url,
        'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
      )
      await waitFor(() => order(api), { what: 'an order' })
      await waitFor(() => server.stamp().then(() => true), { what: 'stamps' })
      await reader.until('its events', (messages) => messages.length === 3 * round)
    }
    expect(reader.isEnded()).toBe(false)
    await reader.leave()
    expect(parsed(reader)).toEqual(await listed(api))
  })

  test('that is not read is not read ahead for', async () => {
    const { api, token } = await project('unread')
    const big = `
      with made as (
        insert into events (project_id, resource_type, resource_id, sequence, type, snapshot, cause)
        select projects.id, 'deployment', gen_random_uuid(), 1, 'deployment.told', jsonb_build_object('text', repeat('x', 20000)),
          '{"rule": "test", "reason": "big"}' from projects, generate_series(1, 1000) where name = 'unread' returning id)
      select id from made`
    await admin(server.database_url, big)
    await order(api)
    await server.stamp()
    const headers = { authorization: `Bearer ${token}`, accept: 'text/event-stream' }
    const response = await new Promise<IncomingMessage>((resolve) =>
      get(`${server.url}/api/events`, { headers }, resolve),
    )
    // Nobody reads the answer: the stream stands as soon as the sockets between are full. One that read ahead would have
    // come to the end in the time in which others were sent everything.
    for (let round = 0; round < 3; round++) {
      const other = await openEvents(server.url, token)
      await other.until('everything', (messages) => messages.some(({ event }) => event === 'instance.created'))
      await other.leave()
    }
    const late = `
      delete from events where id in (select id from events where type = 'deployment.told' and position is not null
        and project_id = (select id from projects where name = 'unread') order by position desc limit 250)`
    await admin(server.database_url, late)
    let text = ''
    for await (const chunk of response.setEncoding('utf8')) {
      text += chunk
      if (text.includes('event: instance.created')) break
    }
    response.destroy()
    expect(text.match(/^event: deployment\.told$/gm)).toHaveLength(750)
  }, 90_000)
})

describe('a request that waits', () => {
  test('is answered at once where there is something, else as soon as there is', async () => {
    const { api } = await project('waits')
    await order(api)
    await server.stamp()
    const first = (await api.get<Page>('/api/events?after=&wait_s=60&limit=1')).body
    expect(first.events).toHaveLength(1)
    const { next } = (await api.get<Page>(`/api/events?after=${first.next}&wait_s=60`)).body
    const waiting = api.get<Page>(`/api/events?after=${next}&wait_s=60&type=order.created`)
    const id = await order(api)
    await server.stamp()
    expect((await waiting).body.events).toMatchObject([{ type: 'order.created', resource_id: id }])
  })

  test('is answered with the same cursor when nothing came', async () => {
    const { api } = await project('quiet')
    expect((await api.get<Page>('/api/events?after=&wait_s=1')).body).toEqual({ events: [], next: null })
    await order(api)
    await server.stamp()
    const cursor = (await listed(api)).at(-1)!.cursor
    expect((await api.get<Page>(`/api/events?after=${cursor}&wait_s=1`)).body).toEqual({ events: [], next: cursor })
    for (const wrong of ['wait_s=1', 'after=&wait_s=0', 'after=&wait_s=61', 'after=&wait_s=x'])
      await api.get(`/api/events?${wrong}`, { expect: 400 })
  })
})

test('a process that leaves ends its streams, answers what waits, and takes no stream any more', async () => {
  const leaving = await startApi()
  try {
    const token = await leaving.token('left', 'reader')
    const api = await leaving.client('left')
    const readers = await Promise.all([openEvents(leaving.url, token), openEvents(leaving.url, token)])
    const waiting = api.get<Page>('/api/events?after=&wait_s=60')
    leaving.leave()
    await Promise.all(readers.map((reader) => reader.ended))
    expect((await waiting).body.events).toEqual([])
    await api.get('/api/events', { headers: { accept: 'text/event-stream' }, expect: 503 })
  } finally {
    await leaving.close()
  }
})

async function admin(url: string, text: string, values: unknown[] = []) {
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => {})
  await client.connect()
  try {
    return await client.query(text, values)
  } finally {
    await client.end()
  }
}
