/** The service as a process of its own, on the record and engine of a harness; see service-process.ts. */
import { channel } from 'node:diagnostics_channel'
import { DefaultLogger, Runtime } from '@temporalio/worker'
import { pino } from 'pino'
import { createEnvelope } from '../../store/envelope.ts'
import { startService } from '../../worker/service.ts'
import type { ChildConfiguration } from './service-process.ts'

const configuration = JSON.parse(process.env.SERVICE_CHILD!) as ChildConfiguration
const tell = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`)

// Calls of undici, which providers and hooks go by, tell of their answers.
channel('undici:request:headers').subscribe((message) => {
  const { request } = message as { request: { method: string; path: string } }
  tell({ answered: `${request.method} ${request.path}` })
})

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
  log: pino({ level: process.env.HOLDFAST_TEST_LOG ?? 'silent' }, pino.destination(2)),
  workflow_bundle: { codePath: configuration.workflow_bundle },
})
await service.engine!.ready
tell({ url: service.url })
// Whoever started it may be killed itself: without them it has no business.
process.stdin.on('end', () => process.exit(1)).resume()
process.on('SIGTERM', () => void service.stop().then(() => process.exit(0)))
