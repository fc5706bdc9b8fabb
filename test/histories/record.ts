/**
 * Records the histories that are missing: `npx node test/histories/record.ts`. Runs every flow for real, on an engine and
 * a record of its own, and writes what the engine kept. A history that is there is never written again: it stands for
 * the release that made it.
 */
import { startVitest } from 'vitest/node'

const vitest = await startVitest('test', [], { watch: false, include: ['test/histories/scenes.ts'], retry: 0 })
await vitest.close()
