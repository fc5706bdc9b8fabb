/**
 * Hints: "something is new in the record", from any process to all, by NOTIFY outside of transactions (a NOTIFY inside
 * would serialise all commits). They carry nothing and may be lost; whoever waits for one also looks by itself.
 */
import { EventEmitter } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { sql } from 'kysely'
import pg from 'pg'
import type { Store } from './database.ts'

const CHANNEL = 'holdfast'
/** Commits within this time share one NOTIFY. */
const COALESCE_MS = 5
const RECONNECT_MS = 500

export interface Hints {
  /** Resolves at the next hint, or after `timeout_ms`, or when the signal fires; never rejects. */
  wait(timeout_ms: number, signal?: AbortSignal): Promise<void>
  /** Gives a hint to this process at once and to the others within some milliseconds. */
  give(): void
  close(): Promise<void>
}

/** Opens the process's one LISTEN connection and connects `store.onCommit` to it. */
export function openHints(store: Store, database_url: string): Hints {
  const bus = new EventEmitter().setMaxListeners(0)
  let closed = false
  let client: pg.Client | undefined
  let pending: NodeJS.Timeout | undefined

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
        fresh.on('notification', () => bus.emit('hint'))
        await fresh.query(`listen ${CHANNEL}`)
        bus.emit('hint') // what was missed meanwhile
        await ended
      } catch {
        // Away: the waiters' own time-outs carry on; try again below.
      }
      client = undefined
      await fresh.end().catch(() => {})
      if (!closed) await delay(RECONNECT_MS, undefined, { ref: false })
    }
  }

  const give = (): void => {
    bus.emit('hint')
    pending ??= setTimeout(() => {
      pending = undefined
      if (!closed) sql`select pg_notify(${CHANNEL}, '')`.execute(store.db).catch(() => {})
    }, COALESCE_MS)
  }
  store.onCommit = give
  void listen()

  return {
    wait(timeout_ms, signal) {
      return new Promise((resolve) => {
        if (signal?.aborted) return resolve()
        // Once closed there are no hints, but time goes by all the same: a waiter in a loop must not spin.
        const timer = setTimeout(done, timeout_ms)
        function done() {
          clearTimeout(timer)
          bus.off('hint', done)
          signal?.removeEventListener('abort', done)
          resolve()
        }
        bus.once('hint', done)
        signal?.addEventListener('abort', done, { once: true })
      })
    },
    give,
    async close() {
      closed = true
      clearTimeout(pending)
      bus.emit('hint')
      await client?.end().catch(() => {})
    },
  }
}
