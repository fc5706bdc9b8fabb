/**
 * The load: orders, leases and hooks that are made, changed and ended, and machines that are acted on, by several clients
 * at once. Every draw comes from the seed; what the service makes of it in time does not.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { acting, fleet, healing } from './acting.ts'
import { chanceOf } from './chance.ts'
import type { Client } from './client.ts'
import type { Clouds } from './clouds.ts'
import type { Desk, Job } from './desk.ts'
import { death, hook, lease, order, refusal, tenants } from './jobs.ts'
import type { Subscribers } from './subscribers.ts'

export interface LoadNeeds {
  readonly seed: number
  /** Clients of the project; each job takes the next. */
  readonly clients: readonly Client[]
  readonly clouds: Clouds
  readonly subscribers: Subscribers
  /** New work waits while more than enough is open. */
  readonly openOrders: () => number
  readonly openDeliveries: () => number
  readonly signal: AbortSignal
}

export interface Load {
  /** Jobs by kind that were begun. */
  readonly begun: Readonly<Record<string, number>>
  /** Answers 4xx where none was to be expected, and requests that were never answered. */
  readonly refused: readonly string[]
  /** No new jobs; resolves when those begun are over. What then still waits for its end is left standing. */
  stop(): Promise<void>
}

const MEAN_GAP_MS = 400
const OPEN_ORDERS_MAX = 40
const OPEN_DELIVERIES_MAX = 1_000
const STANDING_MAX = 16
const JOBS = { order, lease, tenants, acting, fleet, healing, death, refusal, hook } satisfies Record<string, Job>
/** Kinds of jobs, each as often as it stands here. */
const KINDS = [
  ...Array<'order'>(7).fill('order'),
  ...Array<'lease'>(7).fill('lease'),
  ...Array<'tenants'>(3).fill('tenants'),
  ...Array<'acting'>(3).fill('acting'),
  ...Array<'healing'>(3).fill('healing'),
  ...Array<'death'>(2).fill('death'),
  ...Array<'fleet'>(2).fill('fleet'),
  'refusal',
  'hook',
] as const

export function startLoad({ seed, clients, clouds, subscribers, openOrders, openDeliveries, signal }: LoadNeeds): Load {
  const chance = chanceOf(seed)
  const stopping = new AbortController()
  const over = AbortSignal.any([signal, stopping.signal])
  const begun: Record<string, number> = {}
  const refused: string[] = []
  const jobs = new Set<Promise<void>>()
  let serial = 0
  let standing = 0

  const desk: Desk = {
    clouds,
    subscribers,
    pass: (ms) =>
      delay(ms, undefined, { signal: over }).then(
        () => true,
        () => false,
      ),
    async ask(client, asked, ...also) {
      const { status, body } = await client.ask(asked)
      if (status < 300) return body
      if (!also.includes(status))
        refused.push(`${asked.method} ${asked.path} answered ${status}: ${JSON.stringify(body)}`)
      return null
    },
    name: (of) => `${of}-${++serial}`,
    mayStand: () => standing < STANDING_MAX && ++standing > 0,
  }

  const arriving = (async () => {
    for (let number = 1; await desk.pass(-Math.log(1 - chance.next()) * MEAN_GAP_MS); number++) {
      const kind = chance.pick(KINDS)
      if (openOrders() > OPEN_ORDERS_MAX || openDeliveries() > OPEN_DELIVERIES_MAX) continue
      begun[kind] = (begun[kind] ?? 0) + 1
      const job = JOBS[kind](desk, chanceOf(seed + 7_919 * number), clients[number % clients.length]!)
        // Aborted: the end of the run.
        .catch((error: unknown) => void (signal.aborted || refused.push(String(error))))
        .finally(() => jobs.delete(job))
      jobs.add(job)
    }
  })()

  return {
    begun,
    refused,
    async stop() {
      stopping.abort()
      await arriving
      await Promise.all(jobs)
    },
  }
}
