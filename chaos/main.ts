/**
 * `npm run chaos`: kills processes of a real installation under load, waits until everything has settled, and judges
 * from outside. docs/CHAOS.md says what is counted.
 */
import { appendFileSync } from 'node:fs'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { KINDS, type Kind } from './house.ts'
import { report } from './report.ts'
import { type RunOptions, run } from './run.ts'

const FINDINGS_SHOWN = 100
const INTERRUPTED = 130

const whole = (text: string): number => {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError('a whole number')
  return value
}
const kinds = (text: string): Kind[] =>
  text.split(',').map((name) => {
    const kind = KINDS.find((known) => known === name)
    if (!kind) throw new InvalidArgumentError(`some of ${KINDS.join(',')}`)
    return kind
  })

const flags = new Command('holdfast chaos')
  .description('random kill -9 under load; the last line says what came of it, and findings stand on stderr')
  .option('--kills <number>', 'processes to kill', whole, 50)
  .option('--seed <number>', 'what is drawn is drawn from this', whole, Date.now() % 1_000_000)
  .option('--processes <kinds>', 'what is killed', kinds, [...KINDS])
  .addOption(
    new Option('--engine <store>', 'what Temporal keeps its state in')
      .choices(['sqlite', 'postgres'])
      .default('sqlite'),
  )
  .option('--json', 'the last line on stdout is JSON', false)
  .parse()
  .opts<Pick<RunOptions, 'kills' | 'seed' | 'processes' | 'engine'> & { json: boolean }>()

const begun_at = performance.now()
const stopping = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stopping.abort(new Error(signal)))

// PostgreSQL runs as another user when we are root, and must be able to enter.
const data = await mkdtemp(join(tmpdir(), 'holdfast-chaos-'))
await chmod(data, 0o755)
const elapsed_s = (): string => ((performance.now() - begun_at) / 1000).toFixed(0)
const log = (line: string): void => appendFileSync(join(data, 'run.log'), `${new Date().toISOString()} ${line}\n`)
const say = (line: string): void => {
  log(line)
  process.stderr.write(`${elapsed_s().padStart(4)} s  ${line}\n`)
}

process.exitCode = await main().catch(async (error: unknown) => {
  if (stopping.signal.aborted) {
    await removeData()
    return INTERRUPTED
  }
  process.stderr.write(`chaos: ${error instanceof Error ? error.stack : String(error)}\n`)
  process.stderr.write(`chaos: data and logs are kept in ${data}\n`)
  return 1
})
process.exit()

async function main(): Promise<number> {
  const options: RunOptions = { ...flags, data, signal: stopping.signal, say, log }
  say(`seed ${flags.seed}, ${flags.kills} kills of ${flags.processes.join(', ')}, Temporal on ${flags.engine}`)
  const outcome = await run(options)
  const { ok, summary, findings } = report(outcome, options, performance.now() - begun_at)
  for (const line of findings.slice(0, FINDINGS_SHOWN)) process.stderr.write(`${line}\n`)
  if (ok) await removeData()
  else {
    await writeFile(join(data, 'findings.txt'), `${findings.join('\n')}\n`)
    await writeFile(join(data, 'ledgers.json'), JSON.stringify(outcome.ledgers))
    process.stderr.write(`${findings.length} findings; data, logs, findings.txt and ledgers.json are kept in ${data}\n`)
  }
  const lines = flags.json
    ? [JSON.stringify(summary)]
    : Object.entries(summary).map(([k, v]) => `${k} ${JSON.stringify(v)}`)
  process.stdout.write(`${lines.join('\n')}\n`)
  return ok ? 0 : 1
}

function removeData(): Promise<void> {
  return rm(data, { recursive: true, force: true, maxRetries: 5 })
}
