/** The wire itself: what a broken connection may mean, against a server that counts what reaches it. */
import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { type HttpCall, sendOnce } from '../../providers/http.ts'
import { expectClass } from './contract.ts'

let server: Server | undefined
afterEach(() => {
  server?.close()
  server = undefined
})

/** A server that leaves the answer to `behave`; tells the requests it has read, by their first line. */
async function listen(
  behave: (socket: Socket, requests: string[]) => void,
): Promise<{ url: string; requests: string[] }> {
  const requests: string[] = []
  server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (data) => {
      const line = /^(?:GET|POST) [^\r]*/.exec(data.toString('latin1'))?.[0]
      if (line === undefined) return
      requests.push(line)
      behave(socket, requests)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, requests }
}

const call = (url: string, more: Partial<HttpCall> = {}): HttpCall => ({
  verb: 'create',
  method: 'POST',
  url,
  body: { name: 'm' },
  is_write: true,
  timeout_ms: 500,
  signal: AbortSignal.timeout(5_000),
  ...more,
})
const OK = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n{}'

for (const way of ['reset', 'close'] as const) {
  test(`a write on a reused connection that ends by ${way} is lost and never sent again`, async () => {
    const sockets = new Set<Socket>()
    const { url, requests } = await listen((socket, seen) => {
      sockets.add(socket)
      if (seen.length <= 3) socket.write(OK)
      else if (way === 'reset') socket.resetAndDestroy()
      else socket.end()
    })
    // The pool may open a second connection while the first is still being put back.
    for (let count = 0; count < 3; count += 1) await sendOnce(call(url))
    const connections = sockets.size
    await expectClass(sendOnce(call(url)), 'lost_reply')
    expect(sockets.size).toBe(connections)
    expect(requests).toHaveLength(4)
  })
}

test('a read that breaks is unavailable, and is not sent again either', async () => {
  const { url, requests } = await listen((socket) => socket.resetAndDestroy())
  await expectClass(sendOnce(call(url, { method: 'GET', body: undefined, is_write: false })), 'unavailable')
  expect(requests).toHaveLength(1)
})

test('an answer cut off in its middle is a lost reply', async () => {
  const { url } = await listen((socket) => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"machine"'))
  await expectClass(sendOnce(call(url)), 'lost_reply')
})

test('a time-out is told with its length; a caller who gives up is told apart', async () => {
  const { url } = await listen(() => undefined)
  const slow = await expectClass(sendOnce(call(url, { timeout_ms: 50 })), 'lost_reply')
  expect(slow.message).toContain('50 ms')
  const given_up = await expectClass(sendOnce(call(url, { signal: AbortSignal.timeout(50) })), 'lost_reply')
  expect(given_up.message).toContain('given up')
})

test('connection refused, an unknown name and a dead address are surely not carried out', async () => {
  const { url } = await listen(() => undefined)
  server?.close()
  await expectClass(sendOnce(call(url)), 'unavailable')
  await expectClass(sendOnce(call('http://nowhere.invalid/')), 'unavailable')
})

test('what cannot be put on the wire is invalid, and secrets stay out of evidence', async () => {
  await expectClass(sendOnce(call('http://127.0.0.1:9/', { headers: { authorization: 'a\nb' } })), 'invalid')
  const { url } = await listen((socket) => socket.end('HTTP/1.1 sesame broken\r\n\r\n'))
  const error = await expectClass(sendOnce(call(url, { secrets: ['sesame'] })), 'lost_reply')
  expect(JSON.stringify(error.evidence)).not.toContain('sesame')
})
