/** Which state may follow which. What is not named here is against the words. */
import type { Act } from './acts.ts'

type Kind = Extract<Act, { act: 'changed' }>['kind']

const parse = (text: string): ReadonlyMap<string, ReadonlySet<string>> =>
  new Map(
    text
      .trim()
      .split('\n')
      .map((line) => {
        const [from, to] = line.split(':')
        return [from!.trim(), new Set(to!.trim().split(/\s+/))]
      }),
  )

const FOLLOWS: Record<Kind, ReadonlyMap<string, ReadonlySet<string>>> = {
  order: parse(`
    queued: launching settling held running compensating cancelled terminated failed
    launching: settling held running compensating cancelled terminated failed
    settling: launching held running compensating cancelled terminated failed
    held: launching settling running compensating cancelled terminated failed
    running: terminating terminated failed
    compensating: cancelled failed
    terminating: terminated
    failed: terminating terminated`),
  item: parse(`
    queued: creating starting failed cancelled
    creating: queued starting failed cancelled
    starting: queued creating running failed cancelled terminated
    running: queued creating failed terminated`),
  attempt: parse(`
    open: sent lost won surplus
    sent: open unknown lost won surplus
    unknown: sent lost won surplus
    lost: surplus
    won: surplus`),
  instance: parse(`
    pending: starting failed terminated
    starting: running failed missing pending terminating terminated
    running: failed missing terminating terminated
    failed: running pending terminating terminated
    missing: starting running failed pending terminated
    terminating: terminated`),
  lease: parse(`
    PENDING: ACTIVE TERMINATED ERROR
    ACTIVE: TERMINATING
    TERMINATING: TERMINATED`),
}

export const mayFollow = (kind: Kind, from: string, to: string): boolean => FOLLOWS[kind].get(from)?.has(to) ?? false
