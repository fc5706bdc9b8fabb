/**
 * Why something is where it is, now or at any past moment: its events up to then, each followed through the event that
 * caused it to the request or the observation at the root. What it waits for is said in explain-waits.ts.
 */
import { type Kysely, sql } from 'kysely'
import type { Cause } from '../domain/record.ts'
import { recordNow } from './database.ts'
import type { EventScope, ShownEvent } from './event-list.ts'
import { type ExplainedNoun, type Wait, waitsFor } from './explain-waits.ts'
import type { Tables } from './tables.ts'

/** What stands at the root of a chain of causes. */
export interface Origin {
  readonly kind: 'request' | 'observation' | 'rule' | 'dropped'
  readonly event_id: string
  readonly at: Date
  readonly sentence: string
}

export interface Explanation {
  readonly resource_type: ExplainedNoun
  readonly resource_id: string
  readonly name: string | null
  readonly at: Date
  readonly sentence: string
  readonly state: string
  readonly state_since: Date
  readonly wish: string | null
  readonly waits_for: Wait | null
  readonly chain: readonly ShownEvent[]
  readonly origin: Origin
  readonly history: readonly { event: ShownEvent; because: string[]; origin: Origin }[]
  readonly causes: readonly ShownEvent[]
}

const HISTORY_MAX = 100
const DEPTH_MAX = 30
/** Clocks of two hosts differ a little: a moment this near is now. */
const FUTURE_GRACE_MS = 1_000

/** Explains a resource at a moment (null: now). Null: it was not there then, or is another project's. */
export async function explain(
  db: Kysely<Tables>,
  scope: EventScope,
  subject: { noun: ExplainedNoun; id: string },
  at: Date | null,
): Promise<Explanation | 'in_future' | null> {
  const now = await recordNow(db)
  if (at && at.getTime() > now.getTime() + FUTURE_GRACE_MS) return 'in_future'
  const moment = at ?? now
  const events = await eventsUntil(db, scope, subject, moment)
  const newest = events[0]
  if (!newest) return null
  const causes = await causesOf(db, scope, events)
  const known = new Map([...causes, ...events].map((event) => [event.id, event]))
  const users = await userNames(db, known.values())
  const chains = events.map((event) => follow(event, known))
  const origins = chains.map((chain) => originOf(chain, users))
  const state = newest.to_state ?? 'unknown'
  const state_since = events[lastIndexOfState(events)]!.at
  const waits_for = await waitsFor(db, subject, events, at === null ? null : moment)
  const name = nameOf(newest)
  const own = new Set(events.map((event) => event.id))
  return {
    resource_type: subject.noun,
    resource_id: subject.id,
    name,
    at: moment,
    sentence: sentenceOf({ noun: subject.noun, name, state, state_since, newest, waits_for, origin: origins[0]! }),
    state,
    state_since,
    wish: wishOf(events),
    waits_for,
    chain: chains[0]!,
    origin: origins[0]!,
    history: events.map((event, i) => ({
      event,
      because: chains[i]!.slice(1).map((cause) => cause.id),
      origin: origins[i]!,
    })),
    causes: causes.filter((event) => !own.has(event.id)),
  }
}

const COLUMNS = sql`id, project_id, resource_type, resource_id, sequence, type, from_state, to_state, snapshot, cause, at, position`

/** Events of the resource up to the moment, newest first. A cloud's events belong to nobody; who may ask was checked. */
async function eventsUntil(
  db: Kysely<Tables>,
  scope: EventScope,
  { noun, id }: { noun: ExplainedNoun; id: string },
  moment: Date,
): Promise<ShownEvent[]> {
  const { rows } = await sql<ShownEvent>`
    select ${COLUMNS} from events where resource_type = ${noun} and resource_id = ${id} and at <= ${moment}
      and ${noun === 'cloud' ? sql`project_id is null` : sql`project_id = ${scope.project_id}`}
    order by sequence desc limit ${HISTORY_MAX}`.execute(db)
  return rows
}

/** All events that the causes of these lead to, whatever they are events of. */
async function causesOf(db: Kysely<Tables>, scope: EventScope, events: readonly ShownEvent[]): Promise<ShownEvent[]> {
  const ids = [...new Set(events.flatMap((event) => event.cause.event ?? []))]
  if (!ids.length) return []
  const { rows } = await sql<ShownEvent>`
    with recursive back as (
      select unnest(${ids}::text[]) as id, 1 as depth
      union
      select events.cause ->> 'event', depth + 1 from back join events on events.id = back.id
      where depth < ${DEPTH_MAX} and events.cause ? 'event')
    select ${COLUMNS} from events where id in (select id from back)
      and (project_id = ${scope.project_id} or project_id is null) order by number`.execute(db)
  return rows
}

/** An event and what caused it, back to the root; a loop, which there should be none of, ends it. */
function follow(event: ShownEvent, known: ReadonlyMap<string, ShownEvent>): ShownEvent[] {
  const chain: ShownEvent[] = []
  for (let next: ShownEvent | undefined = event; next && chain.length < DEPTH_MAX && !chain.includes(next); ) {
    chain.push(next)
    next = known.get(next.cause.event ?? '')
  }
  return chain
}

function originOf(chain: readonly ShownEvent[], users: ReadonlyMap<string, string>): Origin {
  const root = chain.at(-1)!
  const { cause } = root
  const observed_at = cause.evidence?.observed_at
  const base = { event_id: root.id, at: root.at }
  if (cause.actor) {
    const who = users.get(cause.actor.user_id) ?? cause.actor.user_id
    return { ...base, kind: 'request', sentence: `${who} asked for it (${cause.actor.request_id})` }
  }
  if (typeof observed_at === 'string')
    return { ...base, kind: 'observation', sentence: `observed at ${observed_at}: ${cause.reason}` }
  if (cause.event)
    return { ...base, kind: 'dropped', sentence: `${cause.reason}; what caused that is not kept any more` }
  return { ...base, kind: 'rule', sentence: `rule ${cause.rule ?? 'unnamed'}: ${cause.reason}` }
}

async function userNames(db: Kysely<Tables>, events: Iterable<{ cause: Cause }>): Promise<Map<string, string>> {
  const ids = [...new Set([...events].flatMap((event) => event.cause.actor?.user_id ?? []))]
  if (!ids.length) return new Map()
  const rows = await db.selectFrom('users').select(['id', 'name']).where('id', 'in', ids).execute()
  return new Map(rows.map((row) => [row.id, row.name]))
}

/** Index of the oldest event since which the state has been what it is. */
function lastIndexOfState(events: readonly ShownEvent[]): number {
  const changed = events.findIndex((event) => event.to_state !== events[0]!.to_state)
  return changed < 0 ? events.length - 1 : changed - 1
}

const nameOf = (event: ShownEvent): string | null => {
  const name = event.snapshot.name ?? event.snapshot.uri
  return typeof name === 'string' ? name : null
}

const wishOf = (events: readonly ShownEvent[]): string | null => {
  const wish = events.find((event) => typeof event.snapshot.wish === 'string')?.snapshot.wish
  return typeof wish === 'string' ? wish : null
}

const NOUNS: Readonly<Record<ExplainedNoun, string>> = {
  order: 'Launch order',
  instance: 'Instance',
  deployment: 'Deployment',
  lease: 'Lease',
  hook: 'Hook',
  cloud: 'Cloud',
}

function sentenceOf(facts: {
  noun: ExplainedNoun
  name: string | null
  state: string
  state_since: Date
  newest: ShownEvent
  waits_for: Wait | null
  origin: Origin
}): string {
  const { noun, name, state, state_since, newest, waits_for, origin } = facts
  const parts = [
    `${NOUNS[noun]}${name ? ` ${name}` : ''} is ${state} since ${state_since.toISOString()}: ${newest.cause.reason}.`,
  ]
  if (waits_for) {
    const until = waits_for.until ? `, and looks again at ${waits_for.until} at the latest` : ''
    parts.push(`It waits for this: ${waits_for.what}${until}.`)
  }
  parts.push(`It goes back to ${origin.at.toISOString()}: ${origin.sentence}.`)
  return parts.join(' ')
}
