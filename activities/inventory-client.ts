/**
 * One call of the inventory outside: a PUT, its answer within a total deadline. Never throws: what it came to is a value.
 * Its texts are cut, and free of what lets us in.
 */
import { Agent, request } from 'undici'
import type { Attributes } from '../domain/pcm/configuration.ts'
import { isHostName } from '../domain/pcm/inventory.ts'
import type { AttemptError } from '../domain/record.ts'
import type { ConfiguredInventory, InventoryCall } from '../store/outside-inventory.ts'

const TIMEOUT_MS = 5_000
const ANSWER_BYTES_MAX = 65_536
const EXCERPT_MAX = 200

// Idle connections are left before most servers close them (5 s).
const agent = new Agent({
  keepAliveTimeout: 4_000,
  pipelining: 1,
  connect: { timeout: 2_000 },
  maxResponseSize: ANSWER_BYTES_MAX,
})

/** Asks for the name of a request: the same one for the same request, however often. */
export async function askName(
  inventory: ConfiguredInventory,
  call: InventoryCall,
): Promise<{ readonly name: string } | { readonly error: AttemptError }> {
  const answer = await put(inventory, `requests/${encodeURIComponent(call.request_id)}`, call.body)
  if ('error' in answer) return answer
  const name = nameIn(answer.text)
  return isHostName(name) ? { name } : failed('invalid', `it gave no host name: ${answer.excerpt}`)
}

/** Tells what became of a machine. Null: it was taken. */
export async function tellRecord(inventory: ConfiguredInventory, call: InventoryCall): Promise<AttemptError | null> {
  const answer = await put(inventory, `names/${encodeURIComponent(call.name!)}`, call.body)
  return 'error' in answer ? answer.error : null
}

const failed = (error_class: string, message: string): { readonly error: AttemptError } => ({
  error: { class: error_class, message, at: new Date().toISOString() },
})

function nameIn(text: string): unknown {
  try {
    return (JSON.parse(text) as { name?: unknown } | null)?.name
  } catch {
    return undefined
  }
}

async function put(
  inventory: ConfiguredInventory,
  path: string,
  body: Attributes,
): Promise<{ readonly text: string; readonly excerpt: string } | { readonly error: AttemptError }> {
  const { url, username, password } = inventory
  const pair = `${username ?? ''}:${password?.reveal() ?? ''}`
  const deadline = AbortSignal.timeout(TIMEOUT_MS)
  try {
    const response = await request(`${url.replace(/\/+$/, '')}/${path}`, {
      dispatcher: agent,
      method: 'PUT',
      headers: {
        accept: 'application/json',
        'content-type': 'application/json',
        ...(pair === ':' ? {} : { authorization: `Basic ${base64(pair)}` }),
      },
      body: JSON.stringify(body),
      signal: deadline,
      headersTimeout: 0, // the deadline bounds the call as a whole
      bodyTimeout: 0,
    })
    const text = await response.body.text()
    const { statusCode: status } = response
    const excerpt = excerptOf(text, [base64(pair), ...spellings(password?.reveal() ?? '')])
    if (status >= 200 && status <= 299) return { text, excerpt }
    if (status === 401 || status === 403) return failed('auth', `it refuses us (${status}): ${excerpt}`)
    return failed(status >= 500 ? 'unavailable' : 'refused', `it answered ${status}: ${excerpt}`)
  } catch (error) {
    if (deadline.aborted) return failed('unavailable', `it did not answer within ${TIMEOUT_MS} ms`)
    const code = codeOf(error)
    if (code === 'UND_ERR_RES_EXCEEDED_MAX_SIZE')
      return failed('refused', `it answered more than ${ANSWER_BYTES_MAX} bytes`)
    return failed('unavailable', `it cannot be reached (${code})`)
  }
}

const base64 = (text: string): string => Buffer.from(text, 'utf8').toString('base64')

/** How a text may come back. */
const spellings = (text: string): string[] => [
  text,
  JSON.stringify(text).slice(1, -1),
  encodeURIComponent(text),
  base64(text),
]

/** The beginning of an answer, on one line. Secrets go first: the cut could leave half of one. */
function excerptOf(text: string, secrets: readonly string[]): string {
  const clean = secrets.filter(Boolean).reduce((rest, secret) => rest.replaceAll(secret, '[secret]'), text)
  const line = clean.toWellFormed().replaceAll(/[\p{Cc}\s]+/gu, ' ')
  return line.trim().slice(0, EXCERPT_MAX).toWellFormed() || 'nothing'
}

function codeOf(error: unknown): string {
  const [first] = error instanceof AggregateError && error.errors.length ? error.errors : [error]
  return String((first as { code?: unknown } | null)?.code ?? 'no answer')
}
