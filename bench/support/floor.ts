/** The engine's floor as a bench asks for it: so many tiny workflows of a shape, so many at a time. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { House } from './house.ts'

export type Shape = 'noop' | 'regular_activity' | 'local_activity' | 'timer' | 'delayed_start'

export interface FloorJob {
  readonly serial: string
  readonly shape: Shape
  readonly count: number
  readonly width: number
  /** Of `timer`: when to end. */
  readonly due_ms?: number
  readonly delay_ms?: number
  /** Waits for each result before the next start of its lane. */
  readonly wait: boolean
}

export interface FloorAnswer {
  readonly serial: string
  readonly took_ms: number
  readonly error?: string
}

export interface Floor {
  readonly pid: number
  /** Runs workflows and gives how many were done per second. */
  run(job: Omit<FloorJob, 'serial' | 'wait'> & { wait?: boolean }): Promise<{ per_second: number; serial: string }>
  stop(): Promise<void>
}

const FLOOR_WORKER = fileURLToPath(new URL('./floor-worker.ts', import.meta.url))
const JOB_TIMEOUT_MS = 300_000
const WARM_UP = { count: 20, width: 8 }

/** Starts the floor's process and warms it up; it ends with the house at the latest. */
export async function openFloor(house: House): Promise<Floor> {
  const temporal = house.engine
  const child: ChildProcess = fork(FLOOR_WORKER, [temporal.temporal_address, temporal.namespace], {
    execArgv: ['--disable-warning=ExperimentalWarning'],
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  const exited = once(child, 'exit')
  const early = exited.then(() => {
    throw new Error("the floor's process ended")
  })
  early.catch(() => {})
  await Promise.race([once(child, 'message'), early])
  let jobs = 0
  const floor: Floor = {
    pid: child.pid!,
    async run(asked) {
      // A start that is delayed for a day is all there is to it.
      const job = { wait: asked.shape !== 'delayed_start', ...asked }
      const serial = `${child.pid}-${++jobs}`
      child.send({ ...job, serial } satisfies FloorJob)
      const [answer] = (await Promise.race([
        once(child, 'message', { signal: AbortSignal.timeout(JOB_TIMEOUT_MS) }),
        early,
      ])) as [FloorAnswer]
      if (answer.error) throw new Error(`the floor failed: ${answer.error}`)
      return { per_second: (job.count * 1_000) / answer.took_ms, serial }
    },
    async stop() {
      if (child.connected) child.disconnect()
      await exited
    },
  }
  house.onClose(floor.stop)
  await floor.run({ shape: 'regular_activity', ...WARM_UP })
  return floor
}
