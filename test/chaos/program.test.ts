/** The program as CI runs it: ten kills, everything at rest, every counter zero, and something really was under way. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { dataFolder, dropFolder, processesOf } from '../kill/server.ts'
import { waitFor } from '../support/wait-for.ts'

const PROGRAM = join(import.meta.dirname, '../../chaos/main.ts')
/** Half a minute of load and kills, then rest; a machine that others use as well takes many times that. */
const RUN_TIMEOUT_MS = 900_000

let folder: string
const started: ReturnType<typeof start>[] = []
beforeEach(async () => {
  folder = await dataFolder()
})
afterEach(async () => {
  // Killed in the middle of its time-out, it would start again what is ended here.
  for (const { child, ended } of started.splice(0)) {
    child.kill('SIGKILL')
    await ended
  }
  await dropFolder(folder)
})

/** Starts the program; all it keeps is in the folder. */
function start(...flags: string[]): {
  child: ChildProcess
  said: Record<'stdout' | 'stderr', string>
  ended: Promise<number | null>
} {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', PROGRAM, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: folder },
  })
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => {
      said[name] += text
    })
  const ended = once(child, 'close').then(([code]) => code as number | null)
  started.push({ child, said, ended })
  return { child, said, ended }
}

describe('npm run chaos', { timeout: RUN_TIMEOUT_MS }, () => {
  test('ten kills: nothing lost, doubled, leaked, early, out of order or stuck', async () => {
    const { said, ended } = start('--kills', '10', '--seed', '7', '--json')
    const code = await ended
    const summary = JSON.parse(said.stdout.trimEnd().split('\n').at(-1)!) as Record<string, number>
    const zero = { lost: 0, twins: 0, leaked: 0, early: 0, gaps: 0, inversions: 0, phantoms: 0, stuck: 0, receipts: 0 }
    expect({ code, ...summary }, said.stderr).toMatchObject({ code: 0, ok: true, kills: 10, seed: 7, ...zero })
    expect(summary.late_ms).toEqual({ p50: expect.any(Number), p99: expect.any(Number), max: expect.any(Number) })
    expect(summary.recovery_ms).toMatchObject({ p50: expect.any(Number), max: expect.any(Number) })
    for (const kind of ['orders', 'leases', 'machines', 'deliveries']) expect(summary[kind], kind).toBeGreaterThan(10)
  })

  test('interrupted, it leaves no process and no folder', async () => {
    const { child, said, ended } = start('--kills', '1000', '--json')
    await waitFor(() => / kill -9 /.test(said.stderr), { what: 'the first kill', timeout_ms: 120_000 })
    expect(await readdir(folder)).toHaveLength(1)
    child.kill('SIGINT')
    expect(await ended).toBe(130)
    expect(await processesOf(folder)).toEqual([])
    expect(await readdir(folder)).toEqual([])
    expect(said.stdout).toBe('')
  })

  test('a wrong flag is one line', async () => {
    const { said, ended } = start('--processes', 'api,moon')
    expect(await ended).toBe(1)
    expect(said.stderr).toMatch(/^error: .*some of api,worker,temporal,postgres/)
    expect(said.stdout).toBe('')
  })
})
