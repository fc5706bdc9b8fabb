/**
 * One HTTP call to a provider, for all adapters that speak HTTP themselves. It knows the one thing that matters for
 * launching once only: whether a failed call can have reached the provider. Nothing is ever sent twice here.
 */
import { Agent, request } from 'undici'
import { ProviderError } from './provider.ts'

const LONGEST_EVIDENCE = 500

// One agent for all clouds: it pools per address. Without a limit of connections, or the hanging calls of one cloud
// would hold up the others behind the same address. Idle connections are left before most servers close them (5 s).
const agent = new Agent({
  keepAliveTimeout: 4_000,
  keepAliveMaxTimeout: 60_000,
  pipelining: 1,
  connect: { timeout: 2_000 },
  maxResponseSize: 64 * 1024 * 1024,
})

export interface HttpCall {
  /** What the call is for, in words of the contract; goes to evidence. */
  readonly verb: string
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  readonly url: string
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as JSON. */
  readonly body?: unknown
  /** True where repeating or missing the call matters: a failure on the way is `lost_reply`, not `unavailable`. */
  readonly is_write: boolean
  readonly timeout_ms: number
  readonly signal: AbortSignal
  /** Words that must not appear in evidence. */
  readonly secrets?: readonly string[]
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
}

/** Sends once and returns whatever answer came. Throws `unavailable` or `lost_reply` where none did. */
export async function sendOnce(call: HttpCall): Promise<HttpAnswer> {
  if (call.signal.aborted) {
    throw new ProviderError('unavailable', 'The call was given up before it was sent.', { evidence: evidenceOf(call) })
  }
  const controller = new AbortController()
  const giveUp = () => controller.abort()
  const timer = setTimeout(giveUp, call.timeout_ms)
  call.signal.addEventListener('abort', giveUp, { once: true })
  try {
    const { statusCode, headers, body } = await request(call.url, {
      dispatcher: agent,
      method: call.method,
      headers: { accept: 'application/json', ...jsonType(call.body), ...call.headers },
      body: call.body === undefined ? null : JSON.stringify(call.body),
      signal: controller.signal,
      headersTimeout: 0, // the timer above bounds the call as a whole
      bodyTimeout: 0,
    })
    return { status: statusCode, headers, text: await body.text() }
  } catch (error) {
    throw transportError(call, error, controller.signal.aborted)
  } finally {
    clearTimeout(timer)
    call.signal.removeEventListener('abort', giveUp)
  }
}

/** The error of a call whose answer cannot be trusted: what it means depends on whether it was a write. */
export function unknownOutcome(call: HttpCall, message: string, more: Record<string, unknown> = {}): ProviderError {
  return new ProviderError(call.is_write ? 'lost_reply' : 'unavailable', message, { evidence: evidenceOf(call, more) })
}

/** What is kept of a call for a person to read: texts are cut and free of secrets. */
export function evidenceOf(call: HttpCall, more: Record<string, unknown> = {}): Record<string, unknown> {
  const evidence: Record<string, unknown> = { verb: call.verb, method: call.method, url: call.url }
  for (const [key, value] of Object.entries(more)) {
    if (value === undefined) continue
    evidence[key] = typeof value === 'string' ? presentable(value, call.secrets ?? []) : value
  }
  return evidence
}

function presentable(text: string, secrets: readonly string[]): string {
  const clean = secrets.reduce((rest, secret) => (secret === '' ? rest : rest.replaceAll(secret, '[redacted]')), text)
  return clean.slice(0, LONGEST_EVIDENCE)
}

function transportError(call: HttpCall, error: unknown, is_given_up: boolean): ProviderError {
  const { code, message } = describe(error)
  const more = { cause: code, text: message }
  if (code === 'UND_ERR_INVALID_ARG') {
    return new ProviderError('invalid', 'The call cannot be put on the wire.', { evidence: evidenceOf(call, more) })
  }
  if (!is_given_up && wasNeverSent(error)) {
    return new ProviderError('unavailable', 'The cloud could not be reached.', { evidence: evidenceOf(call, more) })
  }
  if (!is_given_up) return unknownOutcome(call, 'The connection broke before the answer was complete.', more)
  return call.signal.aborted
    ? unknownOutcome(call, 'The call was given up before the cloud answered.')
    : unknownOutcome(call, `The cloud did not answer within ${call.timeout_ms} ms.`, { timeout_ms: call.timeout_ms })
}

/**
 * Whether the failure was before anything was sent: while the name was resolved or the connection was made. A reset of
 * a connection that was kept alive looks the same as one after the request was read, so it counts as sent.
 */
function wasNeverSent(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.length > 0 && error.errors.every(wasNeverSent)
  if (!(error instanceof Error)) return false
  const { syscall, code } = error as NodeJS.ErrnoException
  return syscall === 'connect' || syscall === 'getaddrinfo' || code === 'UND_ERR_CONNECT_TIMEOUT'
}

function describe(error: unknown): { code: string | undefined; message: string } {
  if (!(error instanceof Error)) return { code: undefined, message: String(error) }
  return { code: (error as NodeJS.ErrnoException).code, message: error.message }
}

function jsonType(body: unknown): Record<string, string> {
  return body === undefined ? {} : { 'content-type': 'application/json' }
}
