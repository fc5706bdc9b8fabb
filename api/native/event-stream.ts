/** Events as a stream: read from the table, in order of their positions; hints merely wake it. */
import { setTimeout as delay } from 'node:timers/promises'
import { streamSSE } from 'hono/streaming'
import { DomainError } from '../../domain/errors.ts'
import type { ApiContext, ApiDeps } from '../context.ts'

const STREAMS_MAX = 200
const BATCH = 100
/** Between looks where no hint came; also how long a process that leaves waits for its streams. */
const LOOK_MS = 1_000
const KEEP_ALIVE_MS = 15_000

interface Streamed {
  readonly id: string
  readonly cursor: string | null
  readonly type: string
}

const open = new WeakMap<ApiDeps, number>()

/** Sends everything behind a place, then what comes, until the reader goes or the process leaves. */
export async function streamEvents(
  c: ApiContext,
  place: number | undefined,
  read: (place: number | undefined, limit: number) => Promise<readonly Streamed[]>,
): Promise<Response> {
  const deps = c.get('deps')
  const count = open.get(deps) ?? 0
  if (count >= STREAMS_MAX) throw new DomainError('limit_reached', `at most ${STREAMS_MAX} streams at a time`)
  const first = await read(place, BATCH) // errors are answers, not broken streams
  open.set(deps, count + 1)
  return streamSSE(c, async (stream) => {
    const gone = new AbortController()
    stream.onAbort(() => gone.abort())
    try {
      let events = first
      let spoken_ms = performance.now()
      while (!gone.signal.aborted) {
        for (const event of events) {
          await stream.writeSSE({ id: event.cursor ?? '', event: event.type, data: JSON.stringify(event) })
          place = positionOf(event.cursor) ?? place
          spoken_ms = performance.now()
        }
        if (events.length < BATCH) {
          if ((await deps.health()).draining) return
          if (performance.now() - spoken_ms > KEEP_ALIVE_MS) {
            await stream.write(': still here\n\n')
            spoken_ms = performance.now()
          }
          await look(deps, gone.signal)
        }
        // A record that is away keeps the stream: it goes on where it was.
        events = await read(place, BATCH).catch(() => [])
      }
    } finally {
      open.set(deps, (open.get(deps) ?? 1) - 1)
    }
  })
}

const look = async ({ hints }: ApiDeps, signal: AbortSignal): Promise<void> => {
  if (hints) await hints.wait(LOOK_MS, signal)
  else await delay(LOOK_MS, undefined, { signal }).catch(() => {})
}

const positionOf = (cursor: string | null): number | undefined =>
  cursor === null ? undefined : Number(Buffer.from(cursor, 'base64url').toString().split(':')[1])
