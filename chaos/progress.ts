/**
 * Watches over HTTP what moves and what does not: the first progress after a kill, nouns that stand still without saying
 * why, and whether everything has come to rest.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Json, object } from './checker/shapes.ts'
import type { Client } from './client.ts'

const FOLLOW_MS = 100
const SAMPLE_MS = 4_000
const TICK_MS = 100
const STUCK_AFTER_MS = 60_000
const PAGE_ROWS = 100
const PAGE_TRIES = 50
const PAGE_TIMEOUT_MS = 5_000

const OPEN_ORDERS = ['queued', 'launching', 'settling', 'held', 'compensating', 'terminating']
const MOVING_INSTANCES = ['pending', 'starting', 'stopping', 'terminating', 'rebooting']
const OPEN_DELIVERIES = ['pending', 'in_flight', 'waiting', 'parked']
const LEASES_OVER = ['TERMINATED', 'ERROR']

/** Something that should move, and how it stands: as long as that stays the same it has made no progress. */
interface Open {
  readonly subject: string
  readonly stand: string
  /** A blocker with a name, or its moment has not come: it may stand still. */
  readonly excused: boolean
}

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
  /** Machines of instances that are not over, as `cloud/id`; null: it cannot be told now. */
  bound(): Promise<{ in_use: string[]; any: Set<string> } | null>
  stop(): Promise<void>
}

export function watchProgress(client: Client, healthy: () => boolean, signal: AbortSignal): Progress {
  const stopping = new AbortController()
  const over = AbortSignal.any([signal, stopping.signal])
  const waiting = new Set<{ since_ms: number; resolve: () => void }>()
  const stuck = new Map<string, string>()
  const still = new Map<string, { stand: string; since_ms: number }>()
  let healthy_ms = 0
  let open_orders = 0
  let open_deliveries = 0
  let events = 0

  const pause = (ms: number) => delay(ms, undefined, { signal: over }).catch(() => {})

  /** A page, asked for at one address and the other until it comes: a sample is not lost to a kill. */
  async function patiently(path: string): Promise<Json | null> {
    for (let tries = 1; tries <= PAGE_TRIES && !over.aborted; tries++) {
      const page = await client.look(path, PAGE_TIMEOUT_MS)
      if (page) return page
      await pause(FOLLOW_MS)
    }
    return null
  }
  /** All rows of a list; null: it was not answered whole. */
  async function list(path: string, field: string, query: Record<string, string> = {}): Promise<Json[] | null> {
    const rows: Json[] = []
    for (let cursor: string | null = null; ; ) {
      const search = new URLSearchParams({ ...query, limit: String(PAGE_ROWS), ...(cursor ? { cursor } : {}) })
      const page = await patiently(`${path}?${search}`)
      if (!page) return null
      rows.push(...(page[field] as Json[]))
      if (typeof page.next !== 'string') return rows
      cursor = page.next
    }
  }
  async function listStates(path: string, field: string, states: readonly string[]): Promise<Json[] | null> {
    const rows: Json[] = []
    for (const state of states) {
      const found = await list(path, field, { state })
      if (!found) return null
      rows.push(...found)
    }
    return rows
  }

  async function readOpen() {
    const orders = await listStates('/api/launch-orders', 'launch_orders', OPEN_ORDERS)
    open_orders = orders?.length ?? open_orders
    const instances = await listStates('/api/instances', 'instances', MOVING_INSTANCES)
    const leases = await list('/api/leases', 'leases')
    const deliveries = await listStates('/api/deliveries', 'deliveries', OPEN_DELIVERIES)
    if (!orders || !instances || !leases || !deliveries) return null
    return { orders, instances, leases: leases.filter((row) => !LEASES_OVER.includes(String(row.state))), deliveries }
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
      const { orders, instances, deliveries } = found
      const counts = Object.entries({ orders, instances, leases, deliveries }).map(([kind, rows]) => [
        kind,
        rows.length,
      ])
      return Object.fromEntries(counts.filter(([, count]) => count))
    },
    async bound() {
      const instances = await list('/api/instances', 'instances')
      if (!instances) return null
      const named = instances.filter(({ provider_id, state }) => provider_id && state !== 'terminated')
      const nameOf = ({ cloud, provider_id }: Json) => `${cloud}/${provider_id}`
      const used = named.filter(({ state }) => state !== 'failed' && state !== 'missing')
      return { in_use: used.map(nameOf), any: new Set(named.map(nameOf)) }
    },
    async stop() {
      stopping.abort()
      await Promise.all(beside)
    },
  }
}

interface Found {
  readonly orders: readonly Json[]
  readonly instances: readonly Json[]
  readonly leases: readonly Json[]
  readonly deliveries: readonly Json[]
}

/** What should move, each judged by the noun that moves it: an open order stands for its instances and its lease. */
function* standOf({ orders, instances, leases, deliveries }: Found): Generator<Open> {
  const open_orders = new Set(orders.map(({ id }) => id))
  for (const row of orders)
    yield {
      subject: `order ${row.id}`,
      stand: `${row.state} ${row.sequence} ${JSON.stringify(row.counts)}`,
      excused: isHeld(row.blocker),
    }
  for (const row of instances)
    yield {
      subject: `instance ${row.id}`,
      stand: `${row.state} ${row.sequence}`,
      excused: open_orders.has(row.order_id) || isHeld(row.blocker),
    }
  const now = Date.now()
  const due = (moment: unknown): boolean => typeof moment === 'string' && Date.parse(moment) < now
  for (const row of leases) {
    const moment =
      row.state === 'PENDING' ? row.start_at : row.state === 'ACTIVE' && row.wish !== 'end' ? row.end_at : null
    yield {
      subject: `lease ${row.id}`,
      stand: `${row.state} ${row.sequence}`,
      excused: (moment !== null && !due(moment)) || open_orders.has(row.order_id) || isHeld(row.blocker),
    }
  }
  // A hook's deliveries are a queue: what is due longest is what must move, and only the first of a resource can.
  const heads = new Map<string, Json>()
  for (const row of deliveries) {
    const place = `${row.hook_id} ${row.resource_type} ${row.resource_id}`
    const head = heads.get(place)
    if (!head || Number(row.sequence) < Number(head.sequence)) heads.set(place, row)
  }
  const oldest = new Map<unknown, Json>()
  for (const row of heads.values()) {
    if (row.state === 'parked' || (row.state === 'waiting' && !due(row.next_attempt_at))) continue
    const before = oldest.get(row.hook_id)
    if (!before || Number(row.id) < Number(before.id)) oldest.set(row.hook_id, row)
  }
  for (const [hook_id, row] of oldest)
    yield { subject: `hook ${hook_id}`, stand: `delivery ${row.id} ${row.state} ${row.sends}`, excused: false }
}

/** A blocker with a name and a next try that is not long past. */
function isHeld(value: unknown): boolean {
  const { code, next_try_at } = object(value)
  if (!code) return false
  return typeof next_try_at !== 'string' || Date.parse(next_try_at) + STUCK_AFTER_MS > Date.now()
}
