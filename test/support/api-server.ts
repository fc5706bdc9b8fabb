/** The API alone, listening on a port of its own over a fresh record: no engine, no flows. */
import { randomBytes } from 'node:crypto'
import { serve } from '@hono/node-server'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { createApp } from '../../api/app.ts'
import type { Health } from '../../api/context.ts'
import { openConfiguration } from '../../api/pcm/configuration.ts'
import { parseAllowList } from '../../domain/hook-address.ts'
import type { Role } from '../../domain/record.ts'
import { findCloudProblems } from '../../providers/registry.ts'
import { createEnvelope, type Envelope, type MasterKey } from '../../store/envelope.ts'
import type { AcceptedOrder } from '../../store/orders.ts'
import { createToken } from '../../store/projects.ts'
import { type ApiClient, openApiClient } from './api-client.ts'
import { type FreshStore, freshStore } from './database.ts'

export interface ApiServer extends FreshStore {
  readonly url: string
  readonly envelope: Envelope
  readonly master_key: MasterKey
  /** Operator of project `default`. */
  readonly operator: ApiClient
  readonly operator_token: string
  /** May be changed by a test. */
  readonly health: { -readonly [Part in keyof Health]: Health[Part] }
  readonly accepted: AcceptedOrder[]
  /** Warnings and errors the API logged. */
  readonly logged: string[]
  token(project: string, role: Role, more?: { grants?: string[]; expires_at?: Date }): Promise<string>
  /** A client of a fresh project, with no cloud unless the test grants one. */
  client(project: string, role?: Role): Promise<ApiClient>
  /** A cloud with size `small` and image `debian`, granted to the projects. */
  cloud(name: string, projects: readonly string[], more?: Readonly<Record<string, unknown>>): Promise<void>
  /** Makes the process leave, as far as requests can tell. */
  leave(): void
  /** Gives events written until now their positions, as the service does all the time. */
  stamp(): Promise<void>
}

/** Starts the API; `close()` ends it and drops its record. */
export async function startApi(options: { auth?: 'token' | 'none'; config_dir?: string } = {}): Promise<ApiServer> {
  const fresh = await freshStore()
  const { stampEvents } = await import('../../store/events.ts')
  const master_key = { id: 'test', key: randomBytes(32) }
  const envelope = createEnvelope({ current: master_key })
  const health = { postgres: true, temporal: true, draining: false }
  const accepted: AcceptedOrder[] = []
  const logged: string[] = []
  const leaving = new AbortController()
  const log = pino({ level: 'warn' }, { write: (line: string) => void logged.push(line) })
  const of_clouds = { store: fresh.store, envelope, findCloudProblems, log }
  const app = createApp({
    store: fresh.store,
    hints: fresh.hints,
    envelope,
    ...(options.config_dir ? { configuration: openConfiguration({ folder: options.config_dir, ...of_clouds }) } : {}),
    hook_allow: parseAllowList('127.0.0.0/8'),
    auth: options.auth ?? 'token',
    findCloudProblems,
    health: async () => health,
    leaving: leaving.signal,
    metrics: new Registry(),
    log,
    onAccepted: (order) => void accepted.push(order),
  })
  const { url, stop } = await listen(app.fetch)
  const token: ApiServer['token'] = (project, role, more = {}) =>
    createToken(fresh.store, { project, role, user: `${role}-${project}`, ...more })
  const operator_token = await token('default', 'operator')
  const operator = openApiClient(url, operator_token)
  return {
    ...fresh,
    url,
    envelope,
    master_key,
    operator,
    operator_token,
    health,
    accepted,
    logged,
    token,
    client: async (project, role = 'member') => openApiClient(url, await token(project, role)),
    async cloud(name, projects, more = {}) {
      await operator.post('/api/clouds', {
        name,
        provider: 'simulated',
        endpoint: 'http://127.0.0.1:1/clouds/test',
        sizes: { small: 'm1.small' },
        images: { debian: 'debian-13' },
        ...more,
      })
      for (const project of projects) await operator.put(`/api/clouds/${name}/grants/${project}`)
    },
    leave: () => leaving.abort(),
    async stamp() {
      let stamped = false
      while (await stampEvents(fresh.store)) stamped = true
      if (stamped) fresh.hints.give(['stamped'])
    },
    async close() {
      await stop()
      await fresh.close()
    },
  }
}

function listen(
  fetch: (request: Request) => Response | Promise<Response>,
): Promise<{ url: string; stop: () => Promise<void> }> {
  return new Promise((resolve) => {
    const server = serve({ fetch, port: 0, hostname: '127.0.0.1' }, (info) =>
      resolve({
        url: `http://127.0.0.1:${info.port}`,
        stop: () =>
          new Promise((stopped) => {
            server.close(() => stopped())
            if ('closeAllConnections' in server) server.closeAllConnections()
          }),
      }),
    )
  })
}
