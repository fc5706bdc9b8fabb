/** What every bench measures with: histograms, CPU and memory of processes, work in parallel, work at a fixed rate. */
import { readdirSync, readFileSync } from 'node:fs'
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import { setTimeout as delay } from 'node:timers/promises'

export interface Quantiles {
  readonly p50: number
  readonly p99: number
  readonly p999: number
  readonly max: number
}

/** Latencies in ms, kept in microseconds by Node's own histogram; those of several parts can be merged. */
export class Latencies {
  readonly #histogram: RecordableHistogram = createHistogram({ figures: 3 })

  add(ms: number): void {
    this.#histogram.record(Math.max(1, Math.round(ms * 1_000)))
  }

  merge(other: Latencies): void {
    this.#histogram.add(other.#histogram)
  }

  get count(): number {
    return this.#histogram.count
  }

  quantiles(): Quantiles {
    const at = (percent: number) => round(this.count ? this.#histogram.percentile(percent) / 1_000 : Number.NaN)
    return { p50: at(50), p99: at(99), p999: at(99.9), max: at(100) }
  }

  static of(values_ms: Iterable<number>): Latencies {
    const latencies = new Latencies()
    for (const ms of values_ms) latencies.add(ms)
    return latencies
  }
}

/** Three figures: more would be a lie. */
export const round = (value: number): number => (Number.isFinite(value) ? Number(value.toPrecision(3)) : value)

/** Milliseconds since 1970 with fractions: comparable between processes of one machine. */
export const wallNow = (): number => performance.timeOrigin + performance.now()

const CLOCK_TICKS_PER_S = 100
const PAGE_MIB = 4_096 / 2 ** 20

export interface Usage {
  readonly cpu_ms: number
  readonly memory_mib: number
}

/** CPU time so far and resident memory of a process with all below it, dead children included; from /proc. */
export function usageOf(pid: number): Usage {
  const processes = new Map<number, Usage & { parent: number }>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      // Behind the name in brackets, which may hold anything; numbered as in proc_pid_stat(5), from 3 on.
      const fields = readFileSync(`/proc/${name}/stat`, 'utf8').split(') ').at(-1)!.split(' ')
      const field = (number: number) => Number(fields[number - 3])
      const ticks = field(14) + field(15) + field(16) + field(17)
      processes.set(Number(name), {
        parent: field(4),
        cpu_ms: (ticks * 1_000) / CLOCK_TICKS_PER_S,
        memory_mib: residentMib(Number(name)) ?? field(24) * PAGE_MIB,
      })
    } catch {
      // gone meanwhile
    }
  }
  const below = (id: number): number[] => [
    id,
    ...[...processes].filter(([, { parent }]) => parent === id).flatMap(([child]) => below(child)),
  ]
  const family = below(pid).flatMap((id) => processes.get(id) ?? [])
  return {
    cpu_ms: family.reduce((sum, one) => sum + one.cpu_ms, 0),
    memory_mib: Math.round(family.reduce((sum, one) => sum + one.memory_mib, 0)),
  }
}

/** Proportional share, so that what PostgreSQL's processes share is counted once; null where that is not told. */
function residentMib(pid: number): number | null {
  try {
    const found = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))
    return found ? Number(found[1]) / 1_024 : null
  } catch {
    return null
  }
}

/** Runs a job for 0 … count-1, at most `width` of them at a time. */
export async function inParallel(count: number, width: number, job: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    while (next < count) await job(next++)
  }
  await Promise.all(Array.from({ length: Math.min(width, count) }, lane))
}

/** Lanes that go on until the time is over. Returns how often the job was done per second. */
export async function forSeconds(seconds: number, width: number, job: () => Promise<void>): Promise<number> {
  const begun_at = performance.now()
  let done = 0
  const lane = async (): Promise<void> => {
    while (performance.now() - begun_at < seconds * 1_000) {
      await job()
      done++
    }
  }
  await Promise.all(Array.from({ length: width }, lane))
  return (done * 1_000) / (performance.now() - begun_at)
}

/** Open loop: starts a job at each due moment, never waits for one. The job hears when it should have begun. */
export async function atRate(
  per_second: number,
  count: number,
  job: (index: number, due_wall_ms: number) => Promise<void>,
): Promise<void> {
  const begun_at = wallNow()
  const running: Promise<void>[] = []
  for (let index = 0; index < count; index++) {
    const due = begun_at + (index * 1_000) / per_second
    const early_ms = due - wallNow()
    if (early_ms > 0) await delay(early_ms)
    running.push(job(index, due))
  }
  await Promise.all(running)
}

/** Looks again and again; false when the time is over before the condition holds. */
export async function until(
  condition: () => Promise<boolean>,
  timeout_ms: number,
  interval_ms = 100,
): Promise<boolean> {
  const deadline = performance.now() + timeout_ms
  while (!(await condition())) {
    if (performance.now() > deadline) return false
    await delay(interval_ms)
  }
  return true
}
