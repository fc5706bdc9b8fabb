/** Which process is meant by a pid: pids are used again, a pid with its start time is not. */
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  linkSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

/** A process, named so that it cannot be taken for a later one with the same pid. */
export interface Identity {
  readonly pid: number
  readonly start_time: string
}

const has_proc = existsSync('/proc/self/stat')
const poll_every_ms = 50

/** When a living process started, in the system's own unit; null when there is none (a zombie is none). */
export function startTime(pid: number): string | null {
  if (!has_proc) {
    const { stdout } = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' })
    return stdout?.trim() || null
  }
  try {
    // The second field is the name in brackets and may hold anything; after it come the state and, 19 later, the start.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? null : fields[19]!
  } catch {
    return null
  }
}

/** True while that very process lives. */
export function isAlive(process: Identity): boolean {
  return startTime(process.pid) === process.start_time
}

/** The identity of a living process, null when it is gone. */
export function identify(pid: number): Identity | null {
  const start_time = startTime(pid)
  return start_time === null ? null : { pid, start_time }
}

/**
 * Resolves once the process is gone, or with false after `bound_ms`. It need not be our child, so its end cannot be
 * awaited otherwise than by looking.
 */
export async function untilGone(process: Identity, bound_ms: number, signal?: AbortSignal): Promise<boolean> {
  const until = performance.now() + bound_ms
  while (isAlive(process)) {
    if (performance.now() > until) return false
    await delay(poll_every_ms, undefined, { signal })
  }
  return true
}

/** Sends a signal to a process, or to all of its group; gone is not an error. */
export function send(identity: Identity, signal: NodeJS.Signals, whole_group = false): void {
  if (!whole_group && !isAlive(identity)) return
  try {
    process.kill(whole_group ? -identity.pid : identity.pid, signal)
  } catch {
    // gone between the look and the call
  }
}

/** What the system tells about a process of ours. */
export interface Look {
  readonly program: string
  readonly args: readonly string[]
  readonly folder: string
}

/** Living processes that look like this; none where the system does not tell. */
export function processesLike(matches: (look: Look) => boolean): Identity[] {
  if (!has_proc) return []
  const found: Identity[] = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const program = readlinkSync(`/proc/${name}/exe`).replace(/ \(deleted\)$/, '')
      const args = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0')
      if (!matches({ program, args, folder: readlinkSync(`/proc/${name}/cwd`) })) continue
    } catch {
      continue // gone, or another user's
    }
    const identity = identify(Number(name))
    if (identity) found.push(identity)
  }
  return found
}

/**
 * Takes a lock file for this process and returns its release. Throws `busy(pid)` when a living process has it; a lock
 * left by a killed one is taken over.
 */
export function lock(file: string, busy: (pid: number) => Error): () => void {
  const mine = `${file}.${process.pid}`
  const text = JSON.stringify(identify(process.pid))
  writeFileSync(mine, text)
  try {
    for (;;) {
      try {
        linkSync(mine, file) // fails when it exists, unlike a rename
        break
      } catch (error) {
        if (!isErrorCode(error, 'EEXIST')) throw error
      }
      const held = readText(file)
      if (held === null) continue // released a moment ago
      const holder = parseIdentity(held)
      if (holder && isAlive(holder)) throw busy(holder.pid)
      // Two may find the same stale lock: who moves it away makes sure that it is still that one.
      const stale = `${file}.stale.${process.pid}`
      try {
        renameSync(file, stale)
      } catch {
        continue
      }
      if (readText(stale) === held) unlinkSync(stale)
      else renameSync(stale, file)
    }
  } finally {
    rmSync(mine, { force: true })
  }
  return () => {
    if (readText(file) === text) rmSync(file, { force: true })
  }
}

/** Reads an identity that was written as JSON. */
export function parseIdentity(text: string): Identity | null {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null || !('pid' in value) || !('start_time' in value)) return null
    return typeof value.pid === 'number' && typeof value.start_time === 'string'
      ? { pid: value.pid, start_time: value.start_time }
      : null
  } catch {
    return null
  }
}

/** The text of a file, null when there is none. */
export function readText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null
  }
}

function isErrorCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
