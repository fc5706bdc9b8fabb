import { createServer, type Server } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createHookClient, type HookClient } from '../../activities/hook-client.ts'
import type { Resolve } from '../../activities/hook-connector.ts'
import { parseAllowList } from '../../domain/hook-address.ts'
import type { Head } from '../../store/delivery-claims.ts'
import { REFUSED } from '../support/hook-addresses.ts'

const SECRET = `whsec_${Buffer.alloc(32, 3).toString('base64')}`
const HEAD: Omit<Head, 'uri'> = {
  delivery_id: 1,
  hook_id: 'h',
  claim: 1,
  number: 1,
  trigger: 'schedule',
  attempts: 0,
  unknown_in_row: 0,
  project_id: 'p',
  event_id: 'evt_1',
  event_type: 'instance.created',
  resource_type: 'instance',
  resource_id: 'r',
  sequence: 1,
  body: '{}',
  subject: null,
  timeout_ms: 1_000,
  sealed_secrets: [],
}

let canary: Server
let port: number
let connections = 0
let client: HookClient | undefined
beforeAll(async () => {
  canary = createServer((socket) => {
    connections++
    socket.destroy()
  })
  await new Promise<void>((resolve) => canary.listen(0, '::', resolve))
  port = (canary.address() as { port: number }).port
})
afterAll(() => new Promise((resolve) => canary.close(resolve)))
afterEach(async () => {
  await client?.close()
  expect(connections, 'the canary hears nothing').toBe(0)
})

/** Sends to an address as if it had been saved under older, laxer rules. */
async function send(uri: string, options: { allow?: string; answers?: string[][] } = {}) {
  const answers = [...(options.answers ?? [])]
  const resolve: Resolve = (_hostname, _options, done) => {
    const next = answers.length > 1 ? answers.shift()! : (answers[0] ?? [])
    done(
      null,
      next.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    )
  }
  client = createHookClient({ allow: parseAllowList(options.allow), user_agent: 'holdfast/test', resolve })
  return client.send({ ...HEAD, uri }, [SECRET], new AbortController().signal)
}
const blocked = { verdict: 'failure', outcome: 'blocked_address', status: null }

describe('no connection is opened', () => {
  test.each(REFUSED.filter((address) => !address.includes('%')))('to the literal %s', async (address) => {
    const host = address.includes(':') ? `[${address}]` : address
    expect(await send(`https://${host}:${port}/`)).toMatchObject(blocked)
    expect(await send(`https://${host}/`)).toMatchObject(blocked)
  })
  test.each(REFUSED)('to a name that stands for %s', async (address) => {
    expect(await send('https://receiver.example/', { answers: [[address]] })).toMatchObject(blocked)
  })
  test('to a name with one bad answer among good ones', async () => {
    expect(await send('https://receiver.example/', { answers: [['8.8.8.8', '127.0.0.1']] })).toMatchObject(blocked)
  })
  test('to a name without an answer', async () => {
    expect(await send('https://receiver.example/', { answers: [[]] })).toMatchObject(blocked)
  })
  test('over http, or to another port, of a public address', async () => {
    expect(await send('http://receiver.example/', { answers: [['8.8.8.8']] })).toMatchObject(blocked)
    expect(await send('https://8.8.8.8:8443/')).toMatchObject(blocked)
  })
  test.each(['localhost', 'a.localhost', 'intranet', 'metadata.google.internal'])('to the name %s', async (name) => {
    expect(await send(`https://${name}:${port}/`, { answers: [['8.8.8.8']] })).toMatchObject(blocked)
  })
  test('to localhost when one of its answers is not opened (W11)', async () => {
    const answers = [['127.0.0.1', '::1']]
    expect(await send(`http://localhost:${port}/`, { allow: '127.0.0.0/8', answers })).toMatchObject(blocked)
  })
  test('to loopback when only everything was opened', async () => {
    expect(await send(`http://127.0.0.1:${port}/`, { allow: '0.0.0.0/0' })).toMatchObject(blocked)
  })
  test('without a key to sign with', async () => {
    client = createHookClient({ allow: parseAllowList('127.0.0.0/8'), user_agent: 'x' })
    const result = await client.send({ ...HEAD, uri: `http://127.0.0.1:${port}/` }, [], new AbortController().signal)
    expect(result).toMatchObject({ verdict: 'own_fault', status: null })
  })
})
