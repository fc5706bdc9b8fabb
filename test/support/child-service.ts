/** The service inside a child process of a test, on the record and engine of a harness; ends with whoever started it. */
import { DefaultLogger, Runtime } from '@temporalio/worker'
import { createEnvelope } from '../../store/envelope.ts'
import { openLog } from '../../worker/process.ts'
import { type Service, startService } from '../../worker/service.ts'

export interface ChildService {
  readonly database_url: string
  readonly temporal_address: string
  readonly namespace: string
  readonly workflow_bundle: string
  readonly master_key: string
  readonly port: number
  readonly config_dir?: string
}

/** Starts it, and resolves when its worker polls. */
export async function startChildService(configuration: ChildService): Promise<Service> {
  Runtime.install({
    shutdownSignals: [],
    logger: new DefaultLogger('ERROR'),
    telemetryOptions: { logging: { forward: {}, filter: 'ERROR' } },
  })
  const service = await startService({
    role: 'all',
    database_url: configuration.database_url,
    temporal_address: configuration.temporal_address,
    namespace: configuration.namespace,
    port: configuration.port,
    auth: 'token',
    hook_allow: '127.0.0.0/8',
    envelope: createEnvelope({ current: { id: 'test', key: Buffer.from(configuration.master_key, 'base64') } }),
    log: openLog('info'),
    workflow_bundle: { codePath: configuration.workflow_bundle },
    config_dir: configuration.config_dir,
  })
  await service.engine!.ready
  // Whoever started it may be killed itself: without them it has no business.
  process.stdin.on('end', () => process.exit(1)).resume()
  process.on('SIGTERM', () => void service.stop().then(() => process.exit(0)))
  return service
}
