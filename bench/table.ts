/**
 * The tables of docs/BENCHMARKS.md from a run: `npm run --silent bench -- --json > run.jsonl`, then
 * `node bench/table.ts run.jsonl`. What each bench is judged by, and the run's own floors and ratios.
 */
import { readFileSync } from 'node:fs'
import type { BenchResult } from './support/bench.ts'
import { numbersOf, verdict } from './support/report.ts'
import { TARGETS } from './targets.ts'

type Line = BenchResult & { bench: string; machine: Record<string, string | number> }

const results = readFileSync(process.argv[2] ?? 0, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Line)
const values = new Map(
  results.flatMap((result) =>
    (['figures', 'floor', 'ratio'] as const).flatMap((part) =>
      [...numbersOf(result[part], part)].map(([path, value]) => [`${result.bench} ${path}`, value] as const),
    ),
  ),
)
const loads = results.map(({ machine }) => Number(machine.load_1m))
const { cpus, model, node, engine } = results[0]!.machine
const say = (line: string) => process.stdout.write(`${line}\n`)

say(`${cpus} cores (${model}), Node ${node}, ${engine}; load average ${Math.min(...loads)} to ${Math.max(...loads)}.\n`)
say('| Bench | Figure | Must | Lead | Measured | |')
say('|---|---|---|---|---|---|')
for (const target of TARGETS) {
  const value = values.get(`${target.bench} ${target.path}`)
  const sign = target.better === 'less' ? '≤' : '≥'
  const judged = value === undefined ? '' : verdict(target, value)
  const lead = target.lead === undefined ? '' : `${sign} ${target.lead}`
  say(`| \`${target.bench}\` | ${target.label} | ${sign} ${target.must} | ${lead} | ${value ?? ''} | ${judged} |`)
}
say('\n| The engine, C=20 | per second | CPU ms: server | worker |')
say('|---|---|---|---|')
for (const shape of ['noop', 'regular_activity', 'local_activity', 'timer', 'delayed_start', 'inserts']) {
  const figure = (name: string) => values.get(`engine figures.${shape}.${name}`) ?? ''
  say(
    `| ${shape.replace('_', ' ')} | ${figure('per_second')} | ${figure('cpu_ms.server')} | ${figure('cpu_ms.worker')} |`,
  )
}
for (const { bench, void: reason } of results) if (reason) say(`\n\`${bench}\` is void: ${reason.split('\n')[0]}`)
