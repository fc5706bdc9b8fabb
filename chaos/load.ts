/**
 * The load: orders, leases and hooks that are made, changed and ended by several clients at once. Every draw comes from
 * the seed; what the service makes of it in time does not.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Chance, chanceOf } from './chance.ts'
import type { Promised } from './checker/ledgers.ts'
import type { Client } from './client.ts'
import type { Clouds } from './clouds.ts'
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
const STANDING_MAX = 12
const HOUR_MS = 3_600_000
/** Kinds of jobs, each as often as it stands here. */
const KINDS = [
  ...Array<'order'>(12).fill('order'),
  ...Array<'lease'>(9).fill('lease'),
  ...Array<'death'>(2).fill('death'),
  'hook',
] as const
const PLACES = [['crowded', 'tokens'], ['tokens', 'crowded'], ['crowded'], ['tokens']]
/** Mostly small; all sizes up to ten. */
const COUNTS = [1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8, 10]

type Fields = Readonly<Record<string, unknown>>

export function startLoad({ seed, clients, clouds, subscribers, openOrders, openDeliveries, signal }: LoadNeeds): Load {
  const chance = chanceOf(seed)
  const stopping = new AbortController()
  const over = AbortSignal.any([signal, stopping.signal])
  const begun: Record<string, number> = {}
  const refused: string[] = []
  const jobs = new Set<Promise<void>>()
  let serial = 0
  let standing = 0

  /** Waits, unless the load is over: false. */
  const pass = (ms: number): Promise<boolean> =>
    delay(ms, undefined, { signal: over }).then(
      () => true,
      () => false,
    )

  async function ask(client: Client, asked: Parameters<Client['ask']>[0], ...also: number[]): Promise<Fields | null> {
    const { status, body } = await client.ask(asked)
    if (status < 300) return body
    if (!also.includes(status))
      refused.push(`${asked.method} ${asked.path} answered ${status}: ${JSON.stringify(body)}`)
    return null
  }

  function machinesOf(draw: Chance): { body: Fields; promised: Promised } {
    const count = draw.pick(COUNTS)
    const policy = draw.pick(['all', 'any', 'at_least'] as const)
    const promised = { count, policy, ...(policy === 'at_least' ? { at_least: draw.whole(1, count) } : {}) }
    return { body: { size: 'small', image: 'debian', clouds: draw.pick(PLACES), ...promised }, promised }
  }

  async function order(draw: Chance, client: Client): Promise<void> {
    const { body, promised } = machinesOf(draw)
    const [fate, patience_ms] = [draw.next(), draw.whole(4_000, 25_000)]
    const [soon_ms, member] = [draw.whole(0, 2_500), draw.next()]
    const made = await ask(client, {
      kind: 'order',
      method: 'POST',
      path: '/api/launch-orders',
      body: { name: `web-${++serial}`, ...body },
      promised,
    })
    if (!made) return
    const { id } = made.launch_order as { id: string }
    const end = () =>
      ask(client, { kind: 'cancel', method: 'DELETE', path: `/api/launch-orders/${id}`, resource_id: id })
    if (fate < 0.25) {
      if (await pass(soon_ms)) await end()
      return
    }
    if (fate < 0.45) {
      if (!(await pass(soon_ms))) return
      await terminateMember(client, id, member)
    }
    if (fate > 0.9 && standing < STANDING_MAX) {
      standing++
      return
    }
    if (await pass(patience_ms)) await end()
  }

  async function terminateMember(client: Client, order_id: string, member: number): Promise<void> {
    const found = await client.look(`/api/launch-orders/${order_id}/instances`)
    const ids = ((found?.instances ?? []) as { id: string }[]).map(({ id }) => id).toSorted()
    const id = ids[Math.floor(member * ids.length)]
    if (!id) return
    const path = `/api/instances/${id}/actions`
    await ask(client, { kind: 'terminate', method: 'POST', path, body: { action: 'terminate' }, resource_id: id }, 409)
  }

  /** A lease of seconds to a minute; some are left standing. A repeat may come too late for its moments. */
  async function lease(draw: Chance, client: Client): Promise<void> {
    const start_in_ms = draw.pick([0, 0, 1_500, 3_000])
    const lasts_ms = draw.next() < 0.1 && standing++ < STANDING_MAX ? HOUR_MS : draw.pick([4, 6, 8, 12, 20, 45]) * 1_000
    const with_order = draw.next() < 0.6
    const machines = machinesOf(draw)
    const [change, change_in_ms, longer_ms] = [draw.next(), draw.whole(200, 3_000), draw.whole(1_000, 10_000)]
    const now_ms = Date.now()
    const end_at_ms = now_ms + start_in_ms + lasts_ms
    const before_end_at_ms = end_at_ms - 1_000
    const start_at_ms = now_ms + start_in_ms
    const body = {
      name: `night-${++serial}`,
      start_at: start_in_ms ? iso(start_at_ms) : 'now',
      end_at: iso(end_at_ms),
      before_end_at: iso(before_end_at_ms),
      ...(with_order ? { order: machines.body } : {}),
    }
    const promised = { end_at_ms, before_end_at_ms, ...(start_in_ms ? { start_at_ms } : {}) }
    const made = await ask(client, { kind: 'lease', method: 'POST', path: '/api/leases', body, promised }, 400)
    if (!made || change < 0.35 || lasts_ms === HOUR_MS || !(await pass(change_in_ms))) return
    const { id } = made.lease as { id: string }
    const path = `/api/leases/${id}`
    if (change > 0.8) {
      await ask(client, { kind: 'end', method: 'DELETE', path, resource_id: id }, 409)
      return
    }
    const moved_ms = change > 0.6 ? Date.now() + 1_500 : end_at_ms + longer_ms
    const moved = { end_at_ms: moved_ms, before_end_at_ms: moved_ms - 500 }
    await ask(
      client,
      {
        kind: 'extend',
        method: 'PATCH',
        path,
        body: { end_at: iso(moved.end_at_ms), before_end_at: iso(moved.before_end_at_ms) },
        resource_id: id,
        promised: moved,
      },
      400,
      409,
    )
  }

  /** A hook that comes and goes. */
  async function hook(draw: Chance, client: Client): Promise<void> {
    const lasts_ms = draw.whole(5_000, 20_000)
    const id = await subscribers.subscribe(client, 'passing')
    if (await pass(lasts_ms)) await subscribers.leave(client, id)
  }

  const work: Record<(typeof KINDS)[number], (draw: Chance, client: Client) => Promise<void>> = {
    order,
    lease,
    hook,
    death: (draw) => clouds.strike(draw),
  }

  const arriving = (async () => {
    for (let number = 1; await pass(-Math.log(1 - chance.next()) * MEAN_GAP_MS); number++) {
      const kind = chance.pick(KINDS)
      if (openOrders() > OPEN_ORDERS_MAX || openDeliveries() > OPEN_DELIVERIES_MAX) continue
      begun[kind] = (begun[kind] ?? 0) + 1
      const job = work[kind](chanceOf(seed + 7_919 * number), clients[number % clients.length]!)
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

const iso = (ms: number): string => new Date(ms).toISOString()
