/** A Temporal server for one machine: finds one, downloads one or builds one, and runs it on a file or on PostgreSQL. */
import { spawn } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readdirSync, realpathSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Connection, isGrpcServiceError } from '@temporalio/client'
import { msToTs } from '@temporalio/common/lib/time.js'
import type { Look } from './identity.ts'
import { answers, type PortBook } from './ports.ts'
import {
  endRunning,
  endUnrecorded,
  findRunning,
  type ProcessSpec,
  type Room,
  type Supervised,
  supervise,
} from './processes.ts'
import { fileStore, memory_store, postgresStore, type TemporalStore } from './temporal-store.ts'

/** A running server. */
export interface Temporal extends Supervised {
  readonly address: string
  readonly ui: string | null
}

export interface TemporalOptions {
  /** Waited for; made when missing. */
  readonly namespace: string
  /** No database file: everything is gone with the process. For tests. */
  readonly in_memory?: boolean
  /** On this PostgreSQL instead of a file, as soon as it is there. */
  readonly database_url?: string | Promise<string>
  readonly headless?: boolean
  /** Further flags of `server start-dev`. */
  readonly flags?: readonly string[]
}

const build_script = fileURLToPath(new URL('../tools/build-temporal.mjs', import.meta.url))
const download_script = fileURLToPath(new URL('./temporal-download.ts', import.meta.url))
const ready_bound_ms = 60_000
const stop_bound_ms = 10_000
const probe_bound_ms = 2_000
/** Offline the download fails at once or never. It is given up unless bytes arrive by then, */
const download_starts_within_ms = 10_000
/** and in any case after this. */
const download_bound_ms = 180_000
const retention_ms = 24 * 3_600_000

export const search_attributes = ['HoldfastProject', 'HoldfastState']

/** What a single node needs; docker-compose.yml says the same. */
export const dynamic_config = {
  // One partition: with little traffic a task waits for the right poller otherwise.
  'matching.numTaskqueueReadPartitions': 1,
  'matching.numTaskqueueWritePartitions': 1,
  // A flow that returned is started again at once by a wake.
  'history.workflowIdReuseMinimalInterval': '0s',
  'history.timerProcessorMaxTimeShift': '10ms',
  // Reads of a shard's queues a second, 20 unless told: each moment at which timers fire takes two.
  'history.timerProcessorMaxPollRPS': 200,
  'history.transferProcessorMaxPollRPS': 200,
  'frontend.namespaceRPS.visibility': 100,
}

/** Starts the server on `<data>/temporal/temporal.db` or on PostgreSQL, or adopts the one an earlier start left. */
export async function startTemporal(
  room: Room,
  data: string,
  ports: PortBook,
  options: TemporalOptions,
  onRestart: () => void,
): Promise<Temporal> {
  const say = (line: string) => room.log(line)
  const store = await openTemporalStore(data, options)
  const works_on = store.flags.join(' ')
  let running = findRunning(room, 'temporal')
  if (running && running.works_on !== works_on) {
    say(`temporal: process ${running.pid} of an earlier start keeps its state elsewhere, ending it`)
    await endRunning(running, ['SIGTERM'], stop_bound_ms)
    running = null
  }
  // Two servers on one store would ruin it.
  if (!running && !options.in_memory) {
    const folder = realpathSync(data)
    const ours = (look: Look) => look.folder === folder && store.flags.every((flag) => look.args.includes(flag))
    await endUnrecorded(ours, stop_bound_ms)
  }
  const port = running?.port ?? (await ports.claim('temporal', say))
  const known_ui = running ? ports.known('temporal_ui') : undefined
  const ui_port = options.headless ? null : (known_ui ?? (await ports.claim('temporal_ui', say)))
  const address = `127.0.0.1:${port}`
  const ui = ui_port === null ? null : `http://127.0.0.1:${ui_port}`

  const spec = (program: string): ProcessSpec => ({
    name: 'temporal',
    port,
    file: resolve(program),
    cwd: data,
    args: serverFlags(options, port, ui_port, store),
    works_on,
    ...(store.env ? { env: store.env } : {}),
    ready: () => isReady(address, port, [options.namespace]),
    ready_bound_ms,
    stop_signals: ['SIGTERM'],
    stop_bound_ms,
  })

  const failures: string[] = []
  for await (const { name, find } of candidates(room, store)) {
    try {
      const program = await find()
      await store.check(program)
      const supervised = await supervise(room, spec(program), running, onRestart)
      return Object.assign(supervised, { address, ui })
    } catch (error) {
      room.signal.throwIfAborted()
      const failure = `temporal: ${name}: ${messageOf(error)}`
      room.log(failure)
      failures.push(failure)
    }
  }
  throw new Error(`no Temporal server could be started: set TEMPORAL_ADDRESS or TEMPORAL_CLI\n${failures.join('\n')}`)
}

async function openTemporalStore(data: string, options: TemporalOptions): Promise<TemporalStore> {
  if (options.in_memory) return memory_store
  if (options.database_url) return postgresStore(await options.database_url)
  return fileStore(join(data, 'temporal', 'temporal.db'))
}

function serverFlags(options: TemporalOptions, port: number, ui_port: number | null, store: TemporalStore): string[] {
  const repeated = (flag: string, values: readonly string[]) => values.flatMap((value) => [flag, value])
  return [
    ...['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(port)],
    ...['--log-level', 'warn', '--log-format', 'json'],
    ...(ui_port === null ? ['--headless'] : ['--ui-port', String(ui_port)]),
    ...store.flags,
    ...repeated('--namespace', [options.namespace]),
    ...repeated(
      '--search-attribute',
      search_attributes.map((name) => `${name}=Keyword`),
    ),
    ...repeated(
      '--dynamic-config-value',
      Object.entries(dynamic_config).map(([key, value]) => `${key}=${JSON.stringify(value)}`),
    ),
    ...(options.flags ?? []),
  ]
}

interface Candidate {
  readonly name: string
  /** The program; rejects with the reason why there is none. */
  find(): Promise<string>
}

/** The ways to a server, best first. What is on the machine already goes before what takes time. */
async function* candidates(room: Room, store: TemporalStore): AsyncGenerator<Candidate> {
  const { TEMPORAL_CLI, PATH } = process.env
  if (TEMPORAL_CLI) {
    yield { name: `TEMPORAL_CLI=${TEMPORAL_CLI}`, find: async () => executable(TEMPORAL_CLI) }
  }
  const on_path = (PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, 'temporal'))
    .find((file) => file.startsWith('/') && isExecutable(file))
  if (on_path) yield { name: on_path, find: async () => on_path }

  const downloads = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'holdfast', 'download')
  const downloaded = findDownloaded(downloads)
  if (downloaded) yield { name: downloaded, find: async () => downloaded }
  const built = await runScript(room, [build_script, '--path'])
  if (existsSync(built)) yield { name: built, find: async () => built }

  // What can be downloaded is Temporal's own, for a file only.
  if (!store.on_postgres) yield { name: 'download', find: () => download(room, downloads) }
  yield { name: 'build', find: () => runScript(room, [build_script], true) }
}

function executable(file: string): string {
  if (!isExecutable(file)) throw new Error('is not a program')
  return file
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function findDownloaded(folder: string): string | null {
  if (!existsSync(folder)) return null
  const name = readdirSync(folder).find((entry) => /^temporal/.test(entry) && isExecutable(join(folder, entry)))
  return name ? join(folder, name) : null
}

/** The SDK downloads only while it starts a server, and from its own process: a child that we can give up on. */
async function download(room: Room, folder: string): Promise<string> {
  mkdirSync(folder, { recursive: true })
  const given_up = new AbortController()
  const before = readdirSync(folder).length
  const slow = setTimeout(() => readdirSync(folder).length === before && given_up.abort(), download_starts_within_ms)
  const long = setTimeout(() => given_up.abort(), download_bound_ms)
  try {
    await runScript({ ...room, signal: AbortSignal.any([room.signal, given_up.signal]) }, [download_script, folder])
  } catch (error) {
    room.signal.throwIfAborted()
    throw given_up.signal.aborted ? new Error('nothing arrived in time') : error
  } finally {
    clearTimeout(slow)
    clearTimeout(long)
  }
  const file = findDownloaded(folder)
  if (!file) throw new Error('the download left no program')
  process.send?.('temporal-build-unneeded') // to the launcher, which may have started a build early
  return file
}

/** Runs one of our scripts and gives its standard output; its other lines are progress. */
async function runScript(room: Room, args: readonly string[], tell = false): Promise<string> {
  room.signal.throwIfAborted()
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const end = () => child.kill('SIGTERM')
  room.signal.addEventListener('abort', end, { once: true })
  let output = ''
  let last_line = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  createInterface({ input: child.stderr }).on('line', (line) => {
    last_line = line
    if (tell) room.log(line)
  })
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', resolve)
    })
    room.signal.throwIfAborted()
    if (code !== 0) throw new Error(last_line || `exit code ${code}`)
    return output.trim()
  } finally {
    room.signal.removeEventListener('abort', end)
  }
}

/** Ready means that the namespaces answer. One that is missing in an existing file is made. */
async function isReady(address: string, port: number, namespaces: readonly string[]): Promise<boolean> {
  if (!(await answers(port))) return false // gRPC would wait a second before its second try
  const connection = await Connection.connect({ address, connectTimeout: probe_bound_ms })
  try {
    await Promise.all(namespaces.map((namespace) => ensureNamespace(connection, namespace)))
    return true
  } finally {
    await connection.close()
  }
}

async function ensureNamespace(connection: Connection, namespace: string): Promise<void> {
  try {
    await connection.workflowService.describeNamespace({ namespace })
  } catch (error) {
    if (!isGrpcServiceError(error) || error.code !== grpc_not_found) throw error
    await connection.workflowService.registerNamespace({
      namespace,
      workflowExecutionRetentionPeriod: msToTs(retention_ms),
    })
  }
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace })
  const missing = search_attributes.filter((name) => !customAttributes?.[name])
  if (missing.length === 0) return
  await connection.operatorService.addSearchAttributes({
    namespace,
    searchAttributes: Object.fromEntries(missing.map((name) => [name, keyword])),
  })
}

const grpc_not_found = 5
/** INDEXED_VALUE_TYPE_KEYWORD */
const keyword = 2

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
