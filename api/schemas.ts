/** Pieces that the schemas of several nouns share. */
import { z } from '@hono/zod-openapi'
import { DomainError, type Problem } from '../domain/errors.ts'
import { invalid } from './errors.ts'

export const PAGE_SIZE_MAX = 100
const PAGE_SIZE = 50
/** Later and earlier moments than these make no sense here, and not all of them fit into the record. */
const MOMENT_MIN = Date.UTC(1970, 0, 1)
const MOMENT_MAX = Date.UTC(2200, 0, 1)
/** Divides a schema's message into the reason and what would be accepted. */
const ACCEPTED = '; accepted: '

/** An object of which every field is known; an unknown one is refused with the list of those there are. */
export function fields<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys' ? `unknown field${ACCEPTED}${Object.keys(shape).join(', ')}` : undefined,
  })
}

/** A body that may come bare or inside its envelope, `{"hook": {…}}`. */
export function enveloped<Schema extends z.ZodType>(envelope: string, schema: Schema) {
  const unwrap = (value: unknown): unknown => {
    if (typeof value !== 'object' || value === null) return value
    const keys = Object.keys(value)
    const inner = (value as Record<string, unknown>)[envelope]
    // A field may have the envelope's name: `{"action": "terminate"}` is bare.
    return keys.length === 1 && typeof inner === 'object' && inner !== null ? inner : value
  }
  return z.preprocess(unwrap, schema)
}

/** The request part of a route with a JSON body. */
export const body = <Schema extends z.ZodType>(envelope: string, schema: Schema) => ({
  body: {
    required: true as const,
    description: `Bare, or in its envelope: \`{"${envelope}": {…}}\`.`,
    content: { 'application/json': { schema: enveloped(envelope, schema) } },
  },
})

/** A response with a JSON body. */
export const json = <Schema extends z.ZodType>(description: string, schema: Schema) => ({
  description,
  content: { 'application/json': { schema } },
})

/** `2026-01-01T10:00:00Z`, with zone. */
export const Moment = z.iso
  .datetime({ offset: true, error: `is not a moment with its zone${ACCEPTED}2026-01-31T10:00:00Z` })
  .refine((text) => Date.parse(text) >= MOMENT_MIN && Date.parse(text) < MOMENT_MAX, {
    error: 'lies out of reach; accepted: moments from 1970 to 2199',
  })

/** A moment as answers give it. */
export const MomentOut = z.iso.datetime()

/** A name people give: one line. */
export const Name = z
  .string()
  .min(1)
  .max(200)
  .regex(/^\P{Cc}+$/u, { error: 'must be one line of text without control characters' })

/** Names of clouds, sizes and images: part of addresses and workflow ids. */
export const Word = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, {
  error: 'is not a name; accepted: letters, digits, dots, dashes and underscores, at most 63',
})

export const Int4 = z.int().min(-2_147_483_648).max(2_147_483_647)

export const BlockerOut = z
  .strictObject({ code: z.string(), reason: z.string(), since: z.string(), next_try_at: z.string().optional() })
  .openapi('Blocker')

export const ErrorOut = z
  .strictObject({
    class: z.string(),
    message: z.string(),
    at: z.string(),
    evidence: z.record(z.string(), z.unknown()).optional(),
  })
  .openapi('ProviderError')

/** Query of a paged list. */
export const page = {
  limit: z.coerce.number().int().min(1).max(PAGE_SIZE_MAX).default(PAGE_SIZE),
  cursor: z.string().max(1_000).optional().openapi({ description: '`next` of the page before.' }),
}

/** Field `next` of a paged list. */
export const Next = z.string().nullable().openapi({ description: 'Cursor of the next page; null: this is the last.' })

export const iso = (moment: Date): string => moment.toISOString()
export const isoOrNull = (moment: Date | null | undefined): string | null => moment?.toISOString() ?? null

/** Makes an opaque cursor for a list of one kind. */
export function encodeCursor(kind: string, value: string | number): string {
  return Buffer.from(`${kind}:${value}`).toString('base64url')
}

/** Reads a cursor; one that is not of this kind of list is a 400. */
export function decodeCursor(kind: string, pattern: RegExp, cursor: string, path = 'query.cursor'): string {
  const text = Buffer.from(cursor, 'base64url').toString('utf8')
  const value = text.startsWith(`${kind}:`) ? text.slice(kind.length + 1) : ''
  if (encodeCursor(kind, value) !== cursor || !pattern.test(value)) {
    throw invalid([{ path, reason: 'is not a cursor of this list', accepted: ['`next` of an earlier answer'] }])
  }
  return value
}

export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
export const NUMBER = /^[0-9]{1,15}$/

/** The place where a page begins: the id behind the cursor. */
export function beforeId(kind: string, cursor: string | undefined): string | undefined {
  return cursor === undefined ? undefined : decodeCursor(kind, UUID, cursor)
}

/** Cursor behind a full page; lists ask the record for one row more than they show. */
export function nextCursor(kind: string, rows: readonly { id: string | number }[], limit: number): string | null {
  return rows.length > limit ? encodeCursor(kind, rows[limit - 1]!.id) : null
}

/** An id in an address; what cannot be one is not there. */
export const Id = z.string().regex(UUID, { error: 'is not an id' }).openapi({ format: 'uuid' })

interface Issue {
  readonly code?: string
  readonly message: string
  readonly path: readonly PropertyKey[]
  readonly keys?: readonly string[]
  readonly values?: readonly unknown[]
  readonly expected?: string
  readonly minimum?: unknown
  readonly maximum?: unknown
  readonly format?: string
  readonly errors?: readonly (readonly Issue[])[]
}

/** What a schema found, in our words. A wrong part of the address is a 404: nothing can be there. */
export function schemaError(target: string, issues: readonly Issue[]): DomainError {
  if (target === 'param') return new DomainError('not_found', 'there is nothing at this address')
  const root = { json: 'body', query: 'query', header: 'headers', form: 'body', cookie: 'cookies' }[target] ?? target
  const problems = issues.slice(0, 20).flatMap((issue) => toProblems(root, issue))
  return invalid(problems as [Problem, ...Problem[]])
}

function toProblems(root: string, issue: Issue): Problem[] {
  const at = (path: readonly PropertyKey[]): string =>
    path.reduce<string>((text, key) => (typeof key === 'number' ? `${text}[${key}]` : `${text}.${String(key)}`), root)
  const [reason, listed] = issue.message.split(ACCEPTED) as [string, string | undefined]
  if (issue.code === 'unrecognized_keys') {
    const accepted = listed ? listed.split(', ') : []
    return (issue.keys ?? [])
      .slice(0, 20)
      .map((key) => ({ path: at([...issue.path, key.slice(0, 100)]), reason, accepted }))
  }
  const accepted = listed ? [listed] : acceptedBy(issue)
  return [{ path: at(issue.path), reason: lower(reason), ...(accepted.length ? { accepted } : {}) }]
}

function acceptedBy(issue: Issue): string[] {
  if (issue.values) return issue.values.map(String)
  if (issue.errors) return [...new Set(issue.errors.flat().flatMap(acceptedBy))]
  if (issue.minimum !== undefined) return [`at least ${String(issue.minimum)}`]
  if (issue.maximum !== undefined) return [`at most ${String(issue.maximum)}`]
  if (issue.expected) return [issue.expected]
  return issue.format ? [issue.format] : []
}

const lower = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1)
