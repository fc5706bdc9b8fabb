/** Lives of the service, one after the other: each a process that dies at a point it is told, see kill-child.ts. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { inject } from 'vitest'
import { spawnLogged } from '../support/service-process.ts'
import { waitFor } from '../support/wait-for.ts'
import type { ChildConfiguration } from './kill-child.ts'

const CHILD = join(import.meta.dirname, 'kill-child.ts')
const LIFE_MS_MAX = 300_000

export interface Life {
  readonly process: ChildProcess
  readonly ended: Promise<unknown>
}

export interface Lives {
  /** Starts one; resolves when it is ready, or dead already. */
  begin(configuration: Omit<ChildConfiguration, 'points_file' | 'workflow_bundle' | 'temporal_address'>): Promise<Life>
  /** The points that the last one passed. */
  points(): Promise<string[]>
  close(): Promise<void>
}

/** Waits until it is so, as long as the life that is asked goes on. */
export async function untilTrue(ask: () => Promise<boolean>): Promise<void> {
  await waitFor(ask, { what: 'what a life was to do', timeout_ms: LIFE_MS_MAX, interval_ms: 50, errors_end: true })
}

export async function openLives(): Promise<Lives> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-points-'))
  const begun: Life[] = []
  let file = ''
  return {
    async begin(configuration) {
      file = join(folder, `points-${begun.length}`)
      const full: ChildConfiguration = {
        ...configuration,
        points_file: file,
        temporal_address: inject('temporal_address'),
        workflow_bundle: inject('workflow_bundle'),
      }
      const child = spawnLogged(CHILD, { KILL_CHILD: JSON.stringify(full) })
      const life = { process: child, ended: once(child, 'exit') }
      begun.push(life)
      await Promise.race([once(createInterface(child.stdout!), 'line'), life.ended])
      return life
    },
    points: async () => (await readFile(file, 'utf8').catch(() => '')).split('\n').filter(Boolean),
    async close() {
      for (const { process } of begun) process.kill('SIGKILL')
      await rm(folder, { recursive: true, force: true })
    },
  }
}
