/** The floor: what the engine gives with our settings when workflows do next to nothing, and PostgreSQL with one row. */
import { sql } from 'kysely'
import { openStore } from '../store/database.ts'
import { type BenchOptions, type BenchResult, countOf, roundsOf, secondsOf } from './support/bench.ts'
import { openFloor, type Shape } from './support/floor.ts'
import { cpuPer, openHouse } from './support/house.ts'
import { forSeconds, round } from './support/measure.ts'

const SHAPES: readonly Shape[] = ['noop', 'regular_activity', 'local_activity', 'timer', 'delayed_start']
const WIDTH = 20
const COUNT = 300
const ROUNDS = 2
const CONNECTIONS = 10
const INSERT_SECONDS = 5

export async function engine(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  try {
    const floor = await openFloor(house)
    const turns = roundsOf(options, ROUNDS)
    const count = countOf(options, COUNT / ROUNDS, 10)
    const figures: Record<string, { per_second: number; cpu_ms: Record<string, number> }> = {}
    // Twice through all of them, so that a change of the machine's mood shows in none alone.
    const rounds = Array.from({ length: turns }, () => SHAPES).flat()
    const sums = new Map<Shape, { seconds: number; cpu: Record<string, number>[] }>()
    for (const shape of rounds) {
      const before = house.cpu({ worker: floor.pid })
      const { per_second } = await floor.run({ shape, count, width: WIDTH })
      const sum = sums.get(shape) ?? { seconds: 0, cpu: [] }
      sum.seconds += count / per_second
      sum.cpu.push(cpuPer(count, before, house.cpu({ worker: floor.pid })))
      sums.set(shape, sum)
    }
    for (const [shape, { seconds, cpu }] of sums) {
      const mean = (name: string) => round(cpu.reduce((total, one) => total + one[name]!, 0) / cpu.length)
      const cpu_ms = { server: mean('temporal'), worker: mean('worker') }
      figures[shape] = { per_second: round((count * turns) / seconds), cpu_ms }
    }
    await floor.stop()
    const inserts = await insertsPerSecond(house.database_url, secondsOf(options, INSERT_SECONDS))
    return { figures: { ...figures, inserts: { per_second: round(inserts) } }, floor: {}, ratio: {} }
  } finally {
    await house.close()
  }
}

/** One row a transaction, from as many connections as would be busy. */
async function insertsPerSecond(database_url: string, seconds: number): Promise<number> {
  const { db, close } = openStore(database_url, { size: CONNECTIONS })
  try {
    await sql`create table bench_rows (id bigint generated always as identity primary key, text text)`.execute(db)
    return await forSeconds(seconds, CONNECTIONS, async () => {
      await sql`insert into bench_rows (text) values ('a row')`.execute(db)
    })
  } finally {
    await close()
  }
}
