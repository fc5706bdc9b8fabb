/** Events: read back, followed, streamed. */
import { createRoute, z } from '@hono/zod-openapi'
import { DomainError } from '../../domain/errors.ts'
import {
  type EventQuery,
  type EventScope,
  eventsAfter,
  eventsBefore,
  findEvent,
  type ShownEvent,
} from '../../store/event-list.ts'
import type { Api, ApiContext, ApiDeps } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { errors, guarded } from '../route.ts'
import { decodeCursor, encodeCursor, fields, Id, iso, json, MomentOut, NUMBER, page } from '../schemas.ts'
import { awaitEvents, type Reader, streamEvents } from './event-stream.ts'
import { EventTail } from './event-tail.ts'

// Schema -------------------------------------------------------------------------------------------------------------

export const CauseOut = z
  .strictObject({
    actor: z.strictObject({ user_id: z.string(), request_id: z.string() }).optional(),
    rule: z.string().optional(),
    reason: z.string(),
    evidence: z.record(z.string(), z.unknown()).optional(),
    event: z.string().optional().openapi({ description: 'The event that brought it about.' }),
  })
  .openapi('Cause')

export const EventOut = z
  .strictObject({
    id: z.string(),
    cursor: z.string().nullable().openapi({ description: 'Place among all events; null: not yet given.' }),
    type: z.string(),
    resource_type: z.string(),
    resource_id: z.string(),
    sequence: z.int().openapi({ description: 'Of the resource, without gaps.' }),
    from: z.string().nullable(),
    to: z.string().nullable(),
    at: MomentOut,
    cause: CauseOut,
    snapshot: z.record(z.string(), z.unknown()),
  })
  .openapi('Event')

const CURSOR = 'events'
const WAIT_S_MAX = 60
const TYPE = /^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$/
const EventsQuery = fields({
  limit: page.limit,
  cursor: page.cursor,
  after: z.string().max(200).optional().openapi({
    description: 'Oldest first, behind this cursor; empty: from the oldest event there is. `next` is where to go on.',
  }),
  wait_s: z.coerce.number().int().min(1).max(WAIT_S_MAX).optional().openapi({
    description: 'With `after`: so long the answer waits for the first event behind the cursor. Empty when none came.',
  }),
  type: z
    .string()
    .max(128)
    .regex(TYPE, { error: 'is not a type of event; accepted: order.created, order.*' })
    .optional(),
  resource_type: z
    .enum(['order', 'instance', 'deployment', 'lease', 'hook', 'cloud', 'credential', 'project', 'installation'])
    .optional(),
  resource_id: Id.optional(),
})
const Next = z.string().nullable().openapi({
  description: 'With `after`: where to go on asking, also when there is nothing new. Else: the next page, or null.',
})

/** An event as every route of the native wire shows it. */
export const renderEvent = (row: Omit<ShownEvent, 'project_id'>): z.infer<typeof EventOut> => ({
  id: row.id,
  cursor: row.position === null ? null : encodeCursor(CURSOR, row.position),
  type: row.type,
  resource_type: row.resource_type,
  resource_id: row.resource_id,
  sequence: row.sequence,
  from: row.from_state,
  to: row.to_state,
  at: iso(row.at),
  cause: row.cause,
  snapshot: row.snapshot,
})

/** Whose events the asker sees. */
export const scopeOf = (c: ApiContext): EventScope => ({
  project_id: c.get('identity').project_id,
  installation: c.get('identity').role === 'operator',
})

// Routes -------------------------------------------------------------------------------------------------------------

const list = createRoute({
  method: 'get',
  path: '/api/events',
  tags: ['events'],
  summary: 'List events, follow them with `after` (and `wait_s`), or stream them with Accept: text/event-stream',
  ...guarded('read'),
  request: {
    query: EventsQuery,
    headers: z.object({
      'last-event-id': z.string().max(200).optional().openapi({
        description:
          'Of a stream: the cursor it goes on behind; before `after`. Neither: from the oldest event there is.',
      }),
    }),
  },
  responses: {
    200: {
      description:
        'A page; or server-sent events: `id` the cursor, `event` the type, `data` the event as in a page. A comment comes ' +
        'every 15 s at least. The stream ends with its token, and when the process leaves: go on from the last `id`.',
      content: {
        'application/json': { schema: z.strictObject({ events: z.array(EventOut), next: Next }) },
        'text/event-stream': { schema: z.string() },
      },
    },
    ...errors,
  },
})

const get = createRoute({
  method: 'get',
  path: '/api/events/{event_id}',
  tags: ['events'],
  summary: 'Read an event',
  ...guarded('read'),
  request: { params: z.strictObject({ event_id: z.string().regex(/^evt_[0-9A-Z]{26}$/) }) },
  responses: { 200: json('The event.', z.strictObject({ event: EventOut })), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/events`. */
export function routeEvents(app: Api, deps: ApiDeps): void {
  const tail = new EventTail(deps)
  app.openapi(list, async (c) => {
    const { limit, cursor, after, wait_s, ...filter } = c.req.valid('query')
    const { db } = deps.store
    if (cursor !== undefined && after !== undefined)
      throw invalid([{ path: 'query.after', reason: 'lists oldest first and cannot go with `cursor`' }])
    const reader = (place: number | undefined): Reader<z.infer<typeof EventOut>> => ({
      tail,
      scope: scopeOf(c),
      place,
      read: (position, size) => behind(c, { ...filter, limit: size }, position),
      placeOf,
    })
    // A HEAD asks for no body, so nobody would read the stream.
    if (/\btext\/event-stream\b/.test(c.req.header('accept') ?? '') && c.req.method !== 'HEAD') {
      if (cursor !== undefined || wait_s !== undefined)
        throw invalid([{ path: `query.${cursor === undefined ? 'wait_s' : 'cursor'}`, reason: 'is not for a stream' }])
      const last = c.req.header('last-event-id')
      return streamEvents(c, reader(last ? placeOf(last, 'headers.last-event-id') : placeOf(after ?? '')))
    }
    if (wait_s !== undefined && after === undefined)
      throw invalid([{ path: 'query.wait_s', reason: 'goes with `after` only' }])
    if (after !== undefined) {
      const place = placeOf(after)
      const events =
        wait_s === undefined
          ? await behind(c, { ...filter, limit }, place)
          : await awaitEvents(c, reader(place), limit, wait_s)
      const next = events.at(-1)?.cursor ?? (after || null)
      return c.json({ events: [...events], next }, 200)
    }
    const before = cursor === undefined ? undefined : Number(decodeCursor(CURSOR, NUMBER, cursor))
    const rows = await eventsBefore(db, scopeOf(c), { ...filter, limit: limit + 1 }, before)
    const events = rows.slice(0, limit).map(renderEvent)
    return c.json({ events, next: rows.length > limit ? (events.at(-1)?.cursor ?? null) : null }, 200)
  })

  app.openapi(get, async (c) => {
    const { event_id } = c.req.valid('param')
    const event = await findEvent(c.get('deps').store.db, scopeOf(c), event_id)
    if (!event) throw notFound('event', event_id)
    return c.json({ event: renderEvent(event) }, 200)
  })
}

const placeOf = (cursor: string, path = 'query.after'): number | undefined =>
  cursor === '' ? undefined : Number(decodeCursor(CURSOR, NUMBER, cursor, path))

/** Events behind a place; 410 with the oldest cursor where that place was dropped. */
async function behind(c: ApiContext, query: EventQuery, place: number | undefined) {
  const found = await eventsAfter(c.get('deps').store.db, scopeOf(c), query, place)
  if (!found.expired) return found.events.map(renderEvent)
  const oldest = found.oldest === null ? '' : encodeCursor(CURSOR, found.oldest)
  const problem = { path: 'query.after', reason: 'is older than what is kept', accepted: [oldest] }
  throw new DomainError('gone', `this cursor expired; the oldest is ${oldest || 'the empty one'}`, {
    problems: [problem],
  })
}
