/** `npm run simulate`: years of orders on simulated clouds, one a seed. docs/SIMULATION.md says what is judged. */
import { createHash } from 'node:crypto'
import { Command, InvalidArgumentError } from 'commander'
import { runSeeds } from './pool.ts'
import { type Line, type RunResult, runSeed, type Violation } from './run.ts'

const VIOLATIONS_SHOWN = 10
/** Of what happened to the noun of the first. */
const LINES_SHOWN = 40

const whole = (text: string): number => {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError('a whole number')
  return value
}

const flags = new Command('holdfast simulate')
  .description('years in which everything goes wrong, without engine or database; violations stand on stderr')
  .option('--seeds <number>', 'how many', whole, 100)
  .option('--first <seed>', 'the first of them', whole, 1)
  .option('--seed <seed>', 'this one alone', whole)
  .option('--years <number>', 'simulated years a seed', whole, 1)
  .option('--trace', 'every line of the run on stderr', false)
  .option('--json', 'the last line on stdout is JSON', false)
  .parse()
  .opts<{ seeds: number; first: number; seed?: number; years: number; trace: boolean; json: boolean }>()

const begun_at = performance.now()
const first = flags.seed ?? flags.first
const seeds = flags.seed === undefined ? flags.seeds : 1
const totals = { orders: 0, machines: 0, steps: 0, violations: 0 }
const digest = createHash('sha256')

function show({ step, at, noun, what }: Line): void {
  process.stderr.write(`${String(step).padStart(8)}  ${new Date(at).toISOString()}  ${noun}  ${what}\n`)
}

const { years } = flags
const results = flags.trace ? traced() : await runSeeds(first, seeds, years)
for (const result of results) {
  totals.orders += result.orders
  totals.machines += result.machines
  totals.steps += result.steps
  digest.update(result.digest)
  if (result.violations.length) report(result.violations)
}

const elapsed_s = Number(((performance.now() - begun_at) / 1_000).toFixed(1))
const summary = { ok: totals.violations === 0, seeds, ...totals, elapsed_s, digest: digest.digest('hex') }
const lines = flags.json ? [JSON.stringify(summary)] : Object.entries(summary).map(([key, value]) => `${key} ${value}`)
process.stdout.write(`${lines.join('\n')}\n`)
process.exitCode = summary.ok ? 0 : 1

function traced(): RunResult[] {
  return Array.from({ length: seeds }, (_, place) => runSeed({ seed: first + place, years, trace: show }))
}

/** Says what does not hold, and lives the seed once more to show what came before. */
function report(violations: readonly Violation[]): void {
  totals.violations += violations.length
  for (const { seed, invariant, step, at, noun, what } of violations.slice(0, VIOLATIONS_SHOWN)) {
    const when = `step ${step}, ${new Date(at).toISOString()}`
    process.stderr.write(`seed ${seed}: ${invariant} does not hold at ${when}: ${noun} ${what}\n`)
  }
  if (flags.trace) return
  const { noun, seed } = violations[0]!
  const root = noun.split('.')[0]!
  const lines: Line[] = []
  runSeed({
    seed,
    years,
    trace: (line) => {
      if (line.noun !== root && !line.noun.startsWith(`${root}.`)) return
      lines.push(line)
      if (lines.length > LINES_SHOWN) lines.shift()
    },
  })
  lines.forEach(show)
}
