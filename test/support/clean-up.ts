/**
 * Ends what an interrupted test run left: `node clean-up.ts FOLDER`. Processes of the engine room outlive their owner on
 * purpose, also when the owner is a test.
 */
import { readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { endRunning, findRunning } from '../../embedded/processes.ts'

const bound_ms = 3_000

// A second Ctrl-C does not cut this short.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => {})

for (const entry of await readdir(process.argv[2]!, { recursive: true })) {
  const folder = join(process.argv[2]!, dirname(entry))
  if (basename(folder) !== 'run' || !entry.endsWith('.json')) continue
  const name = basename(entry, '.json')
  const running = findRunning({ run: folder }, name)
  // Nothing is kept, so PostgreSQL need not write its memory out.
  if (running) await endRunning(running, [name === 'postgres' ? 'SIGQUIT' : 'SIGTERM'], bound_ms)
}
