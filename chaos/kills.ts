/** The kills: whom, when, and how long it took until something moved again. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Chance } from './chance.ts'
import { type House, kindOf } from './house.ts'
import type { Progress } from './progress.ts'

const [PAUSE_MIN_MS, PAUSE_MAX_MS] = [500, 7_000]
const TWO_AT_ONCE = 0.2
/** So many kills come whether or not anything has moved since the one before; the others wait for that. */
const IN_RECOVERY = 0.25
const MOVED_TIMEOUT_MS = 30_000
const RECOVERY_TIMEOUT_MS = 300_000
const LOOK_MS = 25

export interface Kill {
  readonly name: string
  /** Until the first progress after it; null: none came. */
  readonly recovery: Promise<number | null>
}

export interface KillNeeds {
  readonly house: House
  readonly progress: Progress
  readonly names: readonly string[]
  readonly kills: number
  readonly chance: Chance
  readonly signal: AbortSignal
  readonly say: (line: string) => void
}

/** Kills one after the other, now and then two at once, and resolves when all have happened. */
export async function killAll({ house, progress, names, kills, chance, signal, say }: KillNeeds): Promise<Kill[]> {
  const done: Kill[] = []
  let moved: Promise<unknown> = Promise.resolve()
  let hand: string[] = []
  /** Everybody gets their turn; who is dead already is passed over. */
  const next = (): string => {
    if (!hand.length) hand = chance.shuffled(names)
    return hand.pop()!
  }
  while (done.length < kills) {
    await delay(chance.whole(PAUSE_MIN_MS, PAUSE_MAX_MS), undefined, { signal })
    if (chance.next() >= IN_RECOVERY) await moved
    const wanted = chance.next() < TWO_AT_ONCE ? 2 : 1
    const struck: string[] = []
    for (let tries = 0; struck.length < Math.min(wanted, kills - done.length) && tries < names.length; tries++) {
      const name = next()
      if (house.kill(name)) struck.push(name)
    }
    const at_ms = Date.now()
    const patience = delay(MOVED_TIMEOUT_MS, undefined, { signal, ref: false }).catch(() => {})
    moved = Promise.race([progress.after(at_ms), patience])
    for (const name of struck) done.push({ name, recovery: recovered(house, progress, name, at_ms, signal) })
    if (struck.length)
      say(`${done.length}/${kills} kill -9 ${struck.join(' + ')}; ${progress.openOrders()} orders open`)
  }
  return done
}

/** An API is back when it says it is ready, the others when the next event came about and is to be read. */
async function recovered(
  house: House,
  progress: Progress,
  name: string,
  at_ms: number,
  signal: AbortSignal,
): Promise<number | null> {
  const patience = AbortSignal.any([signal, AbortSignal.timeout(RECOVERY_TIMEOUT_MS)])
  const given_up = new Promise<false>((resolve) => patience.addEventListener('abort', () => resolve(false)))
  const back = kindOf(name) === 'api' ? answers(house, name, patience) : progress.after(at_ms)
  return (await Promise.race([back.then(() => true), given_up])) ? Date.now() - at_ms : null
}

async function answers(house: House, name: string, signal: AbortSignal): Promise<void> {
  const url = house.api_urls[Number(name.split('-')[1]) - 1]!
  while (!signal.aborted) {
    const response = house.ready(name) ? await fetch(`${url}/readyz`, { signal }).catch(() => null) : null
    await response?.body?.cancel()
    if (response?.ok) return
    await delay(LOOK_MS)
  }
}
