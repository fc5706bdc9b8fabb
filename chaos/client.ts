/**
 * A client as it should be: it knows both addresses of the service, repeats with the same key until it is answered, and
 * writes down what it was promised.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { ClientEntry, ClientKind, Promised } from './checker/ledgers.ts'

const CALL_TIMEOUT_MS = 15_000
const GIVE_UP_MS = 300_000
const REPEAT_MS = 100

export interface Asked {
  /** Left out: not for the judge. */
  readonly kind?: ClientKind
  readonly method: string
  readonly path: string
  readonly body?: unknown
  /** Known beforehand for changes; for what is made it is in the answer. */
  readonly resource_id?: string
  readonly promised?: Promised
}

type Fields = Readonly<Record<string, unknown>>
export interface Told {
  readonly status: number
  readonly body: Fields
}

/** What the clients of a run write down together. */
export interface Notebook {
  readonly entries: ClientEntry[]
  /** Addresses of the actions that were accepted. */
  readonly actions: Set<string>
  /** Answers by status; 0: none. */
  readonly statuses: Map<number, number>
  /** Answers that nobody should get: 5xx other than a 503 that says when to come back. */
  readonly complaints: string[]
}
export const openNotebook = (): Notebook => ({ entries: [], actions: new Set(), statuses: new Map(), complaints: [] })

export interface Client {
  ask(asked: Asked): Promise<Told>
  /** A read; null: no answer now, or not the one asked for. */
  look(path: string, timeout_ms?: number): Promise<Fields | null>
}

export function openClient(
  urls: readonly string[],
  token: string,
  notebook: Notebook,
  signal: AbortSignal,
  first = 0,
): Client {
  let turn = first
  const url = (): string => urls[turn % urls.length]!
  /** To the other address, unless somebody has gone there meanwhile. */
  const leave = (failed: number): void => {
    if (turn === failed) turn++
  }

  async function ask(asked: Asked): Promise<Told> {
    const key = randomUUID()
    const until = performance.now() + GIVE_UP_MS
    for (;;) {
      signal.throwIfAborted()
      const tried = turn
      const told = await attempt(asked, key)
      if (told && told.status < 500) return told
      if (performance.now() > until) {
        throw new Error(`${asked.method} ${asked.path} was not answered in ${GIVE_UP_MS} ms`)
      }
      leave(tried)
      await delay(REPEAT_MS, undefined, { signal })
    }
  }

  /** One try; null: no answer. */
  async function attempt({ kind, method, path, body, resource_id, promised }: Asked, key: string) {
    const sent_at_ms = Date.now()
    const note = (status: number | null, id: string, action_id?: string): void => {
      notebook.statuses.set(status ?? 0, (notebook.statuses.get(status ?? 0) ?? 0) + 1)
      const entry = { resource_id: id, sent_at_ms, at_ms: Date.now(), status, ...(action_id ? { action_id } : {}) }
      if (kind) notebook.entries.push({ kind, ...entry, ...(promised ? { promised } : {}) })
    }
    try {
      const response = await fetch(url() + path, {
        method,
        signal: AbortSignal.any([signal, AbortSignal.timeout(CALL_TIMEOUT_MS)]),
        headers: {
          authorization: `Bearer ${token}`,
          'idempotency-key': key,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
      const text = await response.text()
      const told: Told = { status: response.status, body: text ? (JSON.parse(text) as Fields) : {} }
      const action = path.endsWith('/actions') && response.ok ? (told.body.action as Accepted) : undefined
      if (action) notebook.actions.add(action.href)
      note(told.status, resource_id ?? (response.ok ? idIn(told.body) : ''), action?.id)
      if (told.status >= 500 && (told.status !== 503 || !response.headers.get('retry-after')))
        notebook.complaints.push(`${method} ${path} answered ${told.status}: ${text.slice(0, 500)}`)
      return told
    } catch (error) {
      // Refused: it was surely not carried out. Everything else may have been.
      if (codeOf(error) !== 'ECONNREFUSED') note(null, resource_id ?? '')
      return null
    }
  }

  async function look(path: string, timeout_ms = CALL_TIMEOUT_MS): Promise<Fields | null> {
    const tried = turn
    try {
      const response = await fetch(url() + path, {
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeout_ms)]),
        headers: { authorization: `Bearer ${token}` },
      })
      if (response.ok) return (await response.json()) as Fields
      await response.body?.cancel()
    } catch {
      // the other address, next time
    }
    leave(tried)
    return null
  }

  return { ask, look }
}

/** An action, as the answer names it. */
interface Accepted {
  readonly id: string
  readonly href: string
}

/** Id of the one thing an answer shows. */
function idIn(body: Fields): string {
  const [made] = Object.values(body)
  return typeof made === 'object' && made !== null && 'id' in made ? String(made.id) : ''
}

const codeOf = (error: unknown): unknown =>
  error instanceof Error && error.cause instanceof Error && 'code' in error.cause ? error.cause.code : undefined
