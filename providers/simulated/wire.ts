/** The edge of the wire: reading requests whole, and answering, or failing to, in every way a network can. */
import { once } from 'node:events'
import type { HttpBindings } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Context } from 'hono'
import type { Breakage } from './configuration.ts'
import { appendLedger, trimLedger } from './ledger.ts'
import { type AnsweredClass, ERROR_CODES } from './presentation.ts'
import type { Cloud, World } from './world.ts'

export type Environment = { Bindings: HttpBindings }
export type WireContext = Context<Environment>

export interface Reply {
  readonly status: number
  readonly body: unknown
  readonly headers?: Readonly<Record<string, string>>
}

const REDACTED_HEADERS = new Set(['authorization', 'cookie', 'x-auth-token'])
/** Longer answers are told by their size only. */
const LONGEST_LEDGER_BODY = 4_000
const LINES_BETWEEN_TRIMS = 10_000

/** Writes the request into the ledger as it came, and returns its number there. */
export function recordRequest(world: World, cloud: Cloud, context: WireContext, verb: string, body: string): number {
  const { incoming } = context.env
  const headers = Object.fromEntries(
    Object.entries(incoming.headers).map(([name, value]) => [name, REDACTED_HEADERS.has(name) ? '[redacted]' : value]),
  )
  const seq = appendLedger(world.store, cloud.name, 'request', {
    verb,
    method: incoming.method,
    path: incoming.url,
    headers,
    body,
  })
  if (seq - cloud.trimmed_seq >= LINES_BETWEEN_TRIMS) {
    trimLedger(world.store, cloud.name, seq - cloud.configuration.ledger_lines)
    cloud.trimmed_seq = seq
  }
  return seq
}

/** A refusal in the provider's words. */
export function refusal(cloud: Cloud, errorClass: AnsweredClass, message?: string, retry_after_ms?: number): Reply {
  const { status, code, message: usual } = ERROR_CODES[cloud.configuration.presents_as][errorClass]
  return {
    status,
    body: { error: { code, message: message ?? usual } },
    ...(retry_after_ms === undefined
      ? {}
      : {
          headers: {
            'retry-after': String(Math.ceil(retry_after_ms / 1000)),
            'x-retry-after-ms': String(Math.round(retry_after_ms)),
          },
        }),
  }
}

/** Answers, and says so in the ledger; a caller who has gone away is told there as well. */
export function answer(
  world: World,
  cloud: Cloud,
  context: WireContext,
  reply: Reply,
  request_seq: number,
  fault_ids: readonly string[],
): Response {
  const is_gone = context.env.incoming.socket.destroyed
  recordAnswer(world, cloud, reply, request_seq, fault_ids, is_gone ? 'caller_gone' : 'answered')
  if (is_gone) return RESPONSE_ALREADY_SENT
  return new Response(JSON.stringify(reply.body), {
    status: reply.status,
    headers: { 'content-type': 'application/json', ...reply.headers },
  })
}

/** Lets the reply fail to arrive, and says in the ledger what it would have been. */
export async function loseReply(
  world: World,
  cloud: Cloud,
  context: WireContext,
  reply: Reply | null,
  request_seq: number,
  fault_ids: readonly string[],
  how: Breakage,
): Promise<Response> {
  recordAnswer(world, cloud, reply, request_seq, fault_ids, 'lost', how)
  const { incoming, outgoing } = context.env
  const { socket } = incoming
  if (socket.destroyed) return RESPONSE_ALREADY_SENT
  switch (how) {
    case 'reset':
      socket.resetAndDestroy()
      break
    case 'close':
      socket.destroy()
      break
    case 'truncate':
      outgoing.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' })
      outgoing.write('{"machine":{"id":', () => socket.destroy())
      break
    case 'garbage':
      outgoing.writeHead(200, { 'content-type': 'text/html' }).end('<html><body>It works!</body></html>')
      break
    case 'hang':
      await once(socket, 'close')
  }
  return RESPONSE_ALREADY_SENT
}

function recordAnswer(
  world: World,
  cloud: Cloud,
  reply: Reply | null,
  request_seq: number,
  fault_ids: readonly string[],
  outcome: 'answered' | 'caller_gone' | 'lost',
  how?: Breakage,
): void {
  appendLedger(world.store, cloud.name, 'answer', {
    request_seq,
    outcome,
    ...(how ? { how } : {}),
    ...(reply ? { status: reply.status, body: abridged(reply.body) } : {}),
    ...(fault_ids.length > 0 ? { fault_ids } : {}),
  })
}

function abridged(body: unknown): unknown {
  if (typeof body === 'object' && body !== null && 'machines' in body && Array.isArray(body.machines)) {
    return { machines: body.machines.length, next: 'next' in body ? body.next : null }
  }
  const text = JSON.stringify(body) ?? 'null'
  return text.length > LONGEST_LEDGER_BODY ? { length: text.length } : body
}
