/**
 * Events: written with the change they tell of, in its transaction; stamped with a position after the commit.
 *
 * The database does the rest by triggers: it refuses a gap in a resource's sequence, chains digests, and makes one
 * delivery row for each hook that wants the event.
 */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import { uuidToULID } from 'ulid'
import { v7 as newId } from 'uuid'
import type { Cause } from '../domain/record.ts'
import { leave, type Store, type Trx } from './database.ts'
import type { Tables } from './tables.ts'

/** An event to be written. `sequence` is the resource row's, after it was raised in the same transaction. */
export interface NewEvent {
  /** Where another of the same call follows from it; see `newEventId`. */
  readonly id?: string
  readonly project_id: string | null
  readonly resource_type:
    | 'order'
    | 'instance'
    | 'deployment'
    | 'lease'
    | 'hook'
    | 'cloud'
    | 'credential'
    | 'project'
    | 'installation'
  readonly resource_id: string
  readonly sequence: number
  /** Dotted, `a-z 0-9 _`, for example `instance.state_changed`. */
  readonly type: string
  readonly from?: string | null
  readonly to?: string | null
  readonly snapshot: Readonly<{ [field: string]: unknown }>
  readonly cause: Cause
}

/** Whether a project has hooks, so that its events may be deliveries as well. */
export const hasHooks = (project_id: RawBuilder<unknown>) =>
  sql<boolean>`exists (select from hooks where hooks.project_id = ${project_id} and hooks.state <> 'deleted')`

/** The id of an event to be, for what follows from it. (`ulid()` asks the system for its chance letter by letter.) */
export const newEventId = (): string => `evt_${uuidToULID(newId())}`

/** Writes events and returns their ids, in the order given. */
export async function recordEvents(trx: Trx, events: readonly NewEvent[]): Promise<string[]> {
  if (!events.length) return []
  leave(trx, 'events')
  const ids = events.map(({ id }) => id ?? newEventId())
  // One text whatever their number, so that it is a prepared one.
  const rows = events.map((event, i) => ({ ...event, id: ids[i]! }))
  const { rows: told } = await sql<{ has_hooks: boolean }>`
    insert into events (id, project_id, resource_type, resource_id, sequence, type, from_state, to_state, snapshot, cause)
    select id, project_id, resource_type, resource_id, sequence, type, "from", "to", snapshot, cause
    from rows from (jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as (id text, project_id uuid, resource_type text,
      resource_id uuid, sequence int, type text, "from" text, "to" text, snapshot jsonb, cause jsonb)) with ordinality
    order by ordinality
    returning ${hasHooks(sql.ref('events.project_id'))} as has_hooks`.execute(trx)
  if (told.some((row) => row.has_hooks)) leave(trx, 'deliveries')
  return ids
}

/** The newest event of a resource: what a rule names as the cause of what it does next. */
export async function lastEventId(
  db: Kysely<Tables>,
  resource_type: string,
  resource_id: string,
): Promise<string | undefined> {
  const row = await db
    .selectFrom('events')
    .select('id')
    .where('resource_type', '=', resource_type)
    .where('resource_id', '=', resource_id)
    .orderBy('sequence', 'desc')
    .limit(1)
    .executeTakeFirst()
  return row?.id
}

const STAMP_BATCH = 2_000
const STAMP_LOCK = 4_805_001

/**
 * Gives a position to every committed event that has none; returns how many. One pass at a time in the whole
 * installation: a position is only ever given to what is visible, so a reader beyond it can miss nothing.
 */
export async function stampEvents(store: Store): Promise<number> {
  // Rows that another pass has stamped since this statement began are seen without a position, and left as they are.
  const stamped = await sql`
    with locked as materialized (select pg_try_advisory_xact_lock(${STAMP_LOCK}) as is_mine)
    update events set position = fresh.position
    from (select number, nextval('event_position') as position
      from (select number from events, locked where is_mine and position is null order by number limit ${STAMP_BATCH}) unstamped) fresh
    where events.number = fresh.number and events.position is null`.execute(store.db)
  return Number(stamped.numAffectedRows ?? 0)
}
