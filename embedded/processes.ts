/**
 * Processes of the engine room: started, watched, restarted on the same port and data when they die, adopted when an
 * earlier owner was killed, stopped for good when asked.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type Identity,
  identify,
  isAlive,
  type Look,
  parseIdentity,
  processesLike,
  readText,
  send,
  untilGone,
} from './identity.ts'

/** Where a data folder keeps pids and logs, and who is told. */
export interface Room {
  readonly run: string
  readonly logs: string
  log(line: string): void
  /** Aborted when the start is given up. */
  readonly signal: AbortSignal
}

/** What to run and how to tell that it works. */
export interface ProcessSpec {
  readonly name: string
  readonly port: number
  readonly file: string
  readonly args: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  readonly cwd?: string
  /** What it keeps its state in, where that may differ between starts: a running one on something else is not adopted. */
  readonly works_on?: string
  /** Another user to run as, when we are root. */
  readonly user?: { uid: number; gid: number }
  /** One look: does it do its work? Throws or says false while it does not. */
  ready(signal: AbortSignal): Promise<boolean>
  readonly ready_bound_ms: number
  /** Signals that ask it to end, each given its time; what remains is killed. */
  readonly stop_signals: readonly NodeJS.Signals[]
  readonly stop_bound_ms: number
  /** Clears away what a killed one left. */
  beforeStart?(): Promise<void>
}

/** A process that is looked after. */
export interface Supervised {
  readonly name: string
  readonly port: number
  pid(): number
  stop(): Promise<void>
}

const look_every_ms = 25
/** The event that tells why a child is gone may come a moment after its disappearance. */
const gone_grace_ms = 200
const watch_every_ms = 250
const first_backoff_ms = 100
const longest_backoff_ms = 10_000
/** What lived that long was not ended by its own start: it is started again at once. */
const healthy_after_ms = 2_000

/** A process that an earlier owner left running. */
export interface Running extends Identity {
  readonly port: number
  readonly works_on?: string
}

/** What an earlier owner left running under this name. */
export function findRunning(room: Pick<Room, 'run'>, name: string): Running | null {
  const text = readText(recordFile(room, name))
  const identity = text === null ? null : parseIdentity(text)
  if (!text || !identity || !isAlive(identity)) return null
  const { port, works_on } = JSON.parse(text) as { port?: unknown; works_on?: unknown }
  if (typeof port !== 'number') return null
  return { ...identity, port, ...(typeof works_on === 'string' ? { works_on } : {}) }
}

/** Ends a process that an earlier owner left and that is not wanted any more. */
export async function endRunning(identity: Identity, stop_signals: readonly NodeJS.Signals[], bound_ms: number) {
  for (const signal of stop_signals) {
    send(identity, signal)
    if (await untilGone(identity, bound_ms)) break
  }
  send(identity, 'SIGKILL', true) // the group too: helpers may outlive their leader
  await untilGone(identity, bound_ms)
}

/** Ends processes that were started by one who died before it could write their pid down. */
export async function endUnrecorded(matches: (look: Look) => boolean, bound_ms: number): Promise<void> {
  for (const identity of processesLike(matches)) await endRunning(identity, ['SIGTERM'], bound_ms)
}

/**
 * Starts the process, or adopts `running`, and looks after it from then on. Resolves when it is ready; rejects, with
 * nothing left running, when it does not become ready. `onRestart` is called each time it is ready again.
 */
export async function supervise(
  room: Room,
  spec: ProcessSpec,
  running: Identity | null,
  onRestart: () => void,
): Promise<Supervised> {
  const supervisor = new Supervisor(room, spec, onRestart)
  await supervisor.start(running)
  return supervisor
}

class EndedEarly extends Error {}

class Supervisor implements Supervised {
  readonly name: string
  readonly port: number
  readonly #room: Room
  readonly #spec: ProcessSpec
  readonly #onRestart: () => void
  readonly #stopping = new AbortController()
  #current: Identity | null = null
  #watching: Promise<void> = Promise.resolve()

  constructor(room: Room, spec: ProcessSpec, onRestart: () => void) {
    this.name = spec.name
    this.port = spec.port
    this.#room = room
    this.#spec = spec
    this.#onRestart = onRestart
  }

  pid(): number {
    return this.#current?.pid ?? 0
  }

  async start(running: Identity | null): Promise<void> {
    const { signal } = this.#room
    if (running) {
      this.#current = running
      const ready = await this.#untilReady(running, signal).then(
        () => true,
        () => false,
      )
      signal.throwIfAborted()
      if (ready) {
        this.#room.log(`${this.name}: adopted process ${running.pid} of an earlier start, port ${this.port}`)
        this.#watching = this.#watch(untilDead(running, this.#stopping.signal))
        return
      }
      this.#room.log(`${this.name}: process ${running.pid} of an earlier start does not answer, ending it`)
      await this.#end(running)
    }
    const { died } = await this.#launch(signal).catch((error) => {
      signal.throwIfAborted()
      if (!(error instanceof EndedEarly)) throw error
      this.#room.log(`${error.message}; trying once more`) // a port may have been taken at the last moment
      return this.#launch(signal)
    })
    this.#watching = this.#watch(died)
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#watching
    if (this.#current) await this.#end(this.#current)
    this.#current = null
    rmSync(recordFile(this.#room, this.name), { force: true })
  }

  #end(identity: Identity): Promise<void> {
    return endRunning(identity, this.#spec.stop_signals, this.#spec.stop_bound_ms)
  }

  /** One process from spawn to ready; nothing remains when it fails. */
  async #launch(signal: AbortSignal): Promise<{ died: Promise<string> }> {
    await this.#spec.beforeStart?.()
    signal.throwIfAborted()
    const log_file = join(this.#room.logs, `${this.name}.log`)
    const { child, died } = spawnLogged(this.#spec, log_file)
    const identity = child.pid === undefined ? null : identify(child.pid)
    if (!identity) throw new Error(`${this.name} did not start: ${await died}`)
    this.#current = identity
    // Written whole and at once: a start after our death must find either nothing or all of it.
    const record = recordFile(this.#room, this.name)
    writeFileSync(`${record}.new`, JSON.stringify({ ...identity, port: this.port, works_on: this.#spec.works_on }))
    renameSync(`${record}.new`, record)
    try {
      await Promise.race([
        this.#untilReady(identity, signal),
        died.then((reason) => {
          throw new EndedEarly(`${this.name} ended while starting (${reason}); ${lastLine(log_file)} [${log_file}]`)
        }),
      ])
    } catch (error) {
      await this.#end(identity)
      await died
      this.#current = null
      throw error
    }
    return { died }
  }

  async #untilReady(identity: Identity, signal: AbortSignal): Promise<void> {
    const until = performance.now() + this.#spec.ready_bound_ms
    let gone: number | null = null
    for (;;) {
      signal.throwIfAborted()
      if (await this.#spec.ready(signal).catch(() => false)) return
      if (!isAlive(identity)) gone ??= performance.now()
      if (gone !== null && performance.now() - gone > gone_grace_ms) throw new Error(`${this.name} is gone`)
      if (performance.now() > until) {
        throw new Error(`${this.name} did not become ready within ${this.#spec.ready_bound_ms / 1000} s`)
      }
      await delay(look_every_ms, undefined, { signal })
    }
  }

  /** Runs until stop(): each death is followed by a new process, later each time when they die soon. */
  async #watch(first_death: Promise<string>): Promise<void> {
    const { signal } = this.#stopping
    const stopped = new Promise<null>((resolve) =>
      signal.addEventListener('abort', () => resolve(null), { once: true }),
    )
    let death: Promise<string> | null = first_death
    let backoff_ms = 0
    let ready_at = performance.now()
    while (!signal.aborted) {
      if (death) {
        const reason = await Promise.race([death, stopped])
        if (reason === null) return
        if (this.#current) send(this.#current, 'SIGKILL', true) // its helpers, if any
        this.#current = null
        if (performance.now() - ready_at > healthy_after_ms) backoff_ms = 0
        this.#room.log(`${this.name} ended (${reason}), starting it again`)
      }
      try {
        await delay(backoff_ms, undefined, { signal })
        backoff_ms = Math.min(longest_backoff_ms, Math.max(first_backoff_ms, backoff_ms * 2))
        death = (await this.#launch(signal)).died
        ready_at = performance.now()
        this.#room.log(`${this.name} is ready again, process ${this.pid()}, port ${this.port}`)
        queueMicrotask(this.#onRestart) // its errors are not ours
      } catch (error) {
        if (signal.aborted) return
        death = null
        this.#room.log(`${error instanceof Error ? error.message : String(error)}; next try in ${backoff_ms} ms`)
      }
    }
  }
}

function spawnLogged(spec: ProcessSpec, log_file: string): { child: ChildProcess; died: Promise<string> } {
  const log = openSync(log_file, 'a', 0o640)
  try {
    // A group of its own: a terminal's Ctrl-C is for us, who then end our processes in order.
    const child = spawn(spec.file, spec.args, {
      detached: true,
      stdio: ['ignore', log, log],
      env: spec.env ?? process.env,
      ...(spec.cwd ? { cwd: spec.cwd } : {}),
      ...(spec.user ?? {}),
    })
    const died = new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(error.message))
      child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`))
    })
    return { child, died }
  } finally {
    closeSync(log)
  }
}

/** An adopted process is not our child, so no event tells its end. */
async function untilDead(identity: Identity, signal: AbortSignal): Promise<string> {
  while (!signal.aborted && isAlive(identity)) {
    await delay(watch_every_ms, undefined, { signal }).catch(() => {})
  }
  return 'it was adopted, the cause is not known'
}

function recordFile(room: Pick<Room, 'run'>, name: string): string {
  return join(room.run, `${name}.json`)
}

function lastLine(file: string): string {
  return readText(file)?.trimEnd().split('\n').at(-1)?.slice(0, 300) ?? ''
}
