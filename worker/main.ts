/**
 * One process for real use. Brings its own PostgreSQL and Temporal where no addresses are configured
 * (role `all`), makes the schema, and says on one line of stdout when it is ready. Logs go to stderr.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Config, ConfigError, readConfig } from './config.ts'
import { failStart, openProcess } from './process.ts'

const EXIT_WITHIN_MS = 10_000
/** So long the ready line waits for Temporal; then it goes on without, degraded. */
const ENGINE_WITHIN_MS = 3_000

let config: Config
try {
  config = readConfig(process.argv.slice(2), process.env)
} catch (error) {
  if (error instanceof ConfigError) failStart(`configuration: ${error.message}`)
  throw error
}

const stopping = new AbortController()
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    stopping.abort()
    setTimeout(() => process.exit(1), EXIT_WITHIN_MS).unref()
  })
}

const running = await openProcess(config, stopping.signal).catch((error: unknown) => {
  if (stopping.signal.aborted) process.exit(0)
  failStart(error instanceof Error ? error.message : String(error))
})

const { engine } = running.service
if (engine) {
  const away = delay(ENGINE_WITHIN_MS, undefined, { signal: stopping.signal }).catch(() => {})
  await Promise.race([engine.ready, engine.failed, away]).catch(async (error: Error) => {
    await running.stop()
    failStart(error.message)
  })
}

/** Where `npm run token` finds the record of a running process. */
const endpoints = join(config.data, 'run', 'endpoints.json')
await mkdir(join(config.data, 'run'), { recursive: true })
await writeFile(endpoints, JSON.stringify({ pid: process.pid, database_url: running.database_url }), { mode: 0o600 })

process.stdout.write(
  `${JSON.stringify({
    ready: true,
    api: running.service.url,
    temporal_ui: running.temporal_ui,
    operator_token_file: running.operator_token_file,
  })}\n`,
)

const fatal = engine?.failed.catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
  stopping.abort()
})
await Promise.race([
  new Promise((resolve) => stopping.signal.addEventListener('abort', resolve, { once: true })),
  fatal ?? new Promise(() => {}),
])
await rm(endpoints, { force: true })
await running.stop()
process.exit()
