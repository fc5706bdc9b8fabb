/**
 * `npm run quickstart`: everything on one machine, at its real job. Two simulated clouds, of which one refuses half-way
 * and loses a reply; an order of five; a lease of some seconds with an order attached; a hook whose receiver checks
 * order and gaps by itself. `--once` ends when all of it reached its promised end.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import Table from 'cli-table3'
import { Command } from 'commander'
import { Listr } from 'listr2'
import { createLogUpdate } from 'log-update'
import { ConfigError, readConfig } from './config.ts'
import { failStart, openProcess, type Running } from './process.ts'
import { HoldfastApi, type Job, type JobState, jobState, startJob } from './quickstart-job.ts'

const EXAMPLES = join(import.meta.dirname, '../examples')
const JOB_TIMEOUT_MS = 120_000
const LOOK_MS = 250

const options = new Command('holdfast quickstart')
  .option('--once', 'end when the job is done', false)
  .option('--port <port>', 'port of the API; default: 8080, or a free one')
  .option('--data <folder>', 'data folder', process.env.HOLDFAST_DATA ?? '.holdfast')
  .option('--engine <engine>', 'what Temporal keeps its state in: sqlite (default) or postgres')
  .parse()
  .opts<{ once: boolean; port?: string; data: string; engine?: string }>()

const begun_at = Date.now()
const stopping = new AbortController()
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stopping.abort())

const terminal = process.stdout.isTTY === true
let running: Running | undefined
let receiver: ChildProcess | undefined
let job: Job | undefined

async function main(): Promise<number> {
  const config = readConfig(
    [
      ...['--data', resolve(options.data), '--port', String(options.port ?? (await freePort(8080)))],
      ...(options.engine ? ['--engine', options.engine] : []),
    ],
    {
      HOLDFAST_HOOK_ALLOW: '127.0.0.0/8',
      HOLDFAST_LOG_LEVEL: 'warn',
      ...process.env,
    },
  )
  const tasks = new Listr<Record<string, never>, 'default' | 'simple'>(
    [
      {
        title: 'PostgreSQL, Temporal, a simulated cloud',
        task: async (_, task) => {
          running = await openProcess(config, stopping.signal, true, (line) => {
            task.output = line
          })
        },
      },
      { title: 'workers', task: () => untilStopped(running!.service.engine!.ready) },
      {
        title: 'two clouds, a hook, an order of five, a lease of some seconds',
        task: async () => {
          const token = await operatorToken(running!)
          const api = new HoldfastApi(running!.service.url!, token, stopping.signal)
          receiver = spawn(process.execPath, [join(EXAMPLES, 'receiver.ts')], { stdio: ['pipe', 'pipe', 'inherit'] })
          const [line] = (await once(createInterface(receiver.stdout!), 'line')) as [string]
          job = await startJob(
            api,
            running!.engine!.simulated_url!,
            (JSON.parse(line) as { url: string }).url,
            EXAMPLES,
          )
        },
      },
    ],
    // Its own listener would end the process at once, with the engine still running.
    {
      renderer: terminal ? 'default' : 'simple',
      rendererOptions: { collapseSubtasks: false },
      registerSignalListeners: false,
    },
  )
  await tasks.run()
  tell()
  const { done, state } = await follow(job!)
  if (options.once) {
    const ok = done && state.ok
    if (!ok) for (const reason of state.missing) process.stderr.write(`not reached: ${reason}\n`)
    process.stdout.write(
      `${JSON.stringify({ ok, ...state.counts, elapsed_s: Math.round((Date.now() - begun_at) / 100) / 10 })}\n`,
    )
    return ok ? 0 : 1
  }
  process.stdout.write(done ? 'The job is done; the server stays up. Ctrl-C ends it.\n' : '')
  if (!stopping.signal.aborted) await once(stopping.signal, 'abort')
  return 0
}

function tell(): void {
  const lines = [
    `API          ${running!.service.url}`,
    `Reference    ${running!.service.url}/docs`,
    `Temporal UI  ${running!.temporal_ui ?? 'none'}`,
    `Token        ${running!.operator_token_file ?? 'HOLDFAST_OPERATOR_TOKEN'}`,
  ]
  process.stdout.write(`\n${lines.join('\n')}\n\n`)
}

/** Shows the job until everything reached its end, the time is over, or somebody stops it. */
async function follow(current: Job): Promise<{ done: boolean; state: JobState }> {
  const show = createLogUpdate(process.stdout)
  const until = Date.now() + JOB_TIMEOUT_MS
  let shown = ''
  for (;;) {
    const state = await jobState(current)
    const table = render(state)
    if (terminal) show(table)
    else if (state.line !== shown) process.stdout.write(`${state.line}\n`)
    shown = state.line
    if (state.ok || Date.now() > until || stopping.signal.aborted) {
      if (terminal) show.done()
      return { done: state.ok, state }
    }
    await delay(LOOK_MS, undefined, { signal: stopping.signal }).catch(() => {})
  }
}

function render(state: JobState): string {
  const table = new Table({ head: ['', 'name', 'state', 'cloud', 'what holds it up'] })
  table.push(...state.rows.map((row) => [...row]))
  return table.toString()
}

async function operatorToken(process_: Running): Promise<string> {
  if (!process_.operator_token_file) return process.env.HOLDFAST_OPERATOR_TOKEN!
  return (await readFile(process_.operator_token_file, 'utf8')).trim()
}

function untilStopped<T>(promise: Promise<T>): Promise<T> {
  return Promise.race([promise, once(stopping.signal, 'abort').then(() => Promise.reject(new Error('stopped')))])
}

/** The port wished for, or any free one where it is taken. */
function freePort(wished: number): Promise<number> {
  return new Promise((found) => {
    const probe = createServer()
    probe.once('error', () => found(0))
    probe.listen(wished, '127.0.0.1', () => probe.close(() => found(wished)))
  })
}

let code = 1
try {
  code = await main()
} catch (error) {
  if (stopping.signal.aborted) code = 130
  else if (error instanceof ConfigError) failStart(`configuration: ${error.message}`)
  else process.stderr.write(`holdfast: ${error instanceof Error ? error.message : String(error)}\n`)
} finally {
  receiver?.kill()
  await running?.stop()
}
process.exit(code)
