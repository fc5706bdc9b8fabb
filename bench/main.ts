/**
 * `npm run bench [-- --json] [--only a,b] [--seconds N] [--full]`: measures, each bench with the engine's floor of the
 * same run. With `--json` one object a line; exit 1 where a run is void.
 */
import { availableParallelism, cpus, loadavg } from 'node:os'
import { Command, InvalidArgumentError } from 'commander'
import { accept } from './accept.ts'
import { bulk } from './bulk.ts'
import { engine } from './engine.ts'
import { failover } from './failover.ts'
import { healing } from './healing.ts'
import { hooks } from './hooks.ts'
import { list } from './list.ts'
import { orders } from './orders.ts'
import { recovery } from './recovery.ts'
import { sleepers } from './sleepers.ts'
import type { Bench, BenchResult } from './support/bench.ts'
import { closeHouses } from './support/house.ts'
import { render } from './support/report.ts'
import { timers } from './timers.ts'

const BENCHES: Readonly<Record<string, Bench>> = {
  engine,
  accept,
  orders,
  bulk,
  timers,
  sleepers,
  hooks,
  recovery,
  list,
  failover,
  healing,
}

const names = (text: string): string[] => {
  const wanted = text.split(',').filter(Boolean)
  const unknown = wanted.find((name) => !(name in BENCHES))
  if (unknown || !wanted.length) throw new InvalidArgumentError(`there are: ${Object.keys(BENCHES).join(', ')}`)
  return wanted
}
const seconds = (text: string): number => {
  if (!(Number(text) > 0)) throw new InvalidArgumentError('a number of seconds')
  return Number(text)
}

const options = new Command('holdfast bench')
  .option('--json', 'one JSON object a line instead of tables', false)
  .option('--only <benches>', `some of ${Object.keys(BENCHES).join(',')}`, names)
  .option('--seconds <seconds>', 'shortens the timed parts', seconds)
  .option('--full', 'large shapes: 100,000 sleepers', false)
  .parse()
  .opts<{ json: boolean; only?: string[]; seconds?: number; full: boolean }>()

let interrupted: Promise<never> | undefined
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    interrupted ??= closeHouses().then(() => process.exit(130))
  })
}
for (const name of options.only ?? Object.keys(BENCHES)) {
  process.stderr.write(`bench: ${name}\n`)
  const begun_at = performance.now()
  const result: BenchResult = await BENCHES[name]!({ seconds: options.seconds, full: options.full }).catch(
    (error: unknown) => {
      const reason = error instanceof Error ? (error.stack ?? error.message) : String(error)
      return { figures: {}, floor: {}, ratio: {}, void: `it did not come to its end: ${reason}` }
    },
  )
  if (interrupted) await interrupted
  const took_s = Math.round((performance.now() - begun_at) / 1_000)
  const machine = {
    cpus: availableParallelism(),
    model: cpus()[0]?.model ?? 'unknown',
    node: process.version,
    engine: 'Temporal on its SQLite file, PostgreSQL with fsync',
    load_1m: Math.round(loadavg()[0]! * 100) / 100,
    took_s,
  }
  if (result.void) process.exitCode = 1
  process.stdout.write(
    options.json ? `${JSON.stringify({ bench: name, ...result, machine })}\n` : `${render(name, result)}\n\n`,
  )
}
// What was left open by a bench that failed must not keep the program.
process.exit()
