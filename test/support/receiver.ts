/**
 * A receiver of hooks: a real HTTP server that keeps a ledger of every request, answers as told, verifies signatures
 * with the stock library of Standard Webhooks, and judges by itself whether order, completeness and uniqueness held.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { Webhook } from 'standardwebhooks'

export interface Received {
  /** Milliseconds of the process's monotonic clock. */
  readonly at_ms: number
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  readonly event_id: string
  readonly type: string
  /** `<type>/<id>` */
  readonly resource: string
  readonly sequence: number
  /** From the header `hook-attempt`. */
  readonly attempt: number
  /** Null: no secret was given to verify with. */
  readonly verified: boolean | null
  /** What was answered; 0 while it hangs or was reset. */
  status: number
}

/** How to answer. `hang`: never; `reset`: close the socket without a byte. */
export interface Answer {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly delay_ms?: number
  readonly hang?: boolean
  readonly reset?: boolean
}

/** What the receiver found wrong: nothing of it should be there. */
export interface Judgement {
  /** A first attempt of a lower sequence after one of a higher. */
  readonly inversions: number
  /** Sequences missing between the first and last of a resource. */
  readonly gaps: number
  /** Events that were answered 2xx more than once. */
  readonly duplicates: number
  readonly bad_signatures: number
}

export interface Receiver {
  readonly uri: string
  readonly port: number
  readonly ledger: Received[]
  /** Set at any time; called for each request. */
  answer: (received: Received) => Answer | Promise<Answer>
  /** Secrets any of which a signature must fit; set at any time. */
  secrets: string[]
  /** Connections accepted so far. */
  connections(): number
  /** Events answered 2xx, each once. */
  accepted(): Set<string>
  judge(): Judgement
  close(): Promise<void>
}

/** Starts a receiver on a free port of 127.0.0.1. */
export async function startReceiver(options: { host?: string; keep_alive_ms?: number } = {}): Promise<Receiver> {
  const host = options.host ?? '127.0.0.1'
  const ledger: Received[] = []
  const sockets = new Set<Socket>()
  let connections = 0

  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy())
  })
  server.keepAliveTimeout = options.keep_alive_ms ?? 30_000
  server.on('connection', (socket) => {
    connections++
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  const port = (server.address() as AddressInfo).port

  const receiver: Receiver = {
    uri: `http://${host.includes(':') ? `[${host}]` : host}:${port}/hook`,
    port,
    ledger,
    answer: () => ({ status: 200 }),
    secrets: [],
    connections: () => connections,
    accepted: () => new Set(ledger.filter(isAccepted).map((entry) => entry.event_id)),
    judge: () => judgeLedger(ledger),
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return receiver

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const at_ms = performance.now()
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const received = record(request, Buffer.concat(chunks), at_ms, receiver.secrets)
    ledger.push(received)
    const answer = await receiver.answer(received)
    if (answer.delay_ms) await delay(answer.delay_ms)
    if (answer.hang) return
    if (answer.reset) return void request.socket.destroy()
    received.status = answer.status ?? 200
    response.writeHead(received.status, { 'content-type': 'text/plain', ...answer.headers })
    response.end(answer.body ?? '')
  }
}

/** The first attempts of each resource, in order of arrival. */
export function firstAttempts(ledger: readonly Received[]): Map<string, number[]> {
  const seen = new Set<string>()
  const sequences = new Map<string, number[]>()
  for (const entry of ledger) {
    if (seen.has(entry.event_id)) continue
    seen.add(entry.event_id)
    sequences.set(entry.resource, [...(sequences.get(entry.resource) ?? []), entry.sequence])
  }
  return sequences
}

const isAccepted = (entry: Received): boolean => entry.status >= 200 && entry.status <= 299

function record(request: IncomingMessage, body: Buffer, at_ms: number, secrets: readonly string[]): Received {
  const said = (name: string) => String(request.headers[name] ?? '')
  return {
    at_ms,
    path: request.url ?? '',
    headers: request.headers,
    body,
    // By the headers, which every format has.
    event_id: said('webhook-id'),
    type: said('hook-event-type'),
    resource: said('hook-resource'),
    sequence: Number(said('hook-sequence')),
    attempt: Number(request.headers['hook-attempt']),
    verified: secrets.length ? secrets.some((secret) => verifies(secret, body, request.headers)) : null,
    status: 0,
  }
}

function verifies(secret: string, body: Buffer, headers: IncomingHttpHeaders): boolean {
  try {
    new Webhook(secret).verify(body, headers as Record<string, string>)
    return true
  } catch {
    return false
  }
}

function judgeLedger(ledger: readonly Received[]): Judgement {
  let inversions = 0
  let gaps = 0
  for (const sequences of firstAttempts(ledger).values()) {
    for (const [index, sequence] of sequences.entries()) {
      if (index && sequence < sequences[index - 1]!) inversions++
    }
    gaps += Math.max(...sequences) - Math.min(...sequences) + 1 - sequences.length
  }
  const accepted = ledger.filter(isAccepted)
  return {
    inversions,
    gaps,
    duplicates: accepted.length - new Set(accepted.map((entry) => entry.event_id)).size,
    bad_signatures: ledger.filter((entry) => entry.verified === false).length,
  }
}
