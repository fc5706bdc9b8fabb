/** Whether the search for secrets finds them: every other test relies on it as it ends. */
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client, Connection } from '@temporalio/client'
import { sql } from 'kysely'
import pg from 'pg'
import { afterAll, expect, inject, test } from 'vitest'
import { freshStore } from './database.ts'
import { freshNamespace } from './harness.ts'
import {
  confide,
  requireNone,
  requireNoneInDatabase,
  requireNoneInHistories,
  requireNoneInLogs,
  secretsOf,
} from './secrets.ts'

const secret = `given.(in)+confidence ${randomBytes(6).toString('hex')}`
const folder = await mkdtemp(join(tmpdir(), 'holdfast-secrets-'))
confide([secret], join(folder, 'secrets'))
afterAll(() => rm(folder, { recursive: true, force: true }))

test('what is confidential is known by the name of its field, wherever it stands', () => {
  const body = { name: 'a long name', credentials: [{ cloud: 'east', secret }], deep: { os_password: 'a password' } }
  expect(secretsOf(body)).toEqual([secret, 'a password'])
})

test.each([
  ['one that was given', secret],
  ['a token', `hft_${randomBytes(32).toString('base64url')}`],
  ["a hook's", `whsec_${randomBytes(24).toString('base64')}`],
  ['a private key', '-----BEGIN OPENSSH PRIVATE KEY-----'],
])('%s is found in texts and rows, as text and as bytes, and is not shown', async (_, planted) => {
  const error = (() => {
    try {
      requireNone('the log', `it is ${planted}, they say`)
    } catch (thrown) {
      return String(thrown)
    }
  })()
  expect(error).toContain('the log holds 1')
  expect(error).not.toContain(planted)

  const fresh = await freshStore()
  const client = new pg.Client({ connectionString: fresh.database_url })
  await client.connect()
  await requireNoneInDatabase(client)
  await sql`create table planted (said jsonb, bytes bytea)`.execute(fresh.store.db)
  await sql`insert into planted (said) values (jsonb_build_object('deep', ${planted}::text))`.execute(fresh.store.db)
  await expect(requireNoneInDatabase(client)).rejects.toThrow('planted holds 1')
  await sql`truncate planted`.execute(fresh.store.db)
  if (planted === secret) {
    await sql`insert into planted (bytes) values (${Buffer.from(planted)})`.execute(fresh.store.db)
    await expect(requireNoneInDatabase(client)).rejects.toThrow('planted holds 1')
    await sql`truncate planted`.execute(fresh.store.db)
  }
  await client.end()
  await fresh.close()
})

test('it is found in histories and in logs of others', async () => {
  const connection = await Connection.connect({ address: inject('temporal_address') })
  const client = new Client({ connection, namespace: await freshNamespace() })
  const start = (workflowId: string, said: string) =>
    client.workflow.start('nobody', { workflowId, taskQueue: 'nobody', args: [{ said }] })
  const visible = async (count: number) => {
    while ((await Array.fromAsync(client.workflow.list())).length < count);
  }
  await start('innocent', 'nothing')
  await visible(1)
  await requireNoneInHistories(client)
  await start('guilty', secret)
  await visible(2)
  await expect(requireNoneInHistories(client)).rejects.toThrow('the history of guilty holds 1')
  await connection.close()

  const logs = await mkdtemp(join(folder, 'logs-'))
  await writeFile(join(logs, 'postgres.log'), 'nothing')
  await requireNoneInLogs(logs, join(folder, 'secrets'))
  await writeFile(join(logs, 'temporal.log'), `started with ${secret}`)
  await expect(requireNoneInLogs(logs, join(folder, 'secrets'))).rejects.toThrow('temporal.log holds 1')
})

test('a refusal that repeats what was confided fails its test', async () => {
  const { createServer } = await import('node:http')
  const server = createServer((request, response) => {
    let body = ''
    request.on('data', (chunk) => (body += chunk))
    request.on('end', () => response.writeHead(400).end(`I do not like ${body}`))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  const send = (body: object) =>
    fetch(`http://127.0.0.1:${port}/api/anything`, { method: 'POST', body: JSON.stringify(body) })
  await expect(send({ secret: 'a new secret' })).rejects.toThrow('holds 1')
  expect((await send({ name: 'a new name' })).status).toBe(400)
  server.close()
})
