/** What is read of a request besides its schema: body, idempotency key, version. */
import { createHash } from 'node:crypto'
import { bodyLimit } from 'hono/body-limit'
import { createMiddleware } from 'hono/factory'
import { DomainError } from '../domain/errors.ts'
import { jsonProblem } from '../domain/json.ts'
import type { RequestKey } from '../store/orders.ts'
import type { ApiContext, ApiEnv } from './context.ts'
import { invalid } from './errors.ts'

const BODY_BYTES_MAX = 1_048_576
const KEY = /^[\x21-\x7e]{1,255}$/

/** Refuses a body beyond 1 MiB, by its announced length or when the limit is passed while reading. */
export const limitBody = bodyLimit({
  maxSize: BODY_BYTES_MAX,
  onError: (c) => {
    // What is still on its way is not read: this connection cannot carry another request.
    c.header('Connection', 'close')
    throw new DomainError('too_large', `the body is larger than ${BODY_BYTES_MAX} bytes`)
  },
})

/** Reads a JSON body, before its schema does: well formed, not too deep, of texts that the record can keep. */
export const readJson = createMiddleware<ApiEnv>(async function readJson(c, next) {
  const text = await c.req.text()
  if (text !== '') {
    const problem = jsonProblem(parseJson(text), 'body')
    if (problem) throw invalid([problem])
  } else if (c.req.method !== 'DELETE' && !c.req.header('content-type')) {
    throw invalid([
      { path: 'body', reason: 'is missing', accepted: ['a JSON object (Content-Type: application/json)'] },
    ])
  }
  await next()
})

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const reason =
      error instanceof Error ? error.message.replace(/"(?:[^"\\]|\\.)*" is not valid/, 'this is not valid') : ''
    throw invalid([{ path: 'body', reason: `is not JSON: ${reason.slice(0, 120)}`, accepted: ['a JSON object'] }])
  }
}

/** The `Idempotency-Key`, with the hash of what it was sent with; null: there is none. */
export async function requestKey(c: ApiContext): Promise<RequestKey | null> {
  const key = c.req.header('idempotency-key')
  if (key === undefined) return null
  if (!KEY.test(key)) {
    throw invalid([
      { path: 'headers.idempotency-key', reason: 'is not a key', accepted: ['1 to 255 visible ASCII characters'] },
    ])
  }
  const target = new URL(c.req.url)
  const hash = createHash('sha256')
    .update(`${c.req.method} ${target.pathname}${target.search}\n`)
    .update(await c.req.text())
    .digest()
  return { key, hash }
}

/** The version `If-Match` asks for; undefined: any. */
export function ifMatch(c: ApiContext): number | undefined {
  const header = c.req.header('if-match')
  if (header === undefined || header === '*') return undefined
  const found = /^(?:W\/)?"(\d{1,9})"$/.exec(header)
  if (!found) {
    throw invalid([
      { path: 'headers.if-match', reason: 'is not a version', accepted: ['the ETag of an answer, such as "3"'] },
    ])
  }
  return Number(found[1])
}

/** Tells the version of the resource in the answer. */
export function tellVersion(c: ApiContext, sequence: number): void {
  c.header('ETag', `"${sequence}"`)
}
