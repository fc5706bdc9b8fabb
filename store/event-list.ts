/** Events as readers list them: only those with a position, so that a reader never jumps over a slow transaction. */
import { type Kysely, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import type { Tables } from './tables.ts'

/** Whose events: a project's, and the installation's own for operators. */
export interface EventScope {
  readonly project_id: string
  readonly installation: boolean
}

export interface EventQuery {
  readonly type?: string | undefined
  readonly resource_type?: string | undefined
  readonly resource_id?: string | undefined
  readonly limit: number
}

const scoped = (db: Kysely<Tables>, scope: EventScope) =>
  db
    .selectFrom('events')
    .select([
      'id',
      'project_id',
      'resource_type',
      'resource_id',
      'sequence',
      'type',
      'from_state',
      'to_state',
      'snapshot',
      'cause',
      'at',
      'position',
    ])
    .where((where) =>
      scope.installation
        ? where.or([where('project_id', '=', scope.project_id), where('project_id', 'is', null)])
        : where('project_id', '=', scope.project_id),
    )

function narrowed(db: Kysely<Tables>, scope: EventScope, query: EventQuery) {
  let rows = scoped(db, scope).where('position', 'is not', null).limit(query.limit)
  if (query.type?.endsWith('.*')) rows = rows.where(sql<boolean>`starts_with(type, ${query.type.slice(0, -1)})`)
  else if (query.type && query.type !== '*') rows = rows.where('type', '=', query.type)
  if (query.resource_type) rows = rows.where('resource_type', '=', query.resource_type)
  if (query.resource_id) rows = rows.where('resource_id', '=', query.resource_id)
  return rows
}

export type ShownEvent = Awaited<ReturnType<typeof eventsBefore>>[number]

/** Newest first, before a position. */
export function eventsBefore(db: Kysely<Tables>, scope: EventScope, query: EventQuery, before: number | undefined) {
  const rows = narrowed(db, scope, query).orderBy('position', 'desc')
  return (before === undefined ? rows : rows.where('position', '<', before)).execute()
}

/**
 * Oldest first, behind a position. Throws `gone` where the event at that position was dropped after its retention, so
 * that events behind it may be missing, too.
 */
export async function eventsAfter(
  db: Kysely<Tables>,
  scope: EventScope,
  query: EventQuery,
  after: number | undefined,
): Promise<{ events: ShownEvent[]; expired: false } | { expired: true; oldest: number | null }> {
  if (after !== undefined) {
    const { rows } = await sql<{ present: boolean; newest: number; oldest: number | null }>`
      select exists (select from events where position = ${after}) as present,
        coalesce((select max(position) from events), 0) as newest, (select min(position) from events) as oldest`.execute(
      db,
    )
    const { present, newest, oldest } = rows[0]!
    if (after > newest) throw new DomainError('invalid_request', 'this cursor points behind the newest event')
    if (!present) return { expired: true, oldest: oldest === null ? null : oldest }
  }
  const rows = narrowed(db, scope, query).orderBy('position', 'asc')
  return { expired: false, events: await (after === undefined ? rows : rows.where('position', '>', after)).execute() }
}

/**
 * The newest position, and whose events there are behind `after` (null: the installation's). All that stands at or before
 * the newest position is visible to whoever reads after this: positions are given to what is committed.
 */
export async function newEvents(
  db: Kysely<Tables>,
  after: number | undefined,
): Promise<{ newest: number; projects: ReadonlySet<string | null> | null }> {
  if (after === undefined) {
    const row = await db
      .selectFrom('events')
      .select((fn) => fn.fn.max('position').as('newest'))
      .executeTakeFirst()
    return { newest: Number(row?.newest ?? 0), projects: null }
  }
  const { rows } = await sql<{ newest: number | null; projects: (string | null)[] | null }>`
    select max(position) as newest, array_agg(distinct project_id) as projects from events where position > ${after}`.execute(
    db,
  )
  return { newest: rows[0]!.newest ?? after, projects: new Set(rows[0]!.projects ?? []) }
}

/** One event, stamped or not. */
export function findEvent(db: Kysely<Tables>, scope: EventScope, event_id: string) {
  return scoped(db, scope).where('id', '=', event_id).executeTakeFirst()
}
