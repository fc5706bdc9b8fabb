/** Errors as PCM tells them (part 1, errors): `error` and `status` are texts, more goes into keys beside them. */
import { STATUS_CODES } from 'node:http'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { DomainError, ErrorCode } from '../../domain/errors.ts'
import type { ApiContext } from '../context.ts'

export const PCM = '/pcm_api'

/** Where PCM has another status than the rest (W9: a key that was used for another request). */
const OTHER: Partial<Readonly<Record<ErrorCode, ContentfulStatusCode>>> = { key_reused: 409, limit_reached: 507 }

/** Renders an error. `?details` adds what is known of it, for operators. */
export function renderPcmError(
  c: ApiContext,
  { code, message, problems }: Pick<DomainError, 'code' | 'message' | 'problems'>,
  statuses: Readonly<Record<ErrorCode, ContentfulStatusCode>>,
): Response {
  const status = OTHER[code] ?? statuses[code]
  const wants_details = new URL(c.req.url).searchParams.has('details')
  const details =
    wants_details && c.get('identity')?.role === 'operator'
      ? { details: { code, request_id: c.get('request_id'), problems } }
      : {}
  return pcmJson(c, { error: String(status), status: `${status} ${STATUS_CODES[status]}`, message, ...details }, status)
}

/** An answer: indented where the caller asks for `?pretty`. */
export function pcmJson(c: ApiContext, body: unknown, status: ContentfulStatusCode): Response {
  const { pathname, searchParams } = new URL(c.req.url)
  const indent = searchParams.has('pretty') && pathname.startsWith(PCM) ? 2 : undefined
  return c.body(JSON.stringify(body, undefined, indent), status, { 'content-type': 'application/json; charset=utf-8' })
}
