/**
 * One PostgreSQL and one Temporal in memory for all test files, and the workflow bundle, built once. Each harness takes
 * a database and a namespace of its own.
 */
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { TestProject } from 'vitest/node'
import { PortBook } from '../../embedded/ports.ts'
import { startPostgres } from '../../embedded/postgres.ts'
import type { Room, Supervised } from '../../embedded/processes.ts'
import { startTemporal } from '../../embedded/temporal.ts'
import { requireNoneInLogs } from './secrets.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** The admin's database; make your own in the same server. */
    database_url: string
    temporal_address: string
    /** File with the bundled workflows. */
    workflow_bundle: string
    /** Log files of processes; searched for what was confided when all tests are over. */
    logs_folder: string
    /** Where tests note what was confided to the product, see secrets.ts. */
    secrets_file: string
  }
}

const workflows = fileURLToPath(new URL('../../workflows/index.ts', import.meta.url))

/** Starts what all tests share and returns its end. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const data = await mkdtemp(join(process.env.HOLDFAST_TEST_FOLDER ?? tmpdir(), 'shared-'))
  await chmod(data, 0o755) // PostgreSQL's own user must be able to enter it when we are root
  const given_up = new AbortController()
  const room: Room = {
    run: join(data, 'run'),
    logs: join(data, 'logs'),
    signal: given_up.signal,
    log: (line) => process.stderr.write(`${line}\n`),
  }
  await mkdir(room.run)
  await mkdir(room.logs)
  const secrets_file = join(data, 'secrets')
  const started: Supervised[] = []
  let ending: Promise<void> | undefined
  const end = () => {
    ending ??= (async () => {
      given_up.abort()
      await Promise.all(started.map((process) => process.stop()))
      try {
        await requireNoneInLogs(room.logs, secrets_file)
      } finally {
        await rm(data, { recursive: true, force: true })
      }
    })()
    return ending
  }
  // vitest skips the teardown when it is interrupted; `npm test` looks for what is left then as well.
  const interrupted = (name: NodeJS.Signals) => void end().finally(() => process.exit(name === 'SIGINT' ? 130 : 143))
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.prependListener(name, interrupted)

  const keep = async <P extends Supervised>(starting: Promise<P>): Promise<P> => {
    const process = await starting
    started.push(process)
    return process
  }
  const ports = new PortBook(join(room.run, 'ports.json'), {})
  const unexpected = (name: string) => () => process.stderr.write(`${name} had to be started again during the tests\n`)
  try {
    const [database_url, temporal, bundle] = await allOrNothing([
      process.env.TEST_DATABASE_URL ??
        keep(startPostgres(room, data, ports, unexpected('postgres'))).then(({ url }) => url),
      keep(
        startTemporal(
          room,
          data,
          ports,
          { namespace: 'holdfast', in_memory: true, headless: true },
          unexpected('temporal'),
        ),
      ),
      bundleWorkflows(data),
    ])
    project.provide('database_url', database_url)
    project.provide('temporal_address', temporal.address)
    project.provide('workflow_bundle', bundle)
    project.provide('logs_folder', room.logs)
    project.provide('secrets_file', secrets_file)
  } catch (error) {
    await end()
    throw error
  }
  return async () => {
    await end()
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.removeListener(name, interrupted)
  }
}

/** Like Promise.all, but rejects only once every start is over, so that what did start can be ended. */
async function allOrNothing<T extends readonly unknown[]>(
  starting: [...T],
): Promise<{ [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(starting)
  return Promise.all(starting)
}

async function bundleWorkflows(folder: string): Promise<string> {
  const { bundleWorkflowCode, DefaultLogger } = await import('@temporalio/worker')
  const { code } = await bundleWorkflowCode({ workflowsPath: workflows, logger: new DefaultLogger('ERROR') })
  const file = join(folder, 'workflows.cjs')
  await writeFile(file, code)
  return file
}
