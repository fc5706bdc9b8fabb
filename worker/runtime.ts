/** Temporal's library in this process: its messages join our log, its figures our metrics. */
import { createServer } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { DefaultLogger, type LogLevel, Runtime } from '@temporalio/worker'
import type { Logger } from 'pino'

const SCRAPE_TIMEOUT_MS = 1_000
/** As Prometheus wants them. */
const NAMES = { unitSuffix: true, countersTotalSuffix: true, useSecondsForDurations: true }

/**
 * The library notes the stack of every promise a workflow makes, each frame looked up in a source map. Two say who threw.
 * For threads to come, the workflows' among them: what runs already keeps its own.
 */
const WORKFLOW_STACK_FRAMES = 2

/** Installs it, once a process. Returns what reads its figures as text; empty where there is no port for them. */
export function installRuntime(log: Logger, metrics_port?: number): () => Promise<string> {
  const levels: Record<LogLevel, 'trace' | 'debug' | 'info' | 'warn' | 'error'> = {
    TRACE: 'trace',
    DEBUG: 'debug',
    INFO: 'info',
    WARN: 'warn',
    ERROR: 'error',
  }
  setFlagsFromString(`--stack-trace-limit=${WORKFLOW_STACK_FRAMES}`)
  const bindAddress = `127.0.0.1:${metrics_port}`
  Runtime.install({
    shutdownSignals: [],
    logger: new DefaultLogger('WARN', ({ level, message, meta }) => log[levels[level]]({ ...meta }, message)),
    telemetryOptions: {
      logging: { forward: {}, filter: 'WARN' },
      ...(metrics_port ? { metrics: { prometheus: { bindAddress, ...NAMES } } } : {}),
    },
  })
  if (!metrics_port) return async () => ''
  return () =>
    fetch(`http://${bindAddress}/metrics`, { signal: AbortSignal.timeout(SCRAPE_TIMEOUT_MS) }).then(
      (answer) => answer.text(),
      () => '',
    )
}

/** A free port of loopback. The library listens by itself and does not tell where, so that one is chosen for it. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}
