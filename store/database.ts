/**
 * Connections to the record and the one place where transactions are run, retried and announced.
 *
 * Every write goes through `write()`: it retries serialisation failures and deadlocks, and after the commit gives hints
 * to all processes about what it left for them, so that relay, senders and watchers look at once. Hints may be lost: each
 * of them also looks by itself now and then.
 */
import { createHash } from 'node:crypto'
import { Socket } from 'node:net'
import { Kysely, PostgresDialect, sql, type Transaction } from 'kysely'
import pg from 'pg'
import { DomainError } from '../domain/errors.ts'
import type { Blocker } from '../domain/record.ts'
import type { Tables } from './tables.ts'

pg.types.setTypeParser(pg.types.builtins.INT8, Number)

export type Trx = Transaction<Tables>
type Reader = Kysely<Tables>

/** What a commit leaves for others: wakes, events, deliveries that are due again, machines to look for, machines seen. */
export const TOPICS = ['outbox', 'events', 'deliveries', 'machines', 'watched', 'stamped'] as const
export type Topic = (typeof TOPICS)[number]

/** The record as the rest of the program holds it. */
export interface Store {
  readonly db: Kysely<Tables>
  /** Called after each commit that left something for others, with what it is about. */
  onCommit: (topics: readonly Topic[]) => void
  /** New orders are left to the process that accepted them for so long before any relay takes them up. */
  hand_over_after_ms: number
  close(): Promise<void>
}

const TRANSACTION_TIMEOUT_MS = 3_000
/**
 * No statement runs longer than the time-out above, so a server that is silent for so long will not answer any more: it
 * hangs, or its host is cut off, which a socket alone does not notice. Longer than a connection lies idle in the pool.
 */
const SILENCE_MS = 10_000
const IDLE_MS = 8_000
const RETRIES_MAX = 8
/** serialization_failure, deadlock_detected, exclusion_violation: a host was booked by another one meanwhile */
const RETRIED = new Set(['40001', '40P01', '23P01'])
/**
 * Classes and codes of PostgreSQL and sockets that mean "away", not "wrong": no connection, no room (disk, memory,
 * connections), going down, out of time, a disk that fails, a server that may only be read.
 */
const AWAY =
  /^(08|53|57P0|58030|25P0[34]|25006)|^(ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH)$/
const AWAY_MESSAGE =
  /cached plan must not change|Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error|not queryable/

/** Opens a pool on the record. `size` is the number of connections at most. */
export function openStore(
  database_url: string,
  options: { size?: number; onError?: (error: Error) => void } = {},
): Store {
  const pool = new pg.Pool({
    Client: PreparingClient,
    connectionString: database_url,
    max: options.size ?? 10,
    connectionTimeoutMillis: 3_000,
    idleTimeoutMillis: IDLE_MS,
    stream: openSocket,
    options: `-c transaction_timeout=${TRANSACTION_TIMEOUT_MS} -c idle_in_transaction_session_timeout=${TRANSACTION_TIMEOUT_MS} -c timezone=UTC`,
  })
  const report = options.onError ?? (() => {})
  // Both time-outs above close the connection from the server's side; without these listeners Node would end.
  pool.on('error', report)
  pool.on('connect', (client) => client.on('error', report))
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
  return { db, onCommit: () => {}, hand_over_after_ms: 0, close: () => db.destroy() }
}

/** Longer statements come in too many lengths to be kept. */
const PREPARED_PARAMETERS_MAX = 50
/** feature_not_supported: a migration changed what a prepared statement gives. */
const OUTDATED_PLAN = '0A000'

/**
 * Statements with parameters are prepared, once a connection: planning them anew costs more than running them. Named by
 * their text, so that the same one is the same everywhere. One that a migration outdated ends its connection.
 */
class PreparingClient extends pg.Client {
  // biome-ignore lint/suspicious/noExplicitAny: one of many overloads, passed through
  override query(text: any, values?: any, callback?: any): any {
    if (typeof text !== 'string' || !Array.isArray(values) || !values.length || callback)
      return super.query(text, values, callback)
    if (values.length > PREPARED_PARAMETERS_MAX) return super.query(text, values)
    return super.query({ name: nameOf(text), text, values }).catch((error: unknown) => {
      if (codeOf(error) === OUTDATED_PLAN) void this.end()
      throw error
    })
  }
}

const names = new Map<string, string>()
function nameOf(text: string): string {
  let name = names.get(text)
  if (name === undefined) {
    name = createHash('sha1').update(text).digest('base64url')
    names.set(text, name)
  }
  return name
}

/** A socket that breaks when an answer does not come; it works below TLS as well. */
function openSocket(): Socket {
  const socket = new Socket()
  socket.setTimeout(SILENCE_MS, () => {
    socket.destroy(Object.assign(new Error(`PostgreSQL gave no answer for ${SILENCE_MS} ms`), { code: 'ETIMEDOUT' }))
  })
  return socket
}

/** What was read before its lock is not so any more: the transaction runs again, as after a serialisation failure. */
export class Overtaken extends Error {
  override readonly name = 'Overtaken'
  readonly code = '40001'
}

/** What each open transaction leaves for others. */
const left = new WeakMap<Reader, Set<Topic>>()

/** Notes that a transaction leaves something for others; they are told after its commit. */
export function leave(trx: Reader, topic: Topic): void {
  left.get(trx)?.add(topic)
}

/** One transaction, with retries; hints follow the commit. `job` must be safe to run again from its beginning. */
export async function write<T>(store: Store, job: (trx: Trx) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    const topics = new Set<Topic>()
    try {
      const result = await store.db.transaction().execute((trx) => {
        // Inside another of ours (see `within`) it is that one's commit that tells.
        if (!left.has(trx)) left.set(trx, topics)
        return job(trx)
      })
      if (topics.size) store.onCommit([...topics])
      return result
    } catch (error) {
      if (attempt < RETRIES_MAX && RETRIED.has(codeOf(error))) continue
      throw error
    }
  }
}

/** True when the error says that PostgreSQL cannot be reached or is going down, so that a later try may do. */
export function isAway(error: unknown): boolean {
  return AWAY.test(codeOf(error)) || (error instanceof Error && AWAY_MESSAGE.test(error.message))
}

/** True when others changed the same at the same time, again and again, so that a later try may do. */
export const isOvertaken = (error: unknown): boolean => RETRIED.has(codeOf(error))

/** Whether a column is one of so many values: one parameter however many, so that the statement is a prepared one. */
export const isAmong = (
  column: string,
  values: readonly (string | number)[],
  type: 'uuid' | 'text' | 'bigint' = 'uuid',
) => sql<boolean>`${sql.ref(column)} = any(${values}::${sql.raw(type)}[])`

/** The record's clock, see design: never the process's own. */
export async function recordNow(db: Reader): Promise<Date> {
  const { rows } = await sql<{ now: Date }>`select record_now() as now`.execute(db)
  return rows[0]!.now
}

/** Turns a violated unique constraint into a conflict with our own sentence; passes everything else on. */
export function conflictOn(error: unknown, constraint: string, message: string): never {
  if (codeOf(error) === '23505' && (error as { constraint?: string }).constraint === constraint) {
    throw new DomainError('conflict', message, { cause: error })
  }
  throw error
}

const codeOf = (error: unknown): string => String((error as { code?: unknown } | null)?.code ?? '')

/** The blocker of a row as readers are shown it: its own, else `planning_overdue` where its flow has not looked in time. */
export const shownBlocker = (table: 'launch_orders' | 'instances' | 'leases') =>
  sql<Blocker | null>`shown_blocker(${sql.ref(`${table}.blocker`)}, ${sql.ref(`${table}.due_at`)})`

/** The database's real time: what attempts, observations and heartbeats are measured by, on every host alike. */
export async function realNow(db: Reader): Promise<Date> {
  const { rows } = await sql<{ now: Date }>`select clock_timestamp() as now`.execute(db)
  return rows[0]!.now
}
