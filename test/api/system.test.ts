/** The service about itself, and what it says while something is away. */

import { sql } from 'kysely'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../api/app.ts'
import { parseAllowList } from '../../domain/hook-address.ts'
import { openStore } from '../../store/database.ts'
import { type ErrorAnswer, openApiClient } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'

let server: ApiServer
beforeAll(async () => {
  server = await startApi()
})
afterAll(() => server.close())

test('alive, ready, degraded, and not ready', async () => {
  const nobody = openApiClient(server.url, null)
  await nobody.get('/livez')
  expect((await nobody.get('/readyz')).body).toEqual({ ready: true, degraded: [], reasons: [] })
  server.health.temporal = false
  expect((await nobody.get('/readyz')).body).toEqual({ ready: true, degraded: ['temporal'], reasons: [] })
  server.health.draining = true
  const { body } = await nobody.get('/readyz', { expect: 503 })
  expect(body).toEqual({ ready: false, degraded: ['temporal'], reasons: ['draining'] })
  server.health.draining = false
  server.health.postgres = false
  await nobody.get('/readyz', { expect: 503 })
  Object.assign(server.health, { postgres: true, temporal: true })
})

test('figures count requests by route, not by id', async () => {
  await server.operator.get('/api/hooks/01890000-0000-7000-8000-000000000000', { expect: 404 })
  const { body } = await server.operator.get<string>('/metrics')
  expect(body).toMatch(/holdfast_http_requests_total\{method="GET",route="\/api\/hooks\/:hook_id",status="404"\} \d/)
  expect(body).not.toContain('01890000')
})

test('every answer has a request id, and errors say it', async () => {
  const { headers, body } = await server.operator.get<ErrorAnswer>('/api/nothing', { expect: 404 })
  expect(headers.get('x-request-id')).toBe(body.error.request_id)
})

test('where others are quicker again and again, it says to come back', async () => {
  await sql`create function overtaken() returns trigger language plpgsql as $$ begin
    raise exception 'somebody was quicker' using errcode = '40001'; end $$`.execute(server.store.db)
  await sql`create trigger overtaken before insert on leases execute function overtaken()`.execute(server.store.db)
  try {
    const lease = { name: 'night', start_at: 'now', end_at: '2099-01-01T00:00:00Z' }
    const { headers, body } = await server.operator.post<ErrorAnswer>('/api/leases', lease, { expect: 503 })
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
    expect(body.error).toMatchObject({ code: 'unavailable', message: expect.stringContaining('repeat the request') })
  } finally {
    await sql`drop trigger overtaken on leases`.execute(server.store.db)
  }
})

describe('without authentication', () => {
  test('everyone is operator of project default, and any token is accepted', async () => {
    const open = await startApi({ auth: 'none' })
    try {
      await Promise.all(
        [null, 'garbage'].map((token) => openApiClient(open.url, token).get('/api/tokens', { expect: 200 })),
      )
      const { body } = await openApiClient(open.url, null).get<{ projects: { name: string }[] }>('/api/projects')
      expect(body.projects.map((project) => project.name)).toEqual(['default'])
    } finally {
      await open.close()
    }
  })
})

describe('while the record is away', () => {
  test('routes answer 503 with Retry-After, and go on by themselves', async () => {
    const away = openStore(server.database_url.replace(/:(\d+)\//, ':1/'))
    let back = false
    const store = {
      ...away,
      get db() {
        return back ? server.store.db : away.db
      },
    }
    const logged: string[] = []
    const app = createApp({
      store,
      envelope: server.envelope,
      hook_allow: parseAllowList(''),
      auth: 'token',
      findCloudProblems: () => [],
      health: async () => ({ postgres: false, temporal: true, draining: false }),
      metrics: new Registry(),
      log: pino({ level: 'warn' }, { write: (line: string) => void logged.push(line) }),
    })
    const ask = () => app.request('/api/hooks', { headers: { 'X-Auth-Token': server.operator_token } })
    const answer = await ask()
    expect(answer.status).toBe(503)
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(((await answer.json()) as ErrorAnswer).error.code).toBe('unavailable')
    expect(logged).toEqual([])
    await away.close()
    back = true
    expect((await ask()).status).toBe(200)
  })

  test('a fault of ours is logged under its request id and tells nothing', async () => {
    const logged: string[] = []
    const app = createApp({
      store: { ...server.store, db: { selectFrom: () => raise('secret detail') } as never },
      envelope: server.envelope,
      hook_allow: parseAllowList(''),
      auth: 'token',
      findCloudProblems: () => [],
      health: async () => ({ postgres: true, temporal: true, draining: false }),
      metrics: new Registry(),
      log: pino({}, { write: (line: string) => void logged.push(line) }),
    })
    const answer = await app.request('/api/hooks', { headers: { 'X-Auth-Token': 'hft_x' } })
    const text = await answer.text()
    expect(answer.status).toBe(500)
    expect(text).not.toContain('secret detail')
    expect(logged.join()).toContain((JSON.parse(text) as ErrorAnswer).error.request_id)
  })
})

function raise(message: string): never {
  throw new Error(message)
}
