/** The closed list of errors that reach a caller. One place maps them to HTTP (api/errors.ts). */
export type ErrorCode =
  | 'invalid_request' // 400: what was sent is wrong; says where and what would be right
  | 'unauthenticated' // 401
  | 'forbidden' // 403: the role does not allow it
  | 'not_found' // 404: not there, or another project's
  | 'method_not_allowed' // 405
  | 'conflict' // 409: not in this state
  | 'gone' // 410: cursor expired
  | 'version_mismatch' // 412: If-Match
  | 'too_large' // 413
  | 'unsupported_media_type' // 415
  | 'key_reused' // 422: same idempotency key, other request
  | 'limit_reached' // 429
  | 'internal' // 500: our bug
  | 'capacity_exceeded' // 507: beyond what is set aside for the caller
  | 'unavailable' // 503: the record is away, or we are leaving

/** Where a request is wrong: a path into the body, query or headers, the reason, and what would be accepted. */
export interface Problem {
  readonly path: string
  readonly reason: string
  readonly accepted?: readonly string[]
}

export class DomainError extends Error {
  override readonly name = 'DomainError'
  readonly code: ErrorCode
  readonly problems: readonly Problem[]
  readonly retry_after_s: number | undefined
  constructor(
    code: ErrorCode,
    message: string,
    options: { problems?: readonly Problem[]; retry_after_s?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.code = code
    this.problems = options.problems ?? []
    this.retry_after_s = options.retry_after_s
  }
}
