/** Events as they come, streamed or waited for: always read from the table, in order of their positions. */
import type { ServerResponse } from 'node:http'
import { streamSSE } from 'hono/streaming'
import { DomainError } from '../../domain/errors.ts'
import { isAway } from '../../store/database.ts'
import type { EventScope } from '../../store/event-list.ts'
import { renewIdentity } from '../auth.ts'
import type { ApiContext } from '../context.ts'
import type { EventTail } from './event-tail.ts'

const BATCH = 100
const HEARTBEAT_MS = 15_000
/** A token revoked meanwhile ends its streams within this. */
const IDENTITY_KEPT_MS = 10_000
/** A connection that takes nothing for so long, heartbeats included, is given up. */
const STALLED_MS = 60_000
/** Readers come back after this when a stream ended. */
const RETRY_MS = 1_000
const AWAY_MS = 500

interface Streamed {
  readonly cursor: string | null
  readonly type: string
}
/** Reads what is behind a place, oldest first. */
type Read<Event> = (place: number | undefined, limit: number) => Promise<readonly Event[]>

export interface Reader<Event> {
  readonly tail: EventTail
  readonly scope: EventScope
  readonly place: number | undefined
  readonly read: Read<Event>
  readonly placeOf: (cursor: string) => number | undefined
}

/** Sends everything behind a place, then what comes, until the reader goes, its token ends or the process leaves. */
export async function streamEvents<Event extends Streamed>(c: ApiContext, reader: Reader<Event>): Promise<Response> {
  const { leaving, log } = c.get('deps')
  if (leaving?.aborted) throw new DomainError('unavailable', 'this process is leaving')
  const { tail, scope, read, placeOf } = reader
  const exit = tail.enter(scope.project_id)
  const began_with = tail.newest
  const first = await read(reader.place, BATCH).catch((error: unknown) => {
    exit() // an answer, not a broken stream
    throw error
  })
  const outgoing = (c.env as { outgoing?: ServerResponse } | undefined)?.outgoing
  outgoing?.socket?.setTimeout(STALLED_MS)

  const response = streamSSE(c, async (stream) => {
    const gone = new AbortController()
    stream.onAbort(() => gone.abort())
    const ending = leaving ? AbortSignal.any([gone.signal, leaving]) : gone.signal
    let { place } = reader
    let [events, seen] = [first, began_with]
    let [written_ms, known_ms] = [performance.now(), performance.now()]
    const write = async (job: () => Promise<unknown>) => {
      await job() // resolves when the reader takes it: no more than a page is ever held
      written_ms = performance.now()
    }
    try {
      await write(() => stream.write(`retry: ${RETRY_MS}\n\n`))
      while (!ending.aborted) {
        for (const event of events) {
          if (ending.aborted) return
          const cursor = event.cursor!
          await write(() => stream.writeSSE({ id: cursor, event: event.type, data: JSON.stringify(event) }))
          place = placeOf(cursor)
        }
        if (events.length < BATCH) {
          // Nothing for this reader up to here: it need not be searched again.
          if (seen > (place ?? 0)) place = seen
          const idle_ms = performance.now() - written_ms
          if (idle_ms >= HEARTBEAT_MS) await write(() => stream.write(': still here\n\n'))
          else await tail.wait(scope, seen, Math.min(HEARTBEAT_MS - idle_ms, IDENTITY_KEPT_MS), ending)
        }
        if (ending.aborted) return
        try {
          if (performance.now() - known_ms >= IDENTITY_KEPT_MS) {
            await renewIdentity(c)
            known_ms = performance.now()
          }
          seen = tail.newest
          events = await read(place, BATCH)
        } catch (error) {
          if (!isAway(error)) throw error
          ;[events, seen] = [[], 0] // a record that is away keeps the stream: it goes on where it was
          await tail.wait(scope, Number.MAX_SAFE_INTEGER, AWAY_MS, ending)
        }
      }
    } catch (error) {
      // Token ended, or place dropped behind a slow reader: it hears so when it comes back.
      if (!(error instanceof DomainError))
        log.error({ request_id: c.get('request_id'), err: error }, 'a stream of events failed')
    } finally {
      exit()
    }
  })
  response.headers.set('Connection', 'close') // nothing follows a stream; a leaving process need not wait for more
  response.headers.set('Cache-Control', 'no-store')
  return response
}

/** What is behind a place, as soon as there is something; nothing after the time, or when the process leaves. */
export async function awaitEvents<Event>(
  c: ApiContext,
  reader: Omit<Reader<Event>, 'placeOf'>,
  limit: number,
  wait_s: number,
): Promise<readonly Event[]> {
  const { leaving } = c.get('deps')
  const { tail, scope, place, read } = reader
  const ending = leaving ? AbortSignal.any([c.req.raw.signal, leaving]) : c.req.raw.signal
  const exit = tail.enter(scope.project_id)
  try {
    const until_ms = performance.now() + wait_s * 1_000
    for (;;) {
      const seen = tail.newest
      const events = await read(place, limit)
      const left_ms = until_ms - performance.now()
      if (events.length || left_ms <= 0 || ending.aborted) return events
      await tail.wait(scope, seen, left_ms, ending)
    }
  } finally {
    exit()
  }
}
