/** `Idempotency-Key` and `If-Match`, over all kinds of writes. */
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { blockedStatements } from '../support/database.ts'
import { waitFor } from '../support/wait-for.ts'

let server: ApiServer
let api: ApiClient

beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.cloud('east', ['web'])
})
afterAll(() => server.close())

const later = (hours: number): string => new Date(Date.now() + hours * 3_600_000).toISOString()
const order = { name: 'web', count: 1, size: 'small', image: 'debian' }
let serial = 0
const unique = (): string => `k-${++serial}`

interface Creation {
  readonly noun: string
  readonly path: string
  readonly body: () => Record<string, unknown>
  readonly operator?: boolean
}

/** Every POST that makes something. */
const CREATIONS: readonly Creation[] = [
  { noun: 'launch_order', path: '/api/launch-orders', body: () => ({ ...order, name: unique() }) },
  { noun: 'lease', path: '/api/leases', body: () => ({ name: unique(), start_at: later(1), end_at: later(2) }) },
  { noun: 'hook', path: '/api/hooks', body: () => ({ uri: `https://example.com/${unique()}` }) },
  { noun: 'project', path: '/api/projects', body: () => ({ name: unique() }), operator: true },
  { noun: 'token', path: '/api/tokens', body: () => ({ project: 'web', role: 'reader' }), operator: true },
  {
    noun: 'cloud',
    path: '/api/clouds',
    body: () => ({ name: unique(), provider: 'simulated', endpoint: 'http://127.0.0.1:1', credential: 'hush' }),
    operator: true,
  },
]

type Made = Record<string, { id: string; secret?: string; text?: string }>

describe.each(CREATIONS)('POST $path with a key', ({ noun, path, body, operator }) => {
  const client = () => (operator ? server.operator : api)
  const count = async () => {
    const seen: unknown[] = []
    for (let cursor = ''; ; ) {
      const page = (await client().get<Record<string, unknown>>(path + cursor)).body
      seen.push(...(page[`${noun}s`] as unknown[]))
      if (page.next === null) return seen.length
      cursor = `?cursor=${page.next as string}`
    }
  }

  test('ten at the same time make one, and all get the same answer, secrets included', async () => {
    const before = await count()
    const input = body()
    const key = unique()
    const answers = await Promise.all(Array.from({ length: 10 }, () => client().post<Made>(path, input, { key })))
    expect(new Set(answers.map((answer) => answer.status)).size).toBe(1)
    for (const answer of answers) expect(answer.body).toEqual(answers[0]!.body)
    expect(await count()).toBe(before + 1)
    const made = answers[0]!.body[noun]!
    if (noun === 'hook') expect(made.secret).toMatch(/^whsec_/)
    if (noun === 'token') expect(made.text).toMatch(/^hft_/)
  })

  test('another body under the same key is refused, and changes nothing', async () => {
    const key = unique()
    await client().post<Made>(path, body(), { key })
    const before = await count()
    const other = noun === 'token' ? { project: 'web', role: 'member' } : body()
    const { body: refused } = await client().post<ErrorAnswer>(path, other, { key, expect: 422 })
    expect(refused.error.code).toBe('key_reused')
    expect(await count()).toBe(before)
  })

  test('a refusal is not kept: the same key works once the request is right', async () => {
    const key = unique()
    await client().post(path, { ...body(), no_such_field: 1 }, { key, expect: 400 })
    await client().post(path, body(), { key })
  })

  test('a call at the same time waits for the first', async () => {
    const key = unique()
    const project = await server.store.db
      .selectFrom('projects')
      .select('id')
      .where('name', '=', operator ? 'default' : 'web')
      .executeTakeFirstOrThrow()
    let pending: Promise<unknown> | undefined
    await server.store.db.transaction().execute(async (trx) => {
      await sql`insert into idempotency_keys (project_id, key, request_hash, status, resource_type, resource_id)
        values (${project.id}, ${key}, '', 202, 'order', gen_random_uuid())`.execute(trx)
      pending = client().post<ErrorAnswer>(path, body(), { key, expect: 422 })
      await waitFor(async () => (await blockedStatements(server.store)) > 0, {
        what: 'the second call to wait',
        timeout_ms: 2_500,
      })
    })
    await pending
  })
})

describe('a key', () => {
  test('belongs to its project', async () => {
    const other = await server.client('other')
    const key = unique()
    const first = await api.post<Made>('/api/hooks', { uri: 'https://example.com/shared' }, { key })
    const second = await other.post<Made>('/api/hooks', { uri: 'https://example.com/shared' }, { key })
    expect(first.body.hook!.id).not.toBe(second.body.hook!.id)
  })

  test('covers method, path and query', async () => {
    const { body } = await api.post<Made>('/api/hooks', { uri: 'https://example.com/covered' })
    const key = unique()
    await api.post(`/api/hooks/${body.hook!.id}/disable`, undefined, { key })
    await api.post(`/api/hooks/${body.hook!.id}/enable`, undefined, { key, expect: 422 })
  })

  test('makes a change once, however much happened since', async () => {
    const lease = (await api.post<Made>('/api/leases', { name: 'a', start_at: later(1), end_at: later(2) })).body.lease!
    const key = unique()
    const options = { key, if_match: '"1"' }
    await api.patch(`/api/leases/${lease.id}`, { name: 'b' }, options)
    await api.patch(`/api/leases/${lease.id}`, { name: 'c' })
    const again = await api.patch<{ lease: { name: string } }>(`/api/leases/${lease.id}`, { name: 'b' }, options)
    expect(again.body.lease.name).toBe('c')
  })

  test('protects an end with a version, too', async () => {
    const made = (await api.post<Made>('/api/launch-orders', order)).body.launch_order!
    const options = { key: unique(), if_match: '"1"', expect: 202 }
    await api.delete(`/api/launch-orders/${made.id}`, options)
    await api.delete(`/api/launch-orders/${made.id}`, options)
  })

  test('repeats an action on an instance', async () => {
    const made = (await api.post<Made>('/api/launch-orders', order)).body.launch_order!
    const list = await api.get<{ instances: { id: string }[] }>(`/api/launch-orders/${made.id}/instances`)
    const path = `/api/instances/${list.body.instances[0]!.id}/actions`
    const key = unique()
    const answers = await Promise.all([1, 2, 3].map(() => api.post<Made>(path, { action: 'terminate' }, { key })))
    expect(new Set(answers.map((answer) => answer.body.action!.id)).size).toBe(1)
  })

  test('keeps no secret in clear', async () => {
    const key = unique()
    const { body } = await api.post<Made>('/api/hooks', { uri: 'https://example.com/sealed' }, { key })
    const { rows } = await sql<{ row: string }>`
      select idempotency_keys::text as row from idempotency_keys where key = ${key}`.execute(server.store.db)
    const hex = Buffer.from(body.hook!.secret!).toString('hex')
    expect(rows[0]!.row).not.toContain(body.hook!.secret!)
    expect(rows[0]!.row).not.toContain(hex)
  })
})

describe('If-Match', () => {
  test('of two writers who started from the same version one wins', async () => {
    const made = await api.post<Made>('/api/hooks', { uri: 'https://example.com/versions' })
    const path = `/api/hooks/${made.body.hook!.id}`
    const read = await api.get(path)
    const if_match = read.headers.get('etag')!
    const answers = await Promise.allSettled(
      ['one', 'two'].map((description) => api.patch(path, { description }, { if_match })),
    )
    expect(answers.filter((answer) => answer.status === 'fulfilled').length).toBe(1)
    await api.patch(path, { description: 'late' }, { if_match, expect: 412 })
    const fresh = (await api.get(path)).headers.get('etag')!
    await api.patch(path, { description: 'in time' }, { if_match: fresh })
    await api.patch(path, { description: 'any' }, { if_match: '*' })
  })

  test('guards clouds and leases as well', async () => {
    await server.operator.patch('/api/clouds/east', { priority: 1 }, { if_match: '"9"', expect: 412 })
    const lease = (await api.post<Made>('/api/leases', { name: 'a', start_at: later(1), end_at: later(2) })).body.lease!
    await api.patch(`/api/leases/${lease.id}`, { name: 'b' }, { if_match: '"9"', expect: 412 })
    await api.delete(`/api/leases/${lease.id}`, { if_match: '"9"', expect: 412 })
  })
})
