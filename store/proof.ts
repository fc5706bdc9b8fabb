/** What a receiver checks its events of one resource against: how many there are, and the chain of their digests. */
import { type Kysely, sql } from 'kysely'
import type { EventScope } from './event-list.ts'
import type { Tables } from './tables.ts'

export interface ProofQuery {
  readonly resource_type: string
  readonly resource_id: string
  /** Links behind this sequence. */
  readonly after: number
  readonly limit: number
}

/** The proof of one resource; undefined where the asker may see no event of it. */
export async function findProof(db: Kysely<Tables>, scope: EventScope, query: ProofQuery) {
  // A cloud's events belong to nobody: who may ask was checked.
  const { rows } = await sql<{ first: number | null; last: number; count: number; digest: string; links: ProofLink[] }>`
    with own as not materialized (
      select * from events where resource_type = ${query.resource_type} and resource_id = ${query.resource_id}
        and (project_id = ${scope.project_id} or (resource_type = 'cloud' and project_id is null))),
    page as (select * from own where sequence > ${query.after} order by sequence limit ${query.limit})
    select min(sequence) as first, max(sequence) as last, count(*) as count,
      (select encode(digest, 'hex') from own order by sequence desc limit 1) as digest,
      (select coalesce(json_agg(json_build_object('sequence', sequence, 'event_id', id, 'digest', encode(digest, 'hex'),
        'text', event_text(page::events)) order by sequence), '[]') from page) as links
    from own`.execute(db)
  const { first, ...found } = rows[0]!
  return first === null ? undefined : { first, ...found }
}

export interface ProofLink {
  readonly sequence: number
  readonly event_id: string
  readonly digest: string
  readonly text: string
}
