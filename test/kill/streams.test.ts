/** A process that is asked to leave while readers of events hang on it: it ends well and in time. */

import { rm } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stampEvents } from '../../store/events.ts'
import { createToken } from '../../store/projects.ts'
import { openApiClient } from '../support/api-client.ts'
import { type FreshStore, freshStore } from '../support/database.ts'
import { openEvents } from '../support/event-source.ts'
import { dataFolder, startServer } from './server.ts'

let fresh: FreshStore
let data: string
beforeAll(async () => {
  fresh = await freshStore()
  data = await dataFolder()
})
afterAll(async () => {
  await fresh.close()
  await rm(data, { recursive: true, force: true })
})

test('SIGTERM ends streams, answers requests that wait, and leaves behind a reader that takes nothing', async () => {
  const token = await createToken(fresh.store, { project: 'web', role: 'reader' })
  // More than the sockets between hold.
  await sql`insert into events (project_id, resource_type, resource_id, sequence, type, snapshot, cause)
    select projects.id, 'deployment', gen_random_uuid(), 1, 'deployment.told', jsonb_build_object('text', repeat('x', 20000)),
      '{"rule": "test", "reason": "big"}' from projects, generate_series(1, 1000) where name = 'web'`.execute(
    fresh.store.db,
  )
  while (await stampEvents(fresh.store));
  const [newest] = await fresh.store.db
    .selectFrom('events')
    .select('position')
    .orderBy('position', 'desc')
    .limit(1)
    .execute()
  const last = Buffer.from(`events:${newest!.position}`).toString('base64url')
  const server = await startServer({
    arguments: ['--role', 'api', '--port', '0', '--data', data],
    environment: { DATABASE_URL: fresh.database_url },
  })
  const readers = [await openEvents(server.url, token, { last }), await openEvents(server.url, token, { last })]
  const headers = { authorization: `Bearer ${token}`, accept: 'text/event-stream' }
  const stalled = await new Promise<IncomingMessage>((resolve) => get(`${server.url}/api/events`, { headers }, resolve))
  stalled.on('error', () => {})
  const waiting = openApiClient(server.url, token).get<{ next: string }>(`/api/events?after=${last}&wait_s=60`)
  await openApiClient(server.url, token).get(`/api/events?after=${last}`)
  server.kill('SIGTERM')
  expect((await waiting).body.next).toBe(last)
  await Promise.all(readers.map((reader) => reader.ended))
  // Its own limit of ten seconds would have ended it with 1.
  const { code, signal, stderr } = await server.ended
  expect({ code, signal }, stderr).toEqual({ code: 0, signal: null })
  stalled.destroy()
}, 120_000)
