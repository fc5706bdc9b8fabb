/** Services beside each other: processes of their own, on the record, engine and clouds of one harness. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { createInterface } from 'node:readline'
import { inject } from 'vitest'
import { openApiClient } from './api-client.ts'
import type { ChildService } from './child-service.ts'
import type { Harness, Project } from './harness.ts'

const CHILD = join(import.meta.dirname, 'service-child.ts')
const LAST_WORDS_MAX = 4_000

export interface ServiceProcess {
  readonly url: string
  readonly pid: number
  /** Calls to clouds and receivers whose answer it has read, as `GET /clouds/east/…`. */
  readonly answered: readonly string[]
  /** A project's client that asks this process. */
  ask(project: Project): Project
  signal(name: NodeJS.Signals): void
  /** Ends it with a signal and waits until it is gone. */
  end(name: 'SIGTERM' | 'SIGKILL'): Promise<void>
}

/** Starts a process of a test whose log is a file, searched for secrets when all is over; its last words are shown. */
export function spawnLogged(file: string, env: Readonly<Record<string, string>>): ChildProcess {
  const log_file = join(inject('logs_folder'), `${basename(file, '.ts')}-${randomUUID()}.log`)
  const log = openSync(log_file, 'a')
  const child = spawn(process.execPath, [file], { stdio: ['pipe', 'pipe', log], env: { ...process.env, ...env } })
  closeSync(log)
  child.on('exit', (code) => {
    if (code) process.stderr.write(readFileSync(log_file, 'utf8').slice(-LAST_WORDS_MAX))
  })
  return child
}

/** Starts a service beside whatever else works there; resolves when it is ready. */
export async function startServiceProcess(
  h: Harness,
  { port = 0, workflow_bundle = inject('workflow_bundle') }: { port?: number; workflow_bundle?: string } = {},
): Promise<ServiceProcess> {
  const configuration: ChildService = {
    database_url: h.database_url,
    temporal_address: inject('temporal_address'),
    namespace: h.namespace,
    workflow_bundle,
    master_key: h.master_key.toString('base64'),
    port,
  }
  const child = spawnLogged(CHILD, { SERVICE_CHILD: JSON.stringify(configuration) })
  const ended = once(child, 'exit')
  const answered: string[] = []
  const ready = new Promise<string>((resolve) => {
    createInterface(child.stdout!).on('line', (line) => {
      const told = JSON.parse(line) as { url?: string; answered?: string }
      if (told.answered) answered.push(told.answered)
      if (told.url) resolve(told.url)
    })
  })
  const early = ended.then(() => Promise.reject(new Error('the service ended before it was ready')))
  const url = await Promise.race([ready, early])
  early.catch(() => {})
  return {
    url,
    pid: child.pid!,
    answered,
    ask: (project) => ({ ...project, api: openApiClient(url, project.token) }),
    signal: (name) => void child.kill(name),
    async end(name) {
      child.kill('SIGCONT') // a stopped one hears nothing else
      child.kill(name)
      await ended
    },
  }
}
