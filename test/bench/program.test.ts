/** The bench program as one runs it: a short run, whose ledgers balance. How fast it was is nobody's business here. */
import { execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { TARGETS } from '../../bench/targets.ts'
import { waitFor } from '../support/wait-for.ts'

const MAIN = join(import.meta.dirname, '../../bench/main.ts')
const BENCHES = ['engine', 'orders', 'hooks']
const RUN_TIMEOUT_MS = 300_000

const run = (...args: string[]) =>
  promisify(execFile)(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, ...args], {
    timeout: RUN_TIMEOUT_MS,
  })

interface Result {
  readonly bench: string
  readonly figures: Record<string, unknown>
  readonly floor: Record<string, unknown>
  readonly ratio: Record<string, unknown>
  readonly machine: { readonly cpus: number; readonly model: string; readonly node: string; readonly engine: string }
  readonly void?: string
}

/** `figures.calm.order_running_ms.p50` of a result. */
const at = (result: Result, path: string): unknown =>
  path.split('.').reduce<unknown>((value, name) => (value as Record<string, unknown> | undefined)?.[name], result)

test('prints a line for each bench with everything its targets name, and none is void', {
  timeout: RUN_TIMEOUT_MS,
}, async () => {
  const { stdout } = await run('--only', BENCHES.join(','), '--seconds', '2', '--json')
  const results = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Result)
  expect(results.map((result) => result.bench)).toEqual(BENCHES)
  for (const result of results) {
    expect(result.void, result.bench).toBeUndefined()
    expect(result.machine).toMatchObject({
      cpus: expect.any(Number),
      node: process.version,
      engine: expect.any(String),
    })
    for (const { path } of TARGETS.filter((target) => target.bench === result.bench))
      expect(at(result, path), `${result.bench}: ${path}`).toEqual(expect.any(Number))
  }
  const [engine, orders, hooks] = results as [Result, Result, Result]
  const shapes = ['noop', 'regular_activity', 'local_activity', 'timer', 'delayed_start', 'inserts']
  for (const shape of shapes) expect(at(engine, `figures.${shape}.per_second`), shape).toBeGreaterThan(0)
  expect(at(orders, 'floor.regular_activity_per_second')).toBeGreaterThan(0)
  expect(at(orders, 'ratio.settled')).toBeGreaterThan(0)
  for (const rate of ['at_50', 'at_300']) {
    expect(at(hooks, `figures.${rate}.first_byte_ms.p50`), rate).toBeGreaterThan(0)
    expect(at(hooks, `figures.${rate}.lost`), rate).toBe(0)
  }
})

test('names the benches there are where it is asked for another', async () => {
  await expect(run('--only', 'miracles')).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringContaining('there are: engine, accept, orders'),
  })
})

test('leaves nothing where it is interrupted while it sets up', async () => {
  const folder = await mkdtemp(join(process.env.HOLDFAST_TEST_FOLDER ?? tmpdir(), 'bench-'))
  await chmod(folder, 0o755)
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, '--only', 'list'], {
    env: { ...process.env, TMPDIR: folder },
    stdio: 'ignore',
  })
  const exited = once(child, 'exit')
  try {
    const begun = async () =>
      (await readdir(folder, { recursive: true })).some((path) => path.endsWith('temporal.json'))
    await waitFor(begun, { what: 'the first engine process', timeout_ms: 60_000 })
    child.kill('SIGINT')
    expect(await exited).toEqual([130, null])
    expect(execFileSync('ps', ['ax', '-o', 'args'], { encoding: 'utf8' })).not.toContain(folder)
    expect(await readdir(folder)).toEqual([])
  } finally {
    child.kill('SIGKILL')
    await rm(folder, { recursive: true, force: true })
  }
})
