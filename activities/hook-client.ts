/**
 * One attempt to deliver: a signed POST, its answer within a total deadline, and the class of what went wrong. Never
 * throws: whatever happens is an outcome. No redirects, no decompression, at most 64 KiB of the answer are read.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { Agent, type Dispatcher, request } from 'undici'
import { callbackMessage } from '../domain/cloud-state.ts'
import type { AllowList } from '../domain/hook-address.ts'
import { judge, parseRetryAfter } from '../domain/hook-schedule.ts'
import type { Head } from '../store/delivery-claims.ts'
import type { AttemptResult } from '../store/delivery-outcomes.ts'
import { guardedConnector, type Resolve } from './hook-connector.ts'
import { sign } from './hook-signature.ts'

const BODY_READ_MAX = 64 * 1024
const BODY_KEPT_MAX = 16 * 1024
const HEADERS_READ_MAX = 16 * 1024
const HEADERS_KEPT_MAX = 8 * 1024
/** Pooled sockets end after this, so that changes of names and rules reach them. */
const SOCKET_TTL_MS = 60_000

export interface HookClient {
  /** Sends a claimed delivery with its opened secrets; the signal gives it up. */
  send(head: Head, secrets: readonly string[], signal: AbortSignal): Promise<AttemptResult>
  close(): Promise<void>
}

/** What the wire told of one try: which socket, whether it had served before, how much it had read then. */
interface Wire {
  socket?: Socket
  reused: boolean
  bytes_before: number
}

/** Makes the client of one process. */
export function createHookClient(needs: { allow: AllowList; user_agent: string; resolve?: Resolve }): HookClient {
  // The number of sockets an origin is bounded by the caps per hook and shard; a cap here would let one hanging
  // receiver starve its neighbours behind the same origin.
  const options = {
    connect: guardedConnector(needs.allow, needs.resolve),
    pipelining: 1,
    maxHeaderSize: HEADERS_READ_MAX,
  }
  const agent = new Agent({ ...options, clientTtl: SOCKET_TTL_MS })
  const fresh = new Agent(options)
  const wires = new Map<string, Wire>()
  const served = new WeakSet<Socket>()

  // Undici does not say which socket carried a request, but only a reused one may be tried again.
  const onHeaders = (message: unknown): void => {
    const { headers, socket } = message as { headers: string; socket: Socket }
    const ids = /\r\nhook-attempt: (\d+)\r\nhook-delivery-id: (\d+)/.exec(headers)
    const wire = ids && wires.get(`${ids[2]}/${ids[1]}`)
    if (!wire) return
    Object.assign(wire, { socket, reused: served.has(socket), bytes_before: socket.bytesRead })
    served.add(socket)
  }
  subscribe('undici:client:sendHeaders', onHeaders)

  return {
    async send(head, secrets, signal) {
      const started_at = new Date()
      const ended = (result: Omit<AttemptResult, 'started_at' | 'ended_at'>): AttemptResult => ({
        ...result,
        started_at,
        ended_at: new Date(),
      })
      if (!secrets.length) return ended({ verdict: 'own_fault', outcome: 'no_key', status: null })
      const body = Buffer.from(head.subject ? callbackMessage(head.body, head.subject) : head.body, 'utf8')
      const deadline = AbortSignal.timeout(head.timeout_ms)
      const key = `${head.delivery_id}/${head.number}`
      const wire: Wire = { reused: false, bytes_before: 0 }
      wires.set(key, wire)
      const post = (dispatcher: Dispatcher, reset: boolean) =>
        request(head.uri, {
          method: 'POST',
          headers: headersOf(head, secrets, body, started_at, needs.user_agent),
          body,
          dispatcher,
          reset,
          signal: AbortSignal.any([deadline, signal]),
        })
      try {
        const response = await post(agent, false).catch((error: unknown) => {
          if (!closedBeforeAnswer(error, wire)) throw error
          return post(fresh, true)
        })
        return ended(await readAnswer(response, wire.socket?.remoteAddress ?? null))
      } catch (error) {
        if (signal.aborted) return ended({ verdict: 'unknown', outcome: 'unknown', status: null })
        const outcome = deadline.aborted ? 'timeout' : errorClass(error)
        return ended({ verdict: 'failure', outcome, status: null, remote_address: wire.socket?.remoteAddress ?? null })
      } finally {
        wires.delete(key)
      }
    },
    async close() {
      unsubscribe('undici:client:sendHeaders', onHeaders)
      await Promise.all([agent.destroy(), fresh.destroy()])
    },
  }
}

function headersOf(
  head: Head,
  secrets: readonly string[],
  body: Buffer,
  at: Date,
  user_agent: string,
): Record<string, string> {
  const timestamp_s = Math.floor(at.getTime() / 1000)
  return {
    'content-type': 'application/json',
    'user-agent': user_agent,
    'webhook-id': head.event_id,
    'webhook-timestamp': String(timestamp_s),
    'webhook-signature': sign(secrets, head.event_id, timestamp_s, body),
    'hook-event-type': head.event_type,
    'hook-resource': `${head.resource_type}/${head.resource_id}`,
    'hook-sequence': String(head.sequence),
    'hook-attempt': String(head.number),
    'hook-delivery-id': String(head.delivery_id),
    ...(head.trigger === 'schedule' ? {} : { 'hook-trigger': head.trigger }),
  }
}

/** A kept-alive socket that the receiver closed just then: nothing was heard, so one new socket is tried at once. */
function closedBeforeAnswer(error: unknown, wire: Wire): boolean {
  const code = (error as { code?: unknown }).code
  const closed = code === 'UND_ERR_SOCKET' || code === 'ECONNRESET' || code === 'EPIPE'
  return closed && wire.reused && wire.socket?.bytesRead === wire.bytes_before
}

async function readAnswer(
  response: Dispatcher.ResponseData,
  remote_address: string | null,
): Promise<Omit<AttemptResult, 'started_at' | 'ended_at'>> {
  const chunks: Buffer[] = []
  let read = 0
  try {
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      if (read < BODY_KEPT_MAX) chunks.push(chunk.subarray(0, BODY_KEPT_MAX - read))
      read += chunk.length
      if (read >= BODY_READ_MAX) break
    }
  } catch {
    // The status line is in: a body that is cut or never ends changes nothing.
  }
  response.body.destroy()
  const status = response.statusCode
  const verdict = judge(status, single(response.headers['webhook-delivery']))
  const retry_after_ms =
    verdict === 'success' ? undefined : parseRetryAfter(single(response.headers['retry-after']), new Date())
  return {
    verdict,
    outcome: verdict === 'success' ? 'delivered' : `http_${status}`,
    status,
    retry_after_ms,
    response_headers: keptHeaders(response.headers),
    response_body: storable(Buffer.concat(chunks).toString('utf8')),
    remote_address,
  }
}

const single = (value: string | string[] | undefined): string | undefined => (Array.isArray(value) ? value[0] : value)

/** PostgreSQL's texts hold no NUL. */
const storable = (text: string): string => text.replaceAll('\u0000', '\ufffd').toWellFormed()

function keptHeaders(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const kept: Record<string, string> = {}
  let size = 0
  for (const [name, value] of Object.entries(headers)) {
    const text = storable(Array.isArray(value) ? value.join(', ') : (value ?? ''))
    size += name.length + text.length
    if (size > HEADERS_KEPT_MAX) break
    kept[name] = text
  }
  return kept
}

const CLASSES: Readonly<Record<string, string>> = {
  HOOK_BLOCKED: 'blocked_address',
  ENOTFOUND: 'dns_notfound',
  EAI_AGAIN: 'dns_failed',
  ECONNREFUSED: 'tcp_refused',
  EHOSTUNREACH: 'tcp_unreachable',
  ENETUNREACH: 'tcp_unreachable',
  ETIMEDOUT: 'connect_timeout',
  ECONNRESET: 'tcp_reset',
  EPIPE: 'tcp_reset',
  UND_ERR_SOCKET: 'tcp_reset',
  UND_ERR_CONNECT_TIMEOUT: 'connect_timeout',
  UND_ERR_HEADERS_TIMEOUT: 'timeout',
  UND_ERR_BODY_TIMEOUT: 'timeout',
  UND_ERR_HEADERS_OVERFLOW: 'http_headers_too_large',
  CERT_HAS_EXPIRED: 'tls_expired',
  ERR_TLS_CERT_ALTNAME_INVALID: 'tls_wrong_name',
}

function errorClass(error: unknown): string {
  const errors = error instanceof AggregateError && error.errors.length ? error.errors : [error]
  const code = String((errors[0] as { code?: unknown } | null)?.code ?? '')
  if (CLASSES[code]) return CLASSES[code]
  if (errors[0] instanceof Error && errors[0].name === 'HTTPParserError') return 'http_parse'
  return /CERT|TLS|SSL|SELF_SIGNED|UNABLE_TO/.test(code) ? 'tls_failed' : 'connection_failed'
}
