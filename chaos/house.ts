/**
 * The processes of one run: the engine room, and the service's own as an operator would run them, by path and with their
 * documented settings only. Whatever ends is started again; what is killed here can be waited for.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { type Engine, type EngineOptions, startEngine } from '../embedded/engine.ts'
import { isFree } from '../embedded/ports.ts'
import type { Chance } from './chance.ts'

export const KINDS = ['api', 'worker', 'temporal', 'postgres'] as const
export type Kind = (typeof KINDS)[number]

const NUMBERS: Readonly<Record<'api' | 'worker', number>> = { api: 2, worker: 3 }
const ROOT = join(import.meta.dirname, '..')
const START = join(ROOT, 'worker/start.ts')
const RESTART_WITHIN_MS = 1_000
const READY_TIMEOUT_MS = 120_000
const END_TIMEOUT_MS = 5_000
/** Below the ports that outgoing connections take: nothing takes it while its server is dead. */
const [FIRST_PORT, LAST_PORT] = [12_000, 20_000]
/** Of the service's settings only ours count. */
const FOREIGN = /^(HOLDFAST_|VITEST|NODE_OPTIONS$|DATABASE_URL$|OTEL_|TEMPORAL_(?!CLI$))/

export interface HouseOptions {
  readonly data: string
  readonly engine: 'sqlite' | 'postgres'
  readonly chance: Chance
  readonly signal: AbortSignal
  readonly log: (line: string) => void
}

export interface House {
  /** Addresses of the APIs, dead or alive. */
  readonly api_urls: readonly string[]
  readonly simulated_url: string
  readonly operator_token: string
  /** Processes that may be killed, by name. */
  readonly names: readonly string[]
  /** Kills with SIGKILL; false: it is not there, being started again. */
  kill(name: string): boolean
  /** A process of the service has said that it is ready, in its present life. */
  ready(name: string): boolean
  /** All kinds have a process that said it was ready, so that work can go on. */
  healthy(): boolean
  /** Nothing is missing. */
  complete(): boolean
  /** Ends that nobody asked for, of processes that were ready. */
  readonly unasked: readonly string[]
  stop(): Promise<void>
}

/** A process of the service, over all its lives. */
interface Resident {
  readonly name: string
  readonly kind: 'api' | 'worker'
  readonly arguments: readonly string[]
  child: ChildProcess | null
  ready: boolean
  killed: boolean
  running: Promise<void>
}

/** Starts everything and resolves when all of it is ready. */
export async function openHouse(options: HouseOptions): Promise<House> {
  const { data, chance, log } = options
  const stopping = new AbortController()
  const engine = await startEngine(engineOptions(options))
  const operator_token = randomBytes(24).toString('base64url')
  const environment = {
    DATABASE_URL: engine.database_url,
    TEMPORAL_ADDRESS: engine.temporal_address,
    TEMPORAL_NAMESPACE: engine.namespace,
    HOLDFAST_MASTER_KEY: randomBytes(32).toString('base64'),
    HOLDFAST_OPERATOR_TOKEN: operator_token,
    HOLDFAST_HOOK_ALLOW: '127.0.0.0/8',
    HOLDFAST_LOG_LEVEL: process.env.HOLDFAST_LOG_LEVEL ?? 'warn',
  }
  const unasked: string[] = []
  const residents: Resident[] = []
  const api_urls: string[] = []
  for (const kind of ['api', 'worker'] as const) {
    for (let number = 1; number <= NUMBERS[kind]; number++) {
      const name = `${kind}-${number}`
      const port = kind === 'api' ? await freePort() : 0
      if (kind === 'api') api_urls.push(`http://127.0.0.1:${port}`)
      const folder = join(data, name)
      mkdirSync(folder, { recursive: true })
      const args = [START, '--role', kind, '--port', String(port), '--data', folder]
      residents.push({
        name,
        kind,
        arguments: args,
        child: null,
        ready: false,
        killed: false,
        running: Promise.resolve(),
      })
    }
  }

  /** One life: from the start to the end. `onReady` is called once it is ready. */
  const live = (resident: Resident, onReady: () => void): Promise<{ reason: string; was_ready: boolean }> => {
    const stderr = openSync(join(data, 'logs', `${resident.name}.log`), 'a')
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', ...resident.arguments], {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', stderr],
      env: { ...inherited(), ...environment },
    })
    closeSync(stderr)
    resident.child = child
    resident.killed = false
    const late = setTimeout(() => child.kill('SIGKILL'), READY_TIMEOUT_MS)
    createInterface({ input: child.stdout! }).once('line', () => {
      clearTimeout(late)
      resident.ready = true
      onReady()
    })
    return new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(error.message))
      child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`))
    }).then((reason) => {
      clearTimeout(late)
      const was_ready = resident.ready
      resident.child = null
      resident.ready = false
      return { reason, was_ready }
    })
  }

  const keep = (resident: Resident): Promise<void> =>
    new Promise((first_ready) => {
      resident.running = (async () => {
        while (!stopping.signal.aborted) {
          const { reason, was_ready } = await live(resident, first_ready)
          if (stopping.signal.aborted) return
          if (!resident.killed) {
            const line = `${resident.name} ended by itself (${reason})${was_ready ? '' : ' while it started'}`
            log(line)
            // A start that finds no PostgreSQL ends with a line that says so: whoever started it tries again.
            if (was_ready) unasked.push(line)
          }
          await delay(chance.next() * RESTART_WITHIN_MS, undefined, { signal: stopping.signal }).catch(() => {})
        }
      })()
    })

  const stop = async (): Promise<void> => {
    stopping.abort()
    await Promise.all(residents.map(end))
    await engine.stop()
  }
  try {
    // The first makes the schema.
    await untilStopped(keep(residents[0]!), options.signal)
    await untilStopped(Promise.all(residents.slice(1).map(keep)), options.signal)
  } catch (error) {
    await stop()
    throw error
  }

  const names = [...residents.map(({ name }) => name), 'temporal', 'postgres']
  const engine_up = () => pidOf(engine, 'temporal') !== 0 && pidOf(engine, 'postgres') !== 0
  return {
    api_urls,
    simulated_url: engine.simulated_url!,
    operator_token,
    names,
    unasked,
    kill(name) {
      const resident = residents.find((one) => one.name === name)
      if (resident) {
        if (!resident.child) return false
        resident.killed = true
        resident.ready = false
        return resident.child.kill('SIGKILL')
      }
      const pid = pidOf(engine, name)
      if (pid !== 0) process.kill(pid, 'SIGKILL')
      return pid !== 0
    },
    ready: (name) => residents.some((resident) => resident.name === name && resident.ready),
    healthy: () =>
      engine_up() && (['api', 'worker'] as const).every((kind) => residents.some((r) => r.kind === kind && r.ready)),
    complete: () => engine_up() && residents.every((resident) => resident.ready),
    stop,
  }
}

export const kindOf = (name: string): Kind => KINDS.find((kind) => name.startsWith(kind))!

function engineOptions({ data, engine, signal, log }: HouseOptions): EngineOptions {
  return {
    data,
    signal,
    log: (line) => log(`engine: ${line}`),
    simulated: true,
    ...(engine === 'postgres' ? { engine } : {}),
  }
}

const pidOf = (engine: Engine, name: string): number =>
  engine.processes().find((running) => running.name === name)?.pid ?? 0

const inherited = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !FOREIGN.test(name)))

async function end(resident: Resident): Promise<void> {
  const { child } = resident
  if (child) {
    child.kill('SIGTERM')
    const late = setTimeout(() => child.kill('SIGKILL'), END_TIMEOUT_MS)
    await resident.running
    clearTimeout(late)
  }
  await resident.running
}

function untilStopped<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  const stopped = Promise.withResolvers<never>()
  const stop = () => stopped.reject(signal.reason)
  signal.addEventListener('abort', stop, { once: true })
  return Promise.race([promise, stopped.promise]).finally(() => signal.removeEventListener('abort', stop))
}

async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(FIRST_PORT, LAST_PORT)
    if (await isFree(port)) return port
  }
}
