/** The one place that knows which error is which HTTP status, and what an error looks like on the native wire. */
import { z } from '@hono/zod-openapi'
import { HTTPException } from 'hono/http-exception'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { DomainError, type ErrorCode, type Problem } from '../domain/errors.ts'
import { isAway, isOvertaken } from '../store/database.ts'
import type { ApiContext } from './context.ts'
import { PCM, renderPcmError } from './pcm/errors.ts'

const STATUS: Readonly<Record<ErrorCode, ContentfulStatusCode>> = {
  invalid_request: 400,
  unauthenticated: 401,
  forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  conflict: 409,
  gone: 410,
  version_mismatch: 412,
  too_large: 413,
  unsupported_media_type: 415,
  key_reused: 422,
  limit_reached: 429,
  internal: 500,
  unavailable: 503,
  capacity_exceeded: 507,
}

/** While the record is away, callers come back after this; the service goes on by itself. */
const AWAY_RETRY_S = 2

/** The body of every error answer. */
export const ErrorBody = z
  .strictObject({
    error: z.strictObject({
      code: z.enum(Object.keys(STATUS) as [ErrorCode, ...ErrorCode[]]),
      message: z.string(),
      request_id: z.string(),
      problems: z
        .array(
          z.strictObject({
            path: z.string().openapi({ example: 'body.count' }),
            reason: z.string(),
            accepted: z.array(z.string()).optional(),
          }),
        )
        .optional(),
    }),
  })
  .openapi('Error')

const json = (description: string) => ({ description, content: { 'application/json': { schema: ErrorBody } } })

/** The error answers any route may give, for its OpenAPI entry. */
export const ERROR_RESPONSES = {
  400: json('What was sent is wrong: `problems` says where, why, and what would be accepted.'),
  401: json('No token, or none that is valid.'),
  403: json('The role of the token does not allow it.'),
  404: json('Not there, or of another project.'),
  409: json('Not in this state.'),
  410: json('Expired: begin again from the cursor named.'),
  412: json('`If-Match` names another version than the present one.'),
  413: json('The body is larger than 1 MiB.'),
  422: json('The `Idempotency-Key` was used for another request.'),
  429: json('A limit is reached.'),
  500: json('A fault of ours; the log has it under the request id.'),
  503: json('The record is away or the process is leaving: repeat after `Retry-After`.'),
} as const

/** Answers a request that failed. Only faults of ours are logged as errors; their detail stays in the log. */
export function renderError(thrown: Error, c: ApiContext): Response {
  const error = toDomainError(thrown)
  const request_id = c.get('request_id')
  if (error.code === 'internal') {
    const { name, message, stack } = thrown
    c.get('deps').log.error(
      { request_id, method: c.req.method, path: c.req.path, err: { name, message, stack } },
      'request failed',
    )
  }
  const { code, problems } = error
  if (error.retry_after_s !== undefined) c.header('Retry-After', String(error.retry_after_s))
  if (code === 'unauthenticated') c.header('WWW-Authenticate', 'Bearer realm="holdfast", Basic realm="holdfast"')
  const message = code === 'internal' ? 'a fault of ours; the log has it under this request id' : error.message
  if (c.req.path.startsWith(PCM)) return renderPcmError(c, { code, message, problems }, STATUS)
  return c.json({ error: { code, message, request_id, ...(problems.length ? { problems } : {}) } }, STATUS[code])
}

function toDomainError(thrown: Error): DomainError {
  if (thrown instanceof DomainError) {
    // Routes of the record that are away throw through drivers; whoever says `unavailable` himself is repeated, too.
    return thrown.code === 'unavailable' && thrown.retry_after_s === undefined ? unavailable(thrown) : thrown
  }
  if (isAway(thrown)) return unavailable(thrown)
  if (isOvertaken(thrown)) {
    const message = 'others were changing the same at the same time; repeat the request'
    return new DomainError('unavailable', message, { retry_after_s: AWAY_RETRY_S, cause: thrown })
  }
  if (thrown instanceof HTTPException) return fromFramework(thrown)
  return new DomainError('internal', 'internal error', { cause: thrown })
}

function unavailable(cause: Error): DomainError {
  const message = cause instanceof DomainError ? cause.message : 'the record cannot be reached at the moment'
  return new DomainError('unavailable', message, { retry_after_s: AWAY_RETRY_S, cause })
}

function fromFramework(thrown: HTTPException): DomainError {
  if (thrown.status === 413) return new DomainError('too_large', 'the body is larger than 1 MiB')
  if (thrown.status === 415) {
    return invalid([
      { path: 'headers.content-type', reason: 'this type of body is not read', accepted: ['application/json'] },
    ])
  }
  if (thrown.status < 500) return invalid([{ path: 'body', reason: 'cannot be read' }])
  return new DomainError('internal', 'internal error', { cause: thrown })
}

/** A 400 with its problems; the message repeats the first, for people who read only that. */
export function invalid(problems: readonly [Problem, ...Problem[]]): DomainError {
  const [{ path, reason, accepted }] = problems
  const hint = accepted?.length ? ` (accepted: ${accepted.slice(0, 10).join(', ')})` : ''
  return new DomainError('invalid_request', `${path}: ${reason}${hint}`, { problems })
}

/** A 404 in the usual words. */
export function notFound(noun: string, id: string): DomainError {
  return new DomainError('not_found', `there is no ${noun} ${id}`)
}
