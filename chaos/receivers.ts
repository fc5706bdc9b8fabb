/** Receivers of hooks: one HTTP server, a ledger for each address. Some answer as they should, some do not. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Received } from './checker/ledgers.ts'

/** Null: closes the connection; `hang`: never answers. */
export type Answer = { readonly status: number; readonly retry_after_s?: number } | 'hang' | null

type Entry = { -readonly [Field in keyof Received]: Received[Field] }

export interface Receiver {
  readonly uri: string
  readonly deliveries: readonly Received[]
}

export interface Receivers {
  /** A further address; `answer` is asked at each request. */
  open(answer: () => Answer): Receiver
  close(): Promise<void>
}

export async function openReceivers(): Promise<Receivers> {
  const places = new Map<string, { answer: () => Answer; deliveries: Entry[] }>()
  const sockets = new Set<Socket>()
  const server = createServer((request, response) => {
    receive(request, response).catch(() => response.destroy())
  })
  server.keepAliveTimeout = 30_000
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo

  async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const at_ms = Date.now()
    const place = places.get(request.url ?? '')
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    if (!place) {
      response.writeHead(404).end()
      return
    }
    const { headers } = request
    const entry: Entry = {
      at_ms,
      webhook_id: String(headers['webhook-id']),
      attempt: Number(headers['hook-attempt']),
      trigger: headers['hook-trigger'] === undefined ? null : String(headers['hook-trigger']),
      body: Buffer.concat(chunks).toString('utf8'),
      answered_status: null,
    }
    place.deliveries.push(entry)
    const answer = place.answer()
    if (answer === 'hang') return
    if (answer === null) return void request.socket.destroy()
    entry.answered_status = answer.status
    response.writeHead(answer.status, answer.retry_after_s ? { 'retry-after': String(answer.retry_after_s) } : {}).end()
  }

  return {
    open(answer) {
      const path = `/hook/${places.size + 1}`
      const deliveries: Entry[] = []
      places.set(path, { answer, deliveries })
      return { uri: `http://127.0.0.1:${port}${path}`, deliveries }
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
