/**
 * An installation to be measured: PostgreSQL and Temporal on their files, the simulated cloud, a fresh data folder, and
 * the service as the processes that `npm start` runs, so that nothing of the bench runs in what is measured.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Client, Connection } from '@temporalio/client'
import { sql } from 'kysely'
import { Pool } from 'undici'
import { type Engine, startEngine } from '../../embedded/engine.ts'
import { openStore, type Store } from '../../store/database.ts'
import { migrate } from '../../store/migrate.ts'
import { createToken } from '../../store/projects.ts'
import { openControl } from './cloud-control.ts'
import { until, usageOf } from './measure.ts'

const START = fileURLToPath(new URL('../../worker/start.ts', import.meta.url))
const OPERATOR_TOKEN = 'operator-token-of-the-bench'
const CONNECTIONS = 64
const START_TIMEOUT_MS = 60_000
const STOP_TIMEOUT_MS = 15_000

export interface ServiceProcess {
  readonly pid: number
  readonly url: string
  readonly port: number
  /** What it wrote to stderr, the last of it. */
  said(): string
  /** SIGTERM, and the end. */
  stop(): Promise<void>
  /** `kill -9`, and the end. */
  kill(): Promise<void>
}

export interface Api {
  /** One request; throws where the answer is not a 2xx. Gives the parsed body, if there is one. */
  send<Body>(method: 'GET' | 'POST' | 'PATCH' | 'DELETE', path: string, body?: unknown): Promise<Body>
  close(): Promise<void>
}

export interface House {
  readonly data: string
  readonly engine: Engine
  readonly database_url: string
  readonly store: Store
  readonly temporal: Client
  /** A process as `npm start -- --role …` makes it; resolves at its ready line. */
  start(role: 'all' | 'api' | 'worker', options?: { port?: number; database_url?: string }): Promise<ServiceProcess>
  api(url: string, token?: string): Api
  /** A member's token of a project, made when new. */
  token(project: string): Promise<string>
  /** A cloud without latency, watched, with size `small` and image `debian`. */
  cloud(api: Api, name: string, more?: { configuration?: object; settings?: object }): Promise<void>
  /** Another, empty database of the same PostgreSQL. */
  emptyDatabase(name: string): Promise<string>
  /** CPU so far, by process; `also`: further ones by name. */
  cpu(also?: Readonly<Record<string, number>>): Record<string, number>
  memory(also?: Readonly<Record<string, number>>): Record<string, number>
  /** Ended before the house is: whatever came of the bench. */
  onClose(end: () => Promise<unknown>): void
  close(): Promise<void>
}

const open_houses = new Set<() => Promise<void>>()
const ending = new AbortController()

/** Ends every house that is open or being opened: for the program's own end. */
export async function closeHouses(): Promise<void> {
  ending.abort(new Error('the program ends'))
  await Promise.allSettled([...open_houses].map((close) => close()))
}

/** Brings one up; `close()` ends all of it and removes its folder. */
export async function openHouse(): Promise<House> {
  const data = await mkdtemp(join(tmpdir(), 'holdfast-bench-'))
  await chmod(data, 0o755) // PostgreSQL's own user must be able to enter it when we are root
  const closing: (() => Promise<unknown>)[] = [() => rm(data, { recursive: true, force: true, maxRetries: 5 })]
  const close = async (): Promise<void> => {
    open_houses.delete(close)
    for (const end of closing.splice(0).reverse()) await end()
  }
  open_houses.add(close)
  try {
    const log = (line: string) => process.stderr.write(`${line}\n`)
    const starting = startEngine({ data, simulated: true, log, signal: ending.signal })
    closing.push(() => starting.then((engine) => engine.stop()).catch(() => {}))
    const engine = await starting
    const store = openStore(engine.database_url, { size: 4 })
    closing.push(() => store.close())
    await migrate(store.db)
    const connection = await Connection.connect({ address: engine.temporal_address })
    closing.push(() => connection.close())
    const temporal = new Client({ connection, namespace: engine.namespace })
    return furnish({ data, engine, store, temporal }, closing, close)
  } catch (error) {
    await close()
    throw error
  }
}

function furnish(
  base: Pick<House, 'data' | 'engine' | 'store' | 'temporal'>,
  closing: (() => Promise<unknown>)[],
  close: () => Promise<void>,
): House {
  const { data, engine, store } = base
  const pids = (also: Readonly<Record<string, number>>): Record<string, number> => ({
    ...Object.fromEntries(engine.processes().map(({ name, pid }) => [name, pid])),
    ...also,
  })
  const each = (also: Readonly<Record<string, number>>, what: 'cpu_ms' | 'memory_mib'): Record<string, number> =>
    Object.fromEntries(Object.entries(pids(also)).map(([name, pid]) => [name, usageOf(pid)[what]]))

  return {
    ...base,
    database_url: engine.database_url,
    async start(role, options = {}) {
      const service = await startService(role, {
        port: options.port ?? 0,
        data: join(data, 'service'),
        environment: {
          DATABASE_URL: options.database_url ?? engine.database_url,
          TEMPORAL_ADDRESS: engine.temporal_address,
          TEMPORAL_NAMESPACE: engine.namespace,
        },
      })
      closing.push(() => service.stop())
      return service
    },
    api(url, token = OPERATOR_TOKEN) {
      const api = openApi(url, token)
      closing.push(() => api.close())
      return api
    },
    token: (project) => createToken(store, { project, role: 'member' }),
    async cloud(api, name, { configuration = {}, settings = {} } = {}) {
      const without_latency = { boot_latency_ms: 0, delete_latency_ms: 0, ...configuration }
      await openControl(engine.simulated_url!, name).send('PUT', '', without_latency)
      await api.send('POST', '/api/clouds', {
        name,
        provider: 'simulated',
        endpoint: `${engine.simulated_url}/clouds/${name}`,
        sizes: { small: 'm1.small' },
        images: { debian: 'debian-13' },
        settings,
      })
    },
    async emptyDatabase(name) {
      await sql.raw(`create database ${name}`).execute(store.db)
      const url = new URL(engine.database_url)
      url.pathname = `/${name}`
      return url.href
    },
    cpu: (also = {}) => each(also, 'cpu_ms'),
    memory: (also = {}) => each(also, 'memory_mib'),
    onClose: (end) => void closing.push(end),
    close,
  }
}

async function startService(
  role: string,
  { port, data, environment }: { port: number; data: string; environment: Record<string, string> },
): Promise<ServiceProcess> {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(HOLDFAST_|VITEST|TEMPORAL_|DATABASE_URL$|NODE_OPTIONS$)/.test(name),
  )
  const child: ChildProcess = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', START, '--role', role, '--port', String(port), '--data', data],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...Object.fromEntries(inherited),
        HOLDFAST_HOOK_ALLOW: '127.0.0.0/8',
        HOLDFAST_OPERATOR_TOKEN: OPERATOR_TOKEN,
        HOLDFAST_LOG_LEVEL: 'warn',
        ...environment,
      },
    },
  )
  let said = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4_000)
  })
  const exited = once(child, 'exit')
  const early = exited.then(() => {
    throw new Error(`a service process ended: ${said}`)
  })
  early.catch(() => {})
  const timeout = setTimeout(() => child.kill('SIGKILL'), START_TIMEOUT_MS)
  const lines = createInterface({ input: child.stdout! })
  const [line] = (await Promise.race([once(lines, 'line'), early]).finally(() => clearTimeout(timeout))) as [string]
  const url = (JSON.parse(line) as { api: string }).api
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal)
    const impatient = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await exited
    clearTimeout(impatient)
  }
  return {
    pid: child.pid!,
    url,
    port: Number(new URL(url).port),
    said: () => said,
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
  }
}

function openApi(url: string, token: string): Api {
  const pool = new Pool(url, { connections: CONNECTIONS, pipelining: 1 })
  return {
    async send<Body>(method: 'GET' | 'POST' | 'PATCH' | 'DELETE', path: string, body?: unknown): Promise<Body> {
      const answer = await pool.request({
        method,
        path,
        headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : JSON_TYPE) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
      const text = await answer.body.text()
      if (answer.statusCode > 299) throw new Error(`${method} ${path} answered ${answer.statusCode}: ${text}`)
      return (text ? JSON.parse(text) : undefined) as Body
    },
    close: () => pool.destroy(),
  }
}

const JSON_TYPE = { 'content-type': 'application/json' }

/** Waits for the outbox to be empty: all was handed over, and what was due was done. */
export const untilHandedOver = (store: Store, timeout_ms: number): Promise<boolean> =>
  until(async () => {
    const { rows } = await sql<{ empty: boolean }>`select not exists (select from outbox) as empty`.execute(store.db)
    return rows[0]!.empty
  }, timeout_ms)

/** CPU ms per piece of work between two looks, by process and in all. */
export function cpuPer(
  count: number,
  before: Readonly<Record<string, number>>,
  after: Readonly<Record<string, number>>,
): Record<string, number> {
  const parts = Object.entries(after).map(([name, ms]) => [name, (ms - (before[name] ?? 0)) / count] as const)
  const all = parts.reduce((sum, [, ms]) => sum + ms, 0)
  return Object.fromEntries([...parts, ['all', all] as const].map(([name, ms]) => [name, Math.round(ms * 10) / 10]))
}
