import { createServer, type Server, type Socket } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { createHookClient, type HookClient } from '../../activities/hook-client.ts'
import { parseAllowList } from '../../domain/hook-address.ts'
import type { Head } from '../../store/delivery-claims.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const SECRET = `whsec_${Buffer.alloc(32, 3).toString('base64')}`
const BODY = JSON.stringify({
  id: 'evt_1',
  type: 't',
  data: { resource_type: 'instance', resource_id: 'r', sequence: 1 },
})

let client: HookClient
const closing: (() => Promise<unknown>)[] = []
let number = 0
afterEach(async () => {
  await client?.close()
  await Promise.all(closing.splice(0).map((close) => close()))
})

function send(uri: string, change: Partial<Head> = {}, signal = new AbortController().signal) {
  const head: Head = {
    delivery_id: 7,
    hook_id: 'h',
    claim: 1,
    number: ++number,
    trigger: 'schedule',
    attempts: 0,
    unknown_in_row: 0,
    project_id: 'p',
    event_id: 'evt_1',
    event_type: 't',
    resource_type: 'instance',
    resource_id: 'r',
    sequence: 1,
    body: BODY,
    subject: null,
    uri,
    timeout_ms: 1_000,
    sealed_secrets: [],
    ...change,
  }
  return client.send(head, [SECRET], signal)
}
function open(): void {
  client = createHookClient({ allow: parseAllowList('127.0.0.0/8,::1/128'), user_agent: 'holdfast/test' })
}
async function receiver(options?: { host?: string }): Promise<Receiver> {
  open()
  const started = await startReceiver(options)
  started.secrets = [SECRET]
  closing.push(started.close)
  return started
}
/** A server below HTTP: says what it is told to on each connection. */
async function rawServer(serve: (socket: Socket, request: Buffer, count: number) => void): Promise<string> {
  open()
  let connections = 0
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    const count = ++connections
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('data', (data) => serve(socket, data, count))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise((resolve) => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as { port: number }).port}/`
}

describe('a request', () => {
  test('carries the headers, the stored bytes and a signature the stock library accepts', async () => {
    const target = await receiver()
    expect(await send(target.uri, { number: 3, trigger: 'manual' })).toMatchObject({
      verdict: 'success',
      outcome: 'delivered',
      status: 200,
      remote_address: '127.0.0.1',
    })
    const [got] = target.ledger
    expect(got).toMatchObject({ verified: true, attempt: 3 })
    expect(got!.body.toString()).toBe(BODY)
    expect(got!.headers).toMatchObject({
      'content-type': 'application/json',
      'content-length': String(BODY.length),
      'user-agent': 'holdfast/test',
      'webhook-id': 'evt_1',
      'hook-event-type': 't',
      'hook-resource': 'instance/r',
      'hook-sequence': '1',
      'hook-delivery-id': '7',
      'hook-trigger': 'manual',
    })
  })
  test('goes to IPv6 and to localhost where that is opened', async () => {
    const target = await receiver({ host: '::1' })
    expect(await send(target.uri)).toMatchObject({ verdict: 'success', remote_address: '::1' })
    const ipv4 = await receiver()
    expect(await send(`http://localhost:${ipv4.port}/`)).toMatchObject({ verdict: 'success' })
  })
  test('follows no redirect', async () => {
    const target = await receiver()
    target.answer = () => ({ status: 302, headers: { location: target.uri } })
    expect(await send(target.uri)).toMatchObject({
      verdict: 'failure',
      outcome: 'http_302',
      response_headers: { location: target.uri },
    })
    expect(target.ledger).toHaveLength(1)
  })
})

describe('outcomes', () => {
  test.each([
    [200, {}, 'success', 'delivered'],
    [204, {}, 'success', 'delivered'],
    [299, { 'webhook-delivery': 'disable' }, 'success', 'delivered'],
    [401, {}, 'failure', 'http_401'],
    [410, {}, 'disable', 'http_410'],
    [500, { 'webhook-delivery': 'abort-message' }, 'abort', 'http_500'],
    [500, { 'webhook-delivery': 'disable' }, 'disable', 'http_500'],
  ] as const)('status %i with %j: %s', async (status, headers, verdict, outcome) => {
    const target = await receiver()
    target.answer = () => ({ status, headers })
    expect(await send(target.uri)).toMatchObject({ verdict, outcome, status })
  })
  test('Retry-After is read on failures only', async () => {
    const target = await receiver()
    target.answer = () => ({ status: 503, headers: { 'retry-after': '7' } })
    expect(await send(target.uri)).toMatchObject({ retry_after_ms: 7_000 })
    target.answer = () => ({ status: 200, headers: { 'retry-after': '7' } })
    expect((await send(target.uri)).retry_after_ms).toBeUndefined()
  })
  test('nobody there, a reset, a hanging receiver', async () => {
    const target = await receiver()
    target.answer = () => ({ reset: true })
    expect(await send(target.uri)).toMatchObject({ outcome: 'tcp_reset', verdict: 'failure', status: null })
    target.answer = () => ({ hang: true })
    const started = performance.now()
    expect(await send(target.uri)).toMatchObject({ outcome: 'timeout', verdict: 'failure' })
    expect(performance.now() - started).toBeLessThan(1_500)
    await target.close()
    closing.length = 0
    expect(await send(target.uri)).toMatchObject({ outcome: 'tcp_refused', verdict: 'failure' })
  })
  test('garbage is not HTTP, and too many headers are too many', async () => {
    const garbage = await rawServer((socket) => socket.end('SSH-2.0-x\r\n\r\n'))
    expect(await send(garbage)).toMatchObject({ outcome: 'http_parse' })
    const large = await rawServer((socket) => socket.end(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(64 * 1024)}\r\n\r\n`))
    expect(await send(large)).toMatchObject({ outcome: 'http_headers_too_large' })
  })
  test('TLS is not switched off: a plain server is a failure of TLS', async () => {
    const plain = await rawServer((socket) => socket.end('HTTP/1.1 200 OK\r\n\r\n'))
    expect(await send(plain.replace('http:', 'https:'))).toMatchObject({ verdict: 'failure', outcome: 'tls_failed' })
  })
  test('the status counts though the body never ends, is cut, or is huge', async () => {
    const head = 'HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n'
    const dripping = await rawServer((socket) => {
      socket.write(head)
      const timer = setInterval(() => socket.write('x'), 50)
      socket.on('close', () => clearInterval(timer))
    })
    expect(await send(dripping, { timeout_ms: 1_000 })).toMatchObject({ verdict: 'success', status: 200 })
    const cut = await rawServer((socket) => socket.end(`${head}abc`))
    expect(await send(cut)).toMatchObject({ verdict: 'success', response_body: 'abc' })
    const huge = await rawServer((socket) => void socket.write(head + '\u0000'.repeat(900_000)))
    const result = await send(huge)
    expect(result).toMatchObject({ verdict: 'success' })
    expect(result.response_body).toHaveLength(16 * 1024)
    expect(result.response_body).not.toContain('\u0000')
  })
  test('a hundred interim answers are waited out', async () => {
    const interim = await rawServer((socket) =>
      socket.end(`${'HTTP/1.1 102 Processing\r\n\r\n'.repeat(100)}HTTP/1.1 204 No Content\r\n\r\n`),
    )
    expect(await send(interim)).toMatchObject({ verdict: 'success', status: 204 })
  })
  test('given up from outside, it is unknown', async () => {
    const target = await receiver()
    target.answer = () => ({ hang: true })
    const controller = new AbortController()
    setTimeout(() => controller.abort(), 50)
    expect(await send(target.uri, { timeout_ms: 15_000 }, controller.signal)).toMatchObject({ verdict: 'unknown' })
  })
})

describe('a reused socket that the receiver closes', () => {
  /** A socket is free for the next request only some turns after its answer. */
  const socketIsFree = () => new Promise((resolve) => setTimeout(resolve, 20))
  const OK = 'HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n'
  test('is replaced by a new one at once, within the same attempt', async () => {
    const requests: number[] = []
    const uri = await rawServer((socket, _request, count) => {
      requests.push(count)
      // The first connection serves one request and closes at the second.
      if (count === 1 && requests.length === 2) return void socket.destroy()
      socket.write(OK)
    })
    expect(await send(uri)).toMatchObject({ verdict: 'success' })
    await socketIsFree()
    expect(await send(uri)).toMatchObject({ verdict: 'success' })
    expect(requests).toEqual([1, 1, 2])
  })
  test('once only, and never on a new socket', async () => {
    const requests: number[] = []
    const uri = await rawServer((socket, _request, count) => {
      requests.push(count)
      if (requests.length > 1) return void socket.destroy()
      socket.write(OK)
    })
    await send(uri)
    await socketIsFree()
    expect(await send(uri)).toMatchObject({ outcome: 'tcp_reset' })
    expect(requests).toEqual([1, 1, 2])
    expect(await send(uri)).toMatchObject({ outcome: 'tcp_reset' })
    expect(requests).toHaveLength(4)
  })
  test('not after the first byte of an answer', async () => {
    const requests: number[] = []
    const uri = await rawServer((socket, _request, count) => {
      requests.push(count)
      if (requests.length > 1) return void socket.end('HTTP/1.1 2')
      socket.write(OK)
    })
    await send(uri)
    await socketIsFree()
    expect(await send(uri)).toMatchObject({ verdict: 'failure' })
    expect(requests).toHaveLength(2)
  })
})
