/** A client as it should be: repeats with the same key until it is answered, and writes down what it was promised. */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { ClientEntry, ClientKind, Promised } from '../../chaos/checker/ledgers.ts'

const CALL_TIMEOUT_MS = 15_000
const GIVE_UP_MS = 60_000
const REPEAT_MS = 100

export interface Asked {
  readonly kind: ClientKind
  readonly method: string
  readonly path: string
  readonly body?: unknown
  /** Known beforehand for changes; for what is made it is in the answer. */
  readonly resource_id?: string
  readonly promised?: Promised
}

export interface Told {
  readonly status: number
  readonly body: Readonly<Record<string, Readonly<Record<string, unknown>>>>
}

export interface Witness {
  readonly entries: ClientEntry[]
  /** Answers by status; 0: none. */
  readonly statuses: Map<number, number>
  /** Answers nobody should get: faults of the service, and 503 that do not say when to come back. */
  readonly complaints: string[]
  ask(asked: Asked): Promise<Told>
}

/** Requests of one project. `url` is asked at each try. */
export function openWitness(url: () => string, token: string): Witness {
  const witness: Witness = { entries: [], statuses: new Map(), complaints: [], ask }
  return witness

  async function ask(asked: Asked): Promise<Told> {
    const key = randomUUID()
    const until = performance.now() + GIVE_UP_MS
    for (;;) {
      const told = await attempt(asked, key)
      if (told && told.status < 500) return told
      if (performance.now() > until)
        throw new Error(`${asked.method} ${asked.path} was not answered in ${GIVE_UP_MS} ms`)
      await delay(REPEAT_MS)
    }
  }

  /** One try; null: no answer. */
  async function attempt(
    { kind, method, path, body, resource_id, promised }: Asked,
    key: string,
  ): Promise<Told | null> {
    const sent_at_ms = Date.now()
    const note = (status: number | null, id: string): void => {
      witness.statuses.set(status ?? 0, (witness.statuses.get(status ?? 0) ?? 0) + 1)
      const entry = { kind, resource_id: id, sent_at_ms, at_ms: Date.now(), status }
      witness.entries.push(promised ? { ...entry, promised } : entry)
    }
    try {
      const response = await fetch(url() + path, {
        method,
        signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
        headers: {
          authorization: `Bearer ${token}`,
          'idempotency-key': key,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
      const text = await response.text()
      const told = { status: response.status, body: JSON.parse(text) as Told['body'] }
      const [made] = Object.values(told.body)
      note(told.status, resource_id ?? (response.ok ? String(made?.id ?? '') : ''))
      if (told.status >= 500 && (told.status !== 503 || !response.headers.get('retry-after')))
        witness.complaints.push(`${method} ${path} answered ${told.status}: ${text.slice(0, 500)}`)
      return told
    } catch (error) {
      // Refused: it was surely not carried out. Everything else may have been.
      if (codeOf(error) !== 'ECONNREFUSED') note(null, resource_id ?? '')
      return null
    }
  }
}

const codeOf = (error: unknown): unknown =>
  error instanceof Error && error.cause instanceof Error && 'code' in error.cause ? error.cause.code : undefined
