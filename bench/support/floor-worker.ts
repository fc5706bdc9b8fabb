/**
 * The floor's process: worker and client on one connection, as our own process of role `all` has them, so that starts
 * are eager. Told what to do over the channel to its parent; arguments: Temporal's address, namespace.
 */
import { fileURLToPath } from 'node:url'
import { Client } from '@temporalio/client'
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker } from '@temporalio/worker'
import { WORKER_SETTINGS } from '../../worker/engine-side.ts'
import { openLog } from '../../worker/process.ts'
import { installRuntime } from '../../worker/runtime.ts'
import type { FloorAnswer, FloorJob, Shape } from './floor.ts'
import { inParallel } from './measure.ts'

const TASK_QUEUE = 'bench-floor'
const WORKFLOWS: Record<Shape, string> = {
  noop: 'noop',
  regular_activity: 'oneActivity',
  local_activity: 'oneLocalActivity',
  timer: 'timer',
  delayed_start: 'noop',
}

const [address, namespace] = process.argv.slice(2) as [string, string]
installRuntime(openLog('error'))
const workflowBundle = await bundleWorkflowCode({
  workflowsPath: fileURLToPath(new URL('./floor-workflows.ts', import.meta.url)),
  logger: new DefaultLogger('ERROR'),
})
const connection = await NativeConnection.connect({ address, grpcCompression: { codec: 'none' } })
const worker = await Worker.create({
  connection,
  namespace,
  taskQueue: TASK_QUEUE,
  workflowBundle,
  activities: { nothing: async () => {} },
  ...WORKER_SETTINGS,
})
const client = new Client({ connection, namespace })
void worker.run()

process.on('message', (job: FloorJob) => {
  perform(job).then(
    (answer) => process.send!(answer),
    (error: unknown) => process.send!({ serial: job.serial, error: String(error) }),
  )
})
process.once('disconnect', () => process.exit(0))
process.send!({ ready: true })

async function perform({ serial, shape, count, width, due_ms, delay_ms, wait }: FloorJob): Promise<FloorAnswer> {
  const begun_at = performance.now()
  await inParallel(count, width, async (index) => {
    const handle = await client.workflow.start(WORKFLOWS[shape], {
      taskQueue: TASK_QUEUE,
      workflowId: `floor/${serial}/${index}`,
      args: shape === 'timer' ? [due_ms ?? 0] : [],
      ...(shape === 'delayed_start' ? { startDelay: delay_ms ?? 86_400_000 } : { requestEagerStart: true }),
    })
    if (wait) await handle.result()
  })
  return { serial, took_ms: performance.now() - begun_at }
}
