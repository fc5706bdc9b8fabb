/**
 * The engine room of one machine: PostgreSQL, Temporal and the simulated cloud, found or started, kept running, and
 * outliving us when we are killed. Everything listens on the loopback address only.
 */
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { lock } from './identity.ts'
import { PortBook, type Ports } from './ports.ts'
import { startPostgres } from './postgres.ts'
import { endRunning, findRunning, type Room, type Supervised } from './processes.ts'
import { startSimulated } from './simulated.ts'
import { startTemporal } from './temporal.ts'

export interface EngineOptions {
  /** The data folder; everything that is started keeps its files there. */
  readonly data: string
  /** Told what happens, one line at a time. */
  readonly log: (line: string) => void
  readonly ports?: Ports
  /** An existing PostgreSQL: none is started. */
  readonly databaseUrl?: string
  /** An existing Temporal: none is started. */
  readonly temporalAddress?: string
  readonly namespace?: string
  /** What the Temporal server that is started keeps its state in: a file (default), or the same PostgreSQL as ours. */
  readonly engine?: EngineStore
  /** Further flags for the Temporal server that is started. */
  readonly temporalFlags?: readonly string[]
  readonly simulated?: boolean | { port?: number }
  /** Gives the start up; what was started by then is stopped. */
  readonly signal?: AbortSignal
}

export type EngineStore = 'sqlite' | 'postgres'

export type EngineProcessName = 'postgres' | 'temporal' | 'simulated'

export interface EngineProcess {
  readonly name: EngineProcessName
  readonly pid: number
  readonly port: number
}

export interface Engine {
  readonly database_url: string
  readonly temporal_address: string
  readonly temporal_ui: string | null
  readonly namespace: string
  readonly simulated_url: string | null
  /** What runs now; the pid is 0 while a process is being started again. */
  processes(): EngineProcess[]
  /** Calls back each time a process that died is ready again, on the same port and data. Returns the way out. */
  onRestart(callback: (name: EngineProcessName) => void): () => void
  /** Ends what was started, in order. */
  stop(): Promise<void>
}

/**
 * Brings everything up side by side and resolves when all of it answers. Rejects with one sentence, and nothing left
 * running, when something does not start or the data folder is in use by another process.
 */
export async function startEngine(options: EngineOptions): Promise<Engine> {
  const data = resolve(options.data)
  const [run, logs] = [join(data, 'run'), join(data, 'logs')]
  for (const folder of [data, run, logs]) mkdirSync(folder, { recursive: true })
  const release = lock(join(run, 'lock'), (pid) => new Error(`data folder ${data} is in use by process ${pid}`))

  // One that fails gives up the others: no build goes on for minutes after PostgreSQL said no.
  const failed = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, failed.signal]) : failed.signal
  const room: Room = { run, logs, log: options.log, signal }
  const callbacks = new Set<(name: EngineProcessName) => void>()
  const told = (name: EngineProcessName) => () => {
    for (const callback of callbacks) callback(name)
  }
  const started = new Map<EngineProcessName, Supervised>()
  const bring = async <P extends Supervised>(name: EngineProcessName, starting: Promise<P>): Promise<P> => {
    try {
      const supervised = await starting
      started.set(name, supervised)
      return supervised
    } catch (error) {
      failed.abort(error)
      throw error
    }
  }
  const stop = async () => {
    await Promise.all([started.get('temporal')?.stop(), started.get('simulated')?.stop()])
    await started.get('postgres')?.stop()
    release()
  }

  const namespace = options.namespace ?? 'holdfast'
  const simulated_port = typeof options.simulated === 'object' ? options.simulated.port : undefined
  const given = { ...options.ports, ...(simulated_port === undefined ? {} : { simulated: simulated_port }) }
  const ports = new PortBook(join(run, 'ports.json'), given)
  const flags = options.temporalFlags ?? []
  const postgres_starting = options.databaseUrl
    ? unwanted(room, 'postgres', ['SIGINT'])
    : bring('postgres', startPostgres(room, data, ports, told('postgres')))
  const temporalStore = () =>
    options.engine === 'postgres'
      ? { database_url: options.databaseUrl ?? postgres_starting.then((postgres) => postgres!.url) }
      : {}
  const starting = {
    postgres: postgres_starting,
    temporal: options.temporalAddress
      ? unwanted(room, 'temporal', ['SIGTERM'])
      : bring('temporal', startTemporal(room, data, ports, { namespace, flags, ...temporalStore() }, told('temporal'))),
    simulated: options.simulated
      ? bring('simulated', startSimulated(room, data, ports, told('simulated')))
      : unwanted(room, 'simulated', ['SIGTERM']),
  }
  await Promise.allSettled(Object.values(starting))
  if (signal.aborted) {
    await stop()
    throw signal.reason
  }
  const [postgres, temporal, simulated] = await Promise.all([starting.postgres, starting.temporal, starting.simulated])
  return {
    database_url: options.databaseUrl ?? postgres!.url,
    temporal_address: options.temporalAddress ?? temporal!.address,
    temporal_ui: temporal?.ui ?? null,
    namespace,
    simulated_url: simulated?.url ?? null,
    processes: () => [...started].map(([name, process]) => ({ name, pid: process.pid(), port: process.port })),
    onRestart(callback) {
      callbacks.add(callback)
      return () => callbacks.delete(callback)
    },
    stop,
  }
}

/** Ends what an earlier start with other options left running. */
async function unwanted(room: Room, name: EngineProcessName, signals: readonly NodeJS.Signals[]): Promise<null> {
  const running = findRunning(room, name)
  if (!running) return null
  room.log(`${name}: process ${running.pid} of an earlier start is not needed any more, ending it`)
  await endRunning(running, signals, unwanted_bound_ms)
  return null
}

const unwanted_bound_ms = 10_000
