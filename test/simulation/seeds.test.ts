/** Some years of the simulation, and its program. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { type Line, runSeed } from '../../simulation/run.ts'

const SEEDS = 10

test.each(Array.from({ length: SEEDS }, (_, i) => i + 1))('seed %i: nothing is violated in a year', (seed) => {
  const { violations, orders, machines } = runSeed({ seed, years: 1 })
  expect(violations).toEqual([])
  expect(orders).toBeGreaterThan(180)
  expect(machines).toBeGreaterThan(200)
})

test('the same seed is the same year, another seed another', () => {
  const [first, again, other] = [1, 1, 2].map((seed) => runSeed({ seed, years: 1 }))
  expect(again).toEqual(first)
  expect(other!.digest).not.toBe(first!.digest)
})

test('looking on changes nothing', () => {
  const lines: Line[] = []
  const traced = runSeed({ seed: 1, years: 1, trace: (line) => lines.push(line) })
  expect(traced).toEqual(runSeed({ seed: 1, years: 1 }))
  expect(lines.length).toBeGreaterThan(1_000)
})

/** Words of the trace that show that a fault was met and got over. */
test.each([
  'answered lost_reply',
  'answered throttled',
  'answered unavailable',
  'answered auth',
  'answered capacity',
  'found_by_tag .* as won',
  'found_by_tag .* as surplus',
  'runs again: its worker was lost',
  'dies when it has planned',
  'is lost',
  'a wake is lost',
  'woken by housekeeping',
  'its watcher dies',
  'was proved gone, and is there',
  'blocked: removal_off',
  'blocked: allocation_exhausted',
  'blocked: machine_starting',
  'blocked: credentials_expired',
  'vanished',
  '→ missing',
  'wished to cancel by a person',
  'wished to terminate by the end of its lease',
  'asks to terminate it',
  'lost, with all flows and wakes',
])('years really have: %s', (words) => {
  expect(lines()).toMatch(new RegExp(words))
})

let told: string | undefined
/** What happened in the years of some seeds. */
function lines(): string {
  if (told !== undefined) return told
  const all: string[] = []
  for (let seed = 1; seed <= 10; seed++) runSeed({ seed, years: 1, trace: ({ what }) => all.push(what) })
  told = all.join('\n')
  return told
}

test('the program says what came of it in its last line', async () => {
  const program = join(import.meta.dirname, '../../simulation/main.ts')
  const flags = ['--disable-warning=ExperimentalWarning', program, '--seeds', '2', '--first', '3', '--json']
  const { stdout } = await promisify(execFile)(process.execPath, flags)
  expect(JSON.parse(stdout.trim().split('\n').at(-1)!)).toMatchObject({
    ok: true,
    seeds: 2,
    orders: expect.any(Number),
    steps: expect.any(Number),
    violations: 0,
    elapsed_s: expect.any(Number),
    digest: expect.stringMatching(/^[0-9a-f]{64}$/),
  })
})
