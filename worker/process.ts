/** From a configuration to a running process: engine room, schema, keys, first operator, service. */
import { access, constants, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { sql } from 'kysely'
import { type Logger, pino } from 'pino'
import type { Engine } from '../embedded/engine.ts'
import { openStore, type Store } from '../store/database.ts'
import { createEnvelope, loadMasterKeys } from '../store/envelope.ts'
import { shiftClock } from '../store/housekeeping.ts'
import { markRestored, readInstallation } from '../store/installation.ts'
import { migrate } from '../store/migrate.ts'
import { createToken } from '../store/projects.ts'
import type { Config } from './config.ts'
import { type Service, startService } from './service.ts'
import { startTracing } from './tracing.ts'

export interface Running {
  readonly service: Service
  readonly engine: Engine | undefined
  readonly database_url: string
  readonly temporal_ui: string | null
  readonly operator_token_file: string | null
  readonly log: Logger
  stop(): Promise<void>
}

/** One line on stderr, exit 1. */
export function failStart(message: string): never {
  process.stderr.write(`holdfast: ${message}\n`)
  process.exit(1)
}

/** What the process writes about itself; secrets have no place in it, these paths are a net below that. */
export function openLog(level: string): Logger {
  return pino(
    {
      level,
      base: { pid: process.pid },
      // No more of an error than this: a driver's own fields may hold values.
      serializers: {
        err: (err: unknown) =>
          err instanceof Error ? { name: err.name, message: err.message, stack: err.stack } : err,
      },
      redact: ['*.token', '*.secret', '*.password', '*.authorization', 'authorization'],
    },
    pino.destination({ dest: 2, sync: false }),
  )
}

/** Starts everything a configuration asks for; rejects with one sentence, and with nothing left running. */
export async function openProcess(
  config: Config,
  signal: AbortSignal,
  simulated = false,
  tell?: (line: string) => void,
): Promise<Running> {
  const log = openLog(config.log_level)
  await requireFolder(config.data)
  const library = config.role === 'api' ? undefined : await loadLibrary(config, log)
  const stopTracing = await startTracing(process.env, config.role)
  const engine =
    config.role === 'all'
      ? await (await import('../embedded/engine.ts')).startEngine({
          data: config.data,
          log: tell ?? ((line) => log.info(line)),
          namespace: config.temporal_namespace,
          engine: config.engine,
          simulated,
          signal,
          ...(config.database_url ? { databaseUrl: config.database_url } : {}),
          ...(config.temporal_address ? { temporalAddress: config.temporal_address } : {}),
        })
      : undefined
  try {
    const database_url = config.database_url ?? engine!.database_url
    const operator_token_file = await prepareRecord(config, database_url, log)
    const envelope = createEnvelope(await loadMasterKeys(config.data))
    const service = await startService({
      role: config.role,
      database_url,
      temporal_address: config.temporal_address ?? engine?.temporal_address,
      namespace: config.temporal_namespace,
      host: config.host,
      port: config.port,
      auth: config.auth,
      hook_allow: config.hook_allow,
      config_dir: config.config_dir,
      envelope,
      log,
      workflow_bundle: library?.workflow_bundle,
      ...(library ? { temporal_metrics: library.metrics } : {}),
    })
    return {
      service,
      engine,
      database_url,
      temporal_ui: engine?.temporal_ui ?? null,
      operator_token_file,
      log,
      async stop() {
        await service.stop()
        await Promise.all([engine?.stop(), stopTracing?.()])
      },
    }
  } catch (error) {
    await engine?.stop()
    throw error
  }
}

/** Temporal's library, its figures and the workflows in one bundle. A process of role `api` starts sooner without. */
async function loadLibrary(config: Config, log: Logger) {
  const [{ freePort, installRuntime }, { buildBundle }] = await Promise.all([
    import('./runtime.ts'),
    import('./bundle.ts'),
  ])
  const metrics = installRuntime(log, await freePort())
  const workflow_bundle = buildBundle(join(config.data, 'run'))
  workflow_bundle.catch(() => {}) // told by whoever waits for it
  return { metrics, workflow_bundle }
}

/** The data folder is there and may be written to; rejects with one sentence otherwise. */
async function requireFolder(data: string): Promise<void> {
  const run = join(data, 'run')
  try {
    await mkdir(run, { recursive: true })
    await access(run, constants.W_OK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new Error(`data folder ${data} cannot be written to (${code}): name another with --data or HOLDFAST_DATA`)
  }
}

/** Schema, clock and first operator. Returns where the operator's token stands, if it was made here. */
async function prepareRecord(config: Config, database_url: string, log: Logger): Promise<string | null> {
  const store = openStore(database_url, {
    size: 2,
    onError: (error) => log.warn({ err: error.message }, 'a connection to PostgreSQL was lost'),
  })
  try {
    const fresh = await isFresh(store).catch((error: Error) => {
      throw new Error(`PostgreSQL cannot be used, see DATABASE_URL: ${error.message || String(error)}`)
    })
    if (fresh && config.restored)
      throw new Error('--restored: this database is empty; put the backup back first, then start with it')
    await migrate(store.db)
    if (config.restored)
      log.warn(await markRestored(store), 'the record was restored; its open nouns are looked at again')
    const { automatic_removal } = await readInstallation(store.db)
    if (!automatic_removal)
      log.warn('automatic removal is off: no rule deletes a machine until PATCH /api/installation turns it on')
    if (fresh && config.clock_start) await shiftClock(store, config.clock_start.getTime() - Date.now())
    return await firstOperator(config, store)
  } finally {
    await store.close()
  }
}

async function isFresh(store: Store): Promise<boolean> {
  const { rows } = await sql<{ fresh: boolean }>`select to_regclass('installation') is null as fresh`.execute(store.db)
  return rows[0]!.fresh
}

/** The first operator's token: as configured, else made once and kept in the data folder with mode 0600. */
async function firstOperator(config: Config, store: Store): Promise<string | null> {
  const operator = { project: 'default', user: 'operator', role: 'operator' as const }
  if (config.operator_token) {
    await createToken(store, { ...operator, text: config.operator_token })
    return null
  }
  const path = join(config.data, 'operator-token')
  const kept = (await readFile(path, 'utf8').catch(() => '')).trim()
  const text = await createToken(store, { ...operator, ...(kept ? { text: kept } : {}) })
  if (!kept) await writeFile(path, `${text}\n`, { mode: 0o600 })
  return path
}
