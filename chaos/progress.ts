/**
 * Watches over HTTP what moves and what does not: the first progress after a kill, nouns that stand still without saying
 * why, and whether everything has come to rest.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Json, object } from './checker/shapes.ts'
import type { Client } from './client.ts'
import { openReader } from './reader.ts'
import { type Found, type OpenAction, STUCK_AFTER_MS, standOf } from './stands.ts'

const FOLLOW_MS = 100
const SAMPLE_MS = 4_000
const TICK_MS = 100
const PAGE_ROWS = 100

const OPEN_ORDERS = ['queued', 'launching', 'settling', 'held', 'compensating', 'terminating']
const MOVING_INSTANCES = ['pending', 'starting', 'stopping', 'terminating', 'rebooting']
const OPEN_ACTIONS = ['queued', 'running']
const OPEN_DELIVERIES = ['pending', 'in_flight', 'waiting', 'parked']
const LEASES_OVER = ['TERMINATED', 'ERROR']

export interface Progress {
  readonly openOrders: () => number
  readonly openDeliveries: () => number
  /** Events seen so far. */
  readonly events: () => number
  /** What stood still for a minute while all kinds of processes were there, with the proof. */
  readonly stuck: ReadonlyMap<string, string>
  /** Resolves at the first event that flows brought about after `since_ms`. */
  after(since_ms: number): Promise<void>
  /** What is not at rest, by kind; null: it cannot be told now. */
  open(): Promise<Record<string, number> | null>
  /** All instances, and the orders that run; null: it cannot be told now. */
  bound(): Promise<{ readonly instances: readonly Json[]; readonly running: readonly Json[] } | null>
  stop(): Promise<void>
}

/** `actions`: addresses of actions that were accepted; those that are over are taken out. */
export function watchProgress(
  client: Client,
  actions: Set<string>,
  healthy: () => boolean,
  signal: AbortSignal,
): Progress {
  const stopping = new AbortController()
  const over = AbortSignal.any([signal, stopping.signal])
  const reader = openReader(client, over)
  const { list, listStates } = reader
  const waiting = new Set<{ since_ms: number; resolve: () => void }>()
  const stuck = new Map<string, string>()
  const still = new Map<string, { stand: string; since_ms: number }>()
  let healthy_ms = 0
  let open_orders = 0
  let open_deliveries = 0
  let events = 0

  const pause = (ms: number) => delay(ms, undefined, { signal: over }).catch(() => {})

  async function readActions(): Promise<OpenAction[] | null> {
    const open: OpenAction[] = []
    for (const href of actions) {
      const page = await reader.page(href)
      if (!page) return null
      const action = object(page.action)
      const { state, instance_id } = action
      if (!OPEN_ACTIONS.includes(String(state))) actions.delete(href)
      else {
        const found = instance_id === undefined ? null : await reader.page(`/api/instances/${instance_id}`)
        open.push({ action, instance: found && object(found.instance) })
      }
    }
    return open
  }

  async function readOpen(): Promise<Found | null> {
    const orders = await listStates('/api/launch-orders', 'launch_orders', OPEN_ORDERS)
    open_orders = orders?.length ?? open_orders
    const instances = await listStates('/api/instances', 'instances', MOVING_INSTANCES)
    const leases = await list('/api/leases', 'leases')
    const deliveries = await listStates('/api/deliveries', 'deliveries', OPEN_DELIVERIES)
    const acted = await readActions()
    if (!orders || !instances || !leases || !deliveries || !acted) return null
    const open_leases = leases.filter((row) => !LEASES_OVER.includes(String(row.state)))
    return { orders, instances, leases: open_leases, deliveries, actions: acted }
  }

  async function sample(): Promise<void> {
    const found = await readOpen()
    if (!found) return
    open_deliveries = found.deliveries.length
    const open = [...standOf(found)]
    const known = new Set(open.map(({ subject }) => subject))
    for (const subject of still.keys()) if (!known.has(subject)) still.delete(subject)
    for (const { subject, stand, excused } of open) {
      const before = still.get(subject)
      if (excused || before?.stand !== stand) still.set(subject, { stand, since_ms: healthy_ms })
      else if (healthy_ms - before.since_ms > STUCK_AFTER_MS && !stuck.has(subject))
        stuck.set(subject, `stood still for a minute until ${new Date().toISOString()} at ${stand}`)
    }
  }

  const follow = async (): Promise<void> => {
    for (let cursor = ''; !over.aborted; ) {
      const page = await client.look(`/api/events?limit=${PAGE_ROWS}&after=${encodeURIComponent(cursor)}`, 5_000)
      const rows = (page?.events ?? []) as Json[]
      events += rows.length
      for (const row of rows) {
        if (object(row.cause).actor !== undefined) continue
        const at_ms = Date.parse(String(row.at))
        for (const one of waiting) {
          if (at_ms <= one.since_ms) continue
          waiting.delete(one)
          one.resolve()
        }
      }
      if (typeof page?.next === 'string') cursor = page.next
      if (rows.length < PAGE_ROWS) await pause(FOLLOW_MS)
    }
  }
  const tick = async (): Promise<void> => {
    for (let last = performance.now(); !over.aborted; ) {
      await pause(TICK_MS)
      const now = performance.now()
      if (healthy()) healthy_ms += now - last
      last = now
    }
  }
  const watch = async (): Promise<void> => {
    while (!over.aborted) {
      await sample()
      await pause(SAMPLE_MS)
    }
  }
  const beside = [follow(), tick(), watch()]

  return {
    openOrders: () => open_orders,
    openDeliveries: () => open_deliveries,
    events: () => events,
    stuck,
    after: (since_ms) => new Promise((resolve) => waiting.add({ since_ms, resolve })),
    async open() {
      const found = await readOpen()
      if (!found) return null
      const leases = found.leases.filter((row) => Date.parse(String(row.end_at)) < Date.now() + STUCK_AFTER_MS)
      const counts = Object.entries({ ...found, leases }).map(([kind, rows]) => [kind, rows.length])
      return Object.fromEntries(counts.filter(([, count]) => count))
    },
    async bound() {
      const instances = await list('/api/instances', 'instances')
      const running = await list('/api/launch-orders', 'launch_orders', { state: 'running' })
      return instances && running && { instances, running }
    },
    async stop() {
      stopping.abort()
      await Promise.all(beside)
    },
  }
}
