/** The JSON body of a hook's request, against the event it tells of. */
import { isDeepStrictEqual } from 'node:util'
import type { EventRow } from './ledgers.ts'

/** Bodies and answers may round a moment differently. */
const ROUNDING_MS = 1

function parse(body: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(body)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null
  } catch {
    return null
  }
}

/** The type that a body names; undefined: none. */
export const bodyType = (body: string): unknown => parse(body)?.type

/** What in a body is not as the event has it; null: nothing. */
export function bodyDiffers(body: string, event: EventRow): string | null {
  const found = parse(body)
  if (!found) return 'it is not JSON'
  const data = typeof found.data === 'object' && found.data !== null ? (found.data as Record<string, unknown>) : {}
  const pairs: readonly (readonly [string, unknown, unknown])[] = [
    ['id', found.id, event.id],
    ['type', found.type, event.type],
    ['resource_type', data.resource_type, event.resource_type],
    ['resource_id', data.resource_id, event.resource_id],
    ['sequence', data.sequence, event.sequence],
    ['from', data.from ?? null, event.from],
    ['to', data.to ?? null, event.to],
    ...(data.cause === undefined ? [] : [['cause', data.cause, event.cause] as const]),
    ...(data.snapshot === undefined || !event.snapshot ? [] : [['snapshot', data.snapshot, event.snapshot] as const]),
  ]
  for (const [field, got, wanted] of pairs) {
    if (!isDeepStrictEqual(got, wanted)) return `${field} is ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`
  }
  const told_ms = Date.parse(String(found.timestamp))
  if (!(Math.abs(told_ms - event.at_ms) <= ROUNDING_MS))
    return `timestamp is ${String(found.timestamp)}, not ${new Date(event.at_ms).toISOString()}`
  return null
}
