/** Seeds side by side, one thread a core: each thread is given the next seed when it has lived the one before. */
import { availableParallelism } from 'node:os'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { type RunResult, runSeed } from './run.ts'

interface Job {
  readonly seed: number
  readonly years: number
}

/** Runs seeds; the results come in the order of the seeds. */
export async function runSeeds(first: number, seeds: number, years: number): Promise<RunResult[]> {
  const results: RunResult[] = []
  let next = first
  const thread = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const worker = new Worker(new URL(import.meta.url))
      let seed = 0
      const give = (): void => {
        seed = next++
        if (seed < first + seeds) worker.postMessage({ seed, years } satisfies Job)
        else void worker.terminate().then(() => resolve())
      }
      worker.on('error', reject)
      worker.on('message', (result: RunResult) => {
        results[seed - first] = result
        give()
      })
      give()
    })
  await Promise.all(Array.from({ length: Math.min(seeds, availableParallelism()) }, thread))
  return results
}

if (!isMainThread) parentPort!.on('message', (job: Job) => parentPort!.postMessage(runSeed(job)))
