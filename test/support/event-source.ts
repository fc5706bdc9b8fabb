/** A reader of server-sent events, as a client has one: parses the stream, remembers the last id. */
import { waitFor } from './wait-for.ts'

export interface Message {
  readonly id: string
  readonly event: string
  readonly data: string
}

export interface EventReader {
  readonly response: Response
  readonly messages: readonly Message[]
  /** All that came, comments included. */
  text(): string
  /** True once the stream ended, from either side. */
  readonly ended: Promise<void>
  isEnded(): boolean
  /** Waits for messages to fulfil a condition. */
  until(what: string, check: (messages: readonly Message[]) => unknown, timeout_ms?: number): Promise<void>
  /** Hangs up. */
  leave(): Promise<void>
}

/** Opens a stream; `last` is the cursor it goes on behind. */
export async function openEvents(
  url: string,
  token: string,
  { query = '', last }: { query?: string; last?: string | undefined } = {},
): Promise<EventReader> {
  const gone = new AbortController()
  const response = await fetch(`${url}/api/events${query}`, {
    headers: {
      authorization: `Bearer ${token}`,
      accept: 'text/event-stream',
      ...(last === undefined ? {} : { 'last-event-id': last }),
    },
    signal: gone.signal,
  })
  if (response.headers.get('content-type') !== 'text/event-stream')
    throw new Error(`no stream: ${response.status} ${await response.text()}`)
  const messages: Message[] = []
  let [text, rest, over] = ['', '', false]
  const reading = async () => {
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk
      const parts = (rest + chunk).split('\n\n')
      rest = parts.pop()!
      for (const part of parts) {
        const fields = Object.fromEntries(part.split('\n').map((line) => line.split(/: (.*)/s).slice(0, 2)))
        if (fields.data !== undefined) messages.push(fields as Message)
      }
    }
  }
  const ended = reading()
    .catch(() => {})
    .finally(() => {
      over = true
    })
  return {
    response,
    messages,
    text: () => text,
    ended,
    isEnded: () => over,
    async until(what, check, timeout_ms = 10_000) {
      await waitFor(() => check(messages), { what, timeout_ms })
    },
    async leave() {
      gone.abort()
      await ended
    },
  }
}
