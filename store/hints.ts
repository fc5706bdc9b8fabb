/**
 * Hints: "something of this kind is new in the record", from any process to all, by NOTIFY outside of transactions (a
 * NOTIFY inside would serialise all commits). They carry nothing else and may be lost; whoever waits for one also looks
 * by itself.
 */
import { randomUUID } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { sql } from 'kysely'
import pg from 'pg'
import { type Store, TOPICS, type Topic } from './database.ts'

const CHANNEL = 'holdfast'
/** Commits within this time share one NOTIFY, and from one to the next it is longer. */
const COALESCE_MS = 5
const SPACING_MS = 40
const RECONNECT_MS = 500

export interface Hints {
  /** Resolves at the next hint about one of these, or after `timeout_ms`, or when the signal fires; never rejects. */
  wait(topics: readonly Topic[], timeout_ms: number, signal?: AbortSignal): Promise<void>
  /** Gives hints to this process at once and to the others within some milliseconds. */
  give(topics: readonly Topic[]): void
  close(): Promise<void>
}

/** Opens the process's one LISTEN connection and connects `store.onCommit` to it. */
export function openHints(store: Store, database_url: string): Hints {
  const bus = new EventEmitter().setMaxListeners(0)
  let closed = false
  let client: pg.Client | undefined
  let pending: NodeJS.Timeout | undefined
  let told_at = 0
  /** What this process tells others comes back to it as well, where it is no news. */
  const self = randomUUID()
  const untold = new Set<Topic>()
  const emit = (topics: readonly string[]): void => {
    for (const topic of topics) bus.emit(topic)
  }

  const listen = async (): Promise<void> => {
    while (!closed) {
      const fresh = new pg.Client({ connectionString: database_url, connectionTimeoutMillis: 3_000, keepAlive: true })
      const ended = new Promise<void>((resolve) => {
        fresh.once('end', () => resolve())
        fresh.on('error', () => resolve())
      })
      try {
        await fresh.connect()
        client = fresh
        fresh.on('notification', ({ payload = '' }) => {
          const [from, ...topics] = payload.split(',')
          if (from !== self) emit(topics)
        })
        await fresh.query(`listen ${CHANNEL}`)
        emit(TOPICS) // what was missed meanwhile
        await ended
      } catch {
        // Away: the waiters' own time-outs carry on; try again below.
      }
      client = undefined
      await fresh.end().catch(() => {})
      if (!closed) await delay(RECONNECT_MS, undefined, { ref: false })
    }
  }

  const give = (topics: readonly Topic[]): void => {
    emit(topics)
    for (const topic of topics) untold.add(topic)
    pending ??= setTimeout(
      () => {
        pending = undefined
        told_at = performance.now()
        const payload = [self, ...untold].join()
        untold.clear()
        if (!closed) sql`select pg_notify(${CHANNEL}, ${payload})`.execute(store.db).catch(() => {})
      },
      Math.max(COALESCE_MS, told_at + SPACING_MS - performance.now()),
    )
  }
  store.onCommit = give
  void listen()

  return {
    wait(topics, timeout_ms, signal) {
      return new Promise((resolve) => {
        if (signal?.aborted) return resolve()
        // Once closed there are no hints, but time goes by all the same: a waiter in a loop must not spin.
        const timer = setTimeout(done, timeout_ms)
        function done() {
          clearTimeout(timer)
          for (const topic of topics) bus.off(topic, done)
          signal?.removeEventListener('abort', done)
          resolve()
        }
        for (const topic of topics) bus.on(topic, done)
        signal?.addEventListener('abort', done, { once: true })
      })
    },
    give,
    async close() {
      closed = true
      clearTimeout(pending)
      emit(TOPICS)
      await client?.end().catch(() => {})
    },
  }
}
