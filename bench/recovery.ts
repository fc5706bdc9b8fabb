/**
 * `kill -9` of each process in turn, a moment before five hundred leases are due. Killed service processes are started
 * again at once, as a container's supervisor would; PostgreSQL and Temporal by their own. All times count from the kill.
 */
import { type BenchOptions, type BenchResult, countOf, Ledger } from './support/bench.ts'
import { type House, openHouse, type ServiceProcess, untilHandedOver } from './support/house.ts'
import { actsOf, lease } from './support/leases.ts'
import { inParallel, round, until, wallNow } from './support/measure.ts'

const VICTIMS = ['api', 'worker', 'temporal', 'postgres'] as const
type Victim = (typeof VICTIMS)[number]

const OVERDUE = 500
const WIDTH = 8
/** So long before the moment all of them are due. */
const KILL_BEFORE_MS = 200
const REST_MS = 4_000
const OPENING_MS = 30
const SETTLE_TIMEOUT_MS = 120_000
const ANSWER_TIMEOUT_MS = 60_000
const REQUEST_TIMEOUT_MS = 1_000
const DAY_MS = 86_400_000

interface Times {
  readonly api_answers_ms: number
  readonly first_progress_ms: number
  readonly overdue_settled_ms: number
}

export async function recovery(options: BenchOptions): Promise<BenchResult> {
  const house = await openHouse()
  const ledger = new Ledger()
  try {
    const services = { api: await house.start('api'), worker: await house.start('worker') }
    const figures: Record<string, Times> = {}
    const count = countOf(options, OVERDUE, 20)
    for (const victim of VICTIMS) figures[victim] = await killed(house, services, victim, count, ledger)
    const worst = (name: keyof Times) => Math.max(...Object.values(figures).map((times) => times[name]))
    return {
      figures: {
        ...Object.fromEntries(Object.entries(figures).map(([name, times]) => [name, { ...times }])),
        worst: {
          api_answers_ms: worst('api_answers_ms'),
          first_progress_ms: worst('first_progress_ms'),
          overdue_settled_ms: worst('overdue_settled_ms'),
        },
      },
      floor: {},
      ratio: {},
      ...ledger.result,
    }
  } finally {
    await house.close()
  }
}

async function killed(
  house: House,
  services: { api: ServiceProcess; worker: ServiceProcess },
  victim: Victim,
  count: number,
  ledger: Ledger,
): Promise<Times> {
  const api = house.api(services.api.url)
  const due_at = Math.ceil(Date.now() + count * OPENING_MS + REST_MS)
  await inParallel(
    count,
    WIDTH,
    async (index) => void (await lease(api, `${victim}-${index}`, due_at, due_at + DAY_MS)),
  )
  await untilHandedOver(house.store, Math.max(1, due_at - Date.now() - KILL_BEFORE_MS))
  await until(async () => Date.now() >= due_at - KILL_BEFORE_MS, Math.max(1, due_at - Date.now()), 5)

  const killed_at = wallNow()
  const restarting = kill(house, services, victim)
  const [answered_at] = await Promise.all([untilAnswered(house, services.api.url, `${victim}-answer`), restarting])
  const acts = async () => actsOf(house.store, victim, 'start_lease').catch(() => [])
  await until(async () => (await acts()).length >= count, SETTLE_TIMEOUT_MS, 100)
  const done = (await acts()).map((act) => act.acted_at).filter((acted_at) => acted_at > killed_at)
  ledger.check((await acts()).length >= count, `after the kill of ${victim} not all of ${count} leases started`)
  ledger.check(
    (await acts()).every((act) => act.acted_at >= act.due_at),
    `after the kill of ${victim} a lease started early`,
  )
  return {
    api_answers_ms: round(answered_at - killed_at),
    first_progress_ms: round(Math.min(...done) - killed_at),
    overdue_settled_ms: round(Math.max(...done) - killed_at),
  }
}

/** Kills, and sees to it that it runs again. */
async function kill(
  house: House,
  services: { api: ServiceProcess; worker: ServiceProcess },
  victim: Victim,
): Promise<void> {
  if (victim === 'api' || victim === 'worker') {
    const { port } = services[victim]
    await services[victim].kill()
    services[victim] = await house.start(victim, { port })
    return
  }
  const restarted = new Promise<void>((resolve) => {
    const leave = house.engine.onRestart((name) => {
      if (name !== victim) return
      leave()
      resolve()
    })
  })
  process.kill(house.engine.processes().find(({ name }) => name === victim)!.pid, 'SIGKILL')
  await restarted
}

/** The moment a write was accepted that was sent after the kill; far away, so that it is nobody else's business. */
async function untilAnswered(house: House, url: string, name: string): Promise<number> {
  const far = Date.now() + 30 * DAY_MS
  let answered_at = Number.NaN
  await until(
    async () => {
      const api = house.api(url)
      const trying = lease(api, `wait-${name}`, far, far + DAY_MS)
      const given_up = new Promise<never>((_, reject) => setTimeout(reject, REQUEST_TIMEOUT_MS))
      try {
        await Promise.race([trying, given_up])
        answered_at = wallNow()
        return true
      } catch {
        trying.catch(() => {})
        return false
      }
    },
    ANSWER_TIMEOUT_MS,
    20,
  )
  return answered_at
}
