/** One process of Holdfast, put together: record, API, and the side that talks to Temporal, as its role asks. */
import { serve } from '@hono/node-server'
import { sql } from 'kysely'
import type { Logger } from 'pino'
import { Registry } from 'prom-client'
import { openClouds } from '../activities/clouds.ts'
import { createApp } from '../api/app.ts'
import { openConfiguration } from '../api/pcm/configuration.ts'
import { parseAllowList } from '../domain/hook-address.ts'
import { findCloudProblems } from '../providers/registry.ts'
import { openStore, type Store } from '../store/database.ts'
import type { Envelope } from '../store/envelope.ts'
import { openHints } from '../store/hints.ts'
import { assertCompatible } from '../store/migrate.ts'
import { createConsoleLog, createLook } from './cloud-look.ts'
import type { EngineSide, EngineSideNeeds } from './engine-side.ts'
import { observe, registerMetrics } from './metrics.ts'

export interface ServiceOptions {
  readonly role: 'all' | 'api' | 'worker'
  readonly database_url: string
  readonly temporal_address: string | undefined
  readonly namespace: string
  /** Loopback when not given. */
  readonly host?: string
  readonly port: number
  readonly auth: 'token' | 'none'
  readonly hook_allow: string
  /** The configuration directory, if there is one. */
  readonly config_dir?: string | undefined
  readonly envelope: Envelope
  readonly log: Logger
  /** Waited for by the engine's side alone; the API answers meanwhile. Left out for the role `api`. */
  readonly workflow_bundle: EngineSideNeeds['workflow_bundle'] | undefined
  readonly worker_options?: EngineSideNeeds['worker_options']
  /** Figures of Temporal's own library, as text for Prometheus. */
  readonly temporal_metrics?: () => Promise<string>
}

export interface Service {
  /** Address of the API; null where the role has none. */
  readonly url: string | null
  readonly store: Store
  readonly installation_id: string
  readonly engine: EngineSide | undefined
  /** No new work; steps in hand are finished or handed back. */
  stop(): Promise<void>
}

const USER_AGENT = 'Holdfast/0.1'
const POOL_SIZE = 20
/** A leaving process answers what it was asked for so long; then callers who do not take their answers are cut off. */
const ANSWERED_MS = 3_000
/** A process that starts flows itself keeps its new orders from other relays for so long. */
const DIRECT_START_MS = 1_000

/** Starts one process; the schema must be there. Rejects with the port's name where it is taken. */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { log, envelope, role } = options
  const store = openStore(options.database_url, {
    size: POOL_SIZE,
    onError: (error) => log.warn({ err: error.message }, 'a connection to PostgreSQL was lost'),
  })
  const { installation_id } = await assertCompatible(store.db).catch(async (error) => {
    await store.close()
    throw error
  })
  const hints = openHints(store, options.database_url)
  const allow = parseAllowList(options.hook_allow)
  const configuration = options.config_dir
    ? openConfiguration({ folder: options.config_dir, store, envelope, findCloudProblems, log })
    : undefined
  const registry = new Registry()
  const leaving = new AbortController()
  const observed = observe(registry)
  const clouds = openClouds(store, envelope, observed.call)

  let engine: EngineSide | undefined
  if (role !== 'api') {
    const [{ createActivities }, { startEngineSide }] = await Promise.all([
      import('../activities/index.ts'),
      import('./engine-side.ts'),
    ])
    const activities = createActivities({
      store,
      hints,
      clouds,
      envelope,
      installation_id,
      allow,
      user_agent: USER_AGENT,
      onBug: (where, err) => log.error({ err, ...where }, 'an activity failed unexpectedly'),
      onEnd: (where, ended) => {
        log[ended.failure ? 'warn' : 'debug']({ ...where, ...ended }, 'activity ended')
        engine?.relay()?.planned(where.workflow_id)
      },
      onAttempt: observed.delivery,
    })
    engine = startEngineSide({
      store,
      hints,
      log,
      activities,
      installation_id,
      temporal_address: options.temporal_address!,
      namespace: options.namespace,
      workflow_bundle: options.workflow_bundle!,
      ...(options.worker_options ? { worker_options: options.worker_options } : {}),
    })
    if (role === 'all') store.hand_over_after_ms = DIRECT_START_MS
  }
  registerMetrics({ registry, store, role, engine })

  const health = async () => ({
    postgres: await sql`select 1`.execute(store.db).then(
      () => true,
      () => false,
    ),
    temporal: engine ? engine.healthy() : true,
    draining: leaving.signal.aborted,
  })
  const app = createApp({
    store,
    hints,
    envelope,
    look: createLook(store, clouds),
    consoleLog: createConsoleLog(clouds),
    ...(configuration ? { configuration } : {}),
    hook_allow: allow,
    auth: options.auth,
    findCloudProblems,
    health,
    leaving: leaving.signal,
    metrics: registry,
    ...(options.temporal_metrics ? { more_metrics: options.temporal_metrics } : {}),
    log,
    onAccepted: (accepted) => engine?.relay()?.offer(accepted),
  })
  await configuration?.current().catch((error: Error) => log.warn({ err: error.message }, 'clouds were not looked for'))
  let close = async (): Promise<void> => {}
  let url: string | null = null
  try {
    const server = await listen(app.fetch, options.host ?? '127.0.0.1', options.port)
    url = server.url
    close = server.close
  } catch (error) {
    await engine?.stop()
    await hints.close()
    await store.close()
    throw error
  }

  return {
    url,
    store,
    installation_id,
    engine,
    async stop() {
      leaving.abort()
      await close()
      await engine?.stop()
      await hints.close()
      await store.close()
    },
  }
}

/** Listens; says what cannot be had and what to change. */
function listen(
  fetch: (request: Request) => Response | Promise<Response>,
  host: string,
  port: number,
): Promise<{ url: string; close(): Promise<void> }> {
  return new Promise((resolve, reject) => {
    const server = serve({ fetch, port, hostname: host }, (info) => {
      resolve({
        url: `http://${reachable(host)}:${info.port}`,
        close: () =>
          new Promise((closed) => {
            const cut = setTimeout(() => 'closeAllConnections' in server && server.closeAllConnections(), ANSWERED_MS)
            server.close(() => {
              clearTimeout(cut)
              closed()
            })
            if ('closeIdleConnections' in server) server.closeIdleConnections()
          }),
      })
    })
    server.on('error', (error: NodeJS.ErrnoException) => {
      const what = {
        EADDRINUSE: `port ${port} is in use: choose another with --port or HOLDFAST_PORT`,
        EADDRNOTAVAIL: `HOLDFAST_HOST: this machine has no address ${host}`,
      }[error.code ?? '']
      reject(what ? new Error(what, { cause: error }) : error)
    })
  })
}

/** Where a process on this machine finds what listens on `host`. */
function reachable(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1'
  if (host === '::') return '[::1]'
  return host.includes(':') ? `[${host}]` : host
}
