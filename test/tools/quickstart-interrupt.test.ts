/** Ctrl-C on the quickstart: whatever it was doing, nothing of it is left. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { waitFor } from '../support/wait-for.ts'

const ROOT = join(import.meta.dirname, '../..')

const PHASES: readonly (readonly [string, (data: string, said: string) => boolean])[] = [
  ['when the data folder is there', (data) => existsSync(join(data, 'run'))],
  ['when the first engine process is there', (data) => existsSync(join(data, 'run', 'temporal.json'))],
  ['when the engine is up and workers start', (_, said) => said.includes('workers')],
  ['when the job runs', (_, said) => said.includes('order launching')],
]

test.each(PHASES)('%s', async (_, reached) => {
  const data = await mkdtemp(join(process.env.HOLDFAST_TEST_FOLDER ?? tmpdir(), 'interrupted-'))
  await chmod(data, 0o755)
  const child = spawn(process.execPath, [join(ROOT, 'tools/launch.mjs'), 'quickstart', '--data', data], {
    cwd: ROOT,
    detached: true, // a group of its own, as a terminal makes one
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const exited = once(child, 'exit')
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
  }
  try {
    await waitFor(() => reached(data, said), { what: 'the phase', timeout_ms: 60_000 })
    process.kill(-child.pid!, 'SIGINT')
    await exited
    expect(running(data)).toBe('')
  } finally {
    await rm(data, { recursive: true, force: true })
  }
})

/** Command lines of processes that name the folder. */
const running = (data: string): string =>
  execFileSync('ps', ['ax', '-o', 'args'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(data))
    .join('\n')
