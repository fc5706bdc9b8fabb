/**
 * The whole service for a test file: own database, own Temporal namespace, own simulated clouds, real HTTP. Everything
 * a test makes is a cloud, project or hook of its own, so that tests of one file can run side by side.
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, Connection } from '@temporalio/client'
import { sql } from 'kysely'
import { type Logger, pino } from 'pino'
import { inject } from 'vitest'
import { startSimulatedCloud } from '../../providers/simulated/server.ts'
import { createEnvelope, type Envelope } from '../../store/envelope.ts'
import { createToken } from '../../store/projects.ts'
import type { EngineSideNeeds } from '../../worker/engine-side.ts'
import { installRuntime } from '../../worker/runtime.ts'
import { type Service, startService } from '../../worker/service.ts'
import { CloudControl } from '../providers/simulated-control.ts'
import { type ApiClient, openApiClient } from './api-client.ts'
import { type FreshStore, freshStore } from './database.ts'
import { requireNone, requireNoneInHistories } from './secrets.ts'

export interface HarnessOptions {
  /** A directory with clouds, sizes and images by file. */
  readonly config_dir?: string
  readonly worker_options?: EngineSideNeeds['worker_options']
  /** A Temporal of one's own instead of the shared one. */
  readonly temporal_address?: string
  /** One that exists, with our search attributes; left out: a fresh one. */
  readonly namespace?: string
  /** Where the service writes what it does, if a test reads it itself. */
  readonly log?: Logger
  /** Figures of Temporal's library, where the test installed it with some. */
  readonly temporal_metrics?: () => Promise<string>
}

/** What a test holds of a project: a client of each role. */
export interface Project {
  readonly name: string
  readonly id: string
  readonly api: ApiClient
  readonly token: string
}

export interface Harness extends FreshStore {
  readonly service: Service
  readonly operator: ApiClient
  readonly namespace: string
  readonly temporal: Client
  readonly simulated_url: string
  readonly envelope: Envelope
  readonly master_key: Buffer
  project(): Promise<Project>
  /** A cloud of its own, granted to a project; sizes `small`, images `debian`. */
  cloud(project: Project, options?: CloudOptions): Promise<{ name: string; control: CloudControl }>
  stopService(): Promise<void>
  /** Starts it again; the port, where something else has to find it at the same place. */
  startService(port?: number): Promise<void>
}

export interface CloudOptions {
  readonly name?: string
  readonly configuration?: Parameters<CloudControl['configure']>[0]
  readonly settings?: Record<string, unknown>
}

/** What services of this file wrote, Temporal's library included; HOLDFAST_TEST_LOG names a level to see it as well. */
const logged: string[] = []
const service_log = pino(
  { level: process.env.HOLDFAST_TEST_LOG ?? 'info' },
  {
    write(line: string) {
      logged.push(line)
      if (process.env.HOLDFAST_TEST_LOG) process.stderr.write(line)
    },
  },
)
let is_library_installed = false

let serial = 0
/** A name no other test uses. */
export const unique = (prefix: string): string => `${prefix}-${process.pid}-${++serial}`

/** Registers a namespace of its own with our search attributes. */
export async function freshNamespace(address = inject('temporal_address')): Promise<string> {
  const connection = await Connection.connect({ address })
  const namespace = `test-${randomBytes(6).toString('hex')}`
  const KEYWORD = 2
  await connection.workflowService.registerNamespace({
    namespace,
    workflowExecutionRetentionPeriod: { seconds: 86_400 as unknown as Long },
  })
  await connection.operatorService.addSearchAttributes({
    namespace,
    searchAttributes: { HoldfastProject: KEYWORD, HoldfastState: KEYWORD },
  })
  await connection.close()
  return namespace
}
type Long = NonNullable<
  NonNullable<
    Parameters<Connection['workflowService']['registerNamespace']>[0]['workflowExecutionRetentionPeriod']
  >['seconds']
>

/** Starts the whole service; `close()` ends all of it. */
export async function startHarness(options: HarnessOptions = {}): Promise<Harness> {
  const fresh = await freshStore()
  await sql`update installation set id = gen_random_uuid()`.execute(fresh.store.db)
  const temporal_address = options.temporal_address ?? inject('temporal_address')
  const namespace = options.namespace ?? (await freshNamespace(temporal_address))
  const data = await mkdtemp(join(tmpdir(), 'holdfast-test-'))
  const simulated = await startSimulatedCloud({ port: 0, data })
  const master_key = randomBytes(32)
  const envelope = createEnvelope({ current: { id: 'test', key: master_key } })
  const log = options.log ?? service_log
  if (!options.temporal_metrics && !is_library_installed) {
    installRuntime(service_log)
    is_library_installed = true
  }
  const start = (port = 0) =>
    startService({
      role: 'all',
      database_url: fresh.database_url,
      temporal_address,
      namespace,
      port,
      auth: 'token',
      hook_allow: '127.0.0.0/8',
      envelope,
      log,
      workflow_bundle: { codePath: inject('workflow_bundle') },
      ...(options.config_dir ? { config_dir: options.config_dir } : {}),
      ...(options.worker_options ? { worker_options: options.worker_options } : {}),
      ...(options.temporal_metrics ? { temporal_metrics: options.temporal_metrics } : {}),
    })
  let service = await start()
  await service.engine!.ready
  const connection = await Connection.connect({ address: temporal_address })
  const { Client } = await import('@temporalio/client')
  const temporal = new Client({ connection, namespace })
  const operator_token = await createToken(fresh.store, { project: 'default', user: 'operator', role: 'operator' })
  const url = () => service.url!

  const harness: Harness = {
    ...fresh,
    namespace,
    temporal,
    envelope,
    master_key,
    simulated_url: simulated.url,
    get service() {
      return service
    },
    operator: openApiClient(url, operator_token),
    async project() {
      const name = unique('project')
      const token = await createToken(fresh.store, { project: name, user: 'member', role: 'member' })
      const row = await fresh.store.db
        .selectFrom('projects')
        .select('id')
        .where('name', '=', name)
        .executeTakeFirstOrThrow()
      return { name, id: row.id, token, api: openApiClient(url, token) }
    },
    async cloud(project, cloud = {}) {
      const name = cloud.name ?? unique('cloud')
      const control = new CloudControl(simulated.url, name)
      await control.configure({ boot_latency_ms: 100, delete_latency_ms: 50, ...cloud.configuration })
      const aws = cloud.configuration?.presents_as === 'aws'
      await harness.operator.post('/api/clouds', {
        name,
        provider: 'simulated',
        endpoint: `${simulated.url}/clouds/${name}`,
        sizes: { small: aws ? 't3.small' : 'm1.small' },
        images: { debian: 'debian-13' },
        settings: {
          settle_ms: 1_500,
          call_timeout_ms: 1_000,
          ...(aws ? { idempotency_tokens: true } : {}),
          ...cloud.settings,
        },
      })
      await harness.operator.put(`/api/clouds/${name}/grants/${project.name}`, undefined)
      return { name, control }
    },
    stopService: () => service.stop(),
    async startService(port) {
      service = await start(port)
      await service.engine!.ready
    },
    async close() {
      await service.stop()
      try {
        requireNone('the log', logged.join(''))
        await requireNoneInHistories(temporal)
      } finally {
        await connection.close()
        await simulated.close()
        await fresh.close()
        await rm(data, { recursive: true, force: true })
      }
    },
  }
  return harness
}
