/** Where an embedded Temporal keeps its state, as flags and environment of its server. */
import { execFile } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { promisify } from 'node:util'

export interface TemporalStore {
  /** Also tell one store from another: a server that has other ones works on something else. */
  readonly flags: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  readonly on_postgres: boolean
  /** Rejects where a program cannot work on this store. */
  check(program: string): Promise<void>
}

/** Everything is gone with the process. */
export const memory_store: TemporalStore = { flags: [], on_postgres: false, check: async () => {} }

/** One SQLite file, made when there is none. */
export function fileStore(file: string): TemporalStore {
  mkdirSync(dirname(file), { recursive: true })
  const pragmas = ['journal_mode=WAL', 'synchronous=NORMAL'].flatMap((pragma) => ['--sqlite-pragma', pragma])
  return { flags: ['--db-filename', file, ...pragmas], on_postgres: false, check: async () => {} }
}

/** Two databases beside the one of `url`, called so with `_temporal` and `_temporal_visibility`; made when missing. */
export function postgresStore(url: string): TemporalStore {
  const { hostname, port, username, password, pathname, searchParams } = new URL(url)
  const ssl = searchParams.get('sslmode') ?? 'disable'
  if (ssl !== 'disable') {
    throw new Error(
      `temporal: its server cannot be put on PostgreSQL with sslmode=${ssl}: run one yourself and set TEMPORAL_ADDRESS`,
    )
  }
  return {
    flags: [
      ...['--postgres', `${decodeURIComponent(username)}@${hostname}:${port || '5432'}`],
      ...['--database', `${decodeURIComponent(pathname.slice(1))}_temporal`],
      ...['--connections', String(connections)],
    ],
    // Everyone on the machine can read a command line.
    env: { ...process.env, PGPASSWORD: decodeURIComponent(password) },
    on_postgres: true,
    async check(program) {
      const { stdout, stderr } = await execute(program, ['server', 'start-dev', '-h'], { timeout: check_bound_ms })
      if (!`${stdout}${stderr}`.includes('PGPASSWORD'))
        throw new Error('cannot work on PostgreSQL, only our own build can')
    },
  }
}

const execute = promisify(execFile)
const check_bound_ms = 10_000
/** Per database and service; the embedded PostgreSQL allows 200 to all. */
const connections = 10
