/** The simulated cloud as a process of its own, so that its machines outlive us. It is found by path. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { PortBook } from './ports.ts'
import { endUnrecorded, findRunning, type Room, type Supervised, supervise } from './processes.ts'

const server = fileURLToPath(new URL('../providers/simulated/server.ts', import.meta.url))
const ready_bound_ms = 30_000
const stop_bound_ms = 5_000
const probe_bound_ms = 2_000

/** A running simulated cloud. */
export interface Simulated extends Supervised {
  readonly url: string
}

/** Starts the simulated cloud on `<data>/simulated`, or adopts the one an earlier start left. */
export async function startSimulated(
  room: Room,
  data: string,
  ports: PortBook,
  onRestart: () => void,
): Promise<Simulated> {
  const folder = join(data, 'simulated')
  mkdirSync(folder, { recursive: true })
  const running = findRunning(room, 'simulated')
  if (!running) await endUnrecorded(({ args }) => args.includes(server) && args.includes(folder), stop_bound_ms)
  const port = running?.port ?? (await ports.claim('simulated', (line) => room.log(line)))
  const url = `http://127.0.0.1:${port}`
  const supervised = await supervise(
    room,
    {
      name: 'simulated',
      port,
      file: process.execPath,
      args: [server, '--data', folder, '--port', String(port)],
      ready: async () => (await fetch(`${url}/healthz`, { signal: AbortSignal.timeout(probe_bound_ms) })).ok,
      ready_bound_ms,
      stop_signals: ['SIGTERM'],
      stop_bound_ms,
    },
    running,
    onRestart,
  )
  return Object.assign(supervised, { url })
}
