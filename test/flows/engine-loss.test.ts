/**
 * The engine loses everything: its database is deleted under open leases and orders, and it is started again, empty. The
 * service is not told. What was promised is kept from the record.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ScheduleOverlapPolicy } from '@temporalio/client'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { HOUSEKEEPING } from '../../domain/workflow-ids.ts'
import { PortBook } from '../../embedded/ports.ts'
import type { Room } from '../../embedded/processes.ts'
import { startTemporal, type Temporal } from '../../embedded/temporal.ts'
import { getLease, type ShownLease, type ShownOrder, untilLease, untilOrder } from '../support/flow.ts'
import { waitFor } from '../support/wait-for.ts'
import { startWorld, type World } from '../support/world.ts'

const NAMESPACE = 'holdfast'
const LATE_MAX_MS = 30_000
const BOOT_LATENCY_MS = 8_000
const GENEROUS_MS = 60_000

/** A Temporal of this file alone, on a database file that can be deleted. */
interface Engine {
  readonly address: string
  stop(): Promise<void>
  /** Deletes its database; only while it is stopped. */
  lose(): Promise<void>
  /** On the same port. */
  start(): Promise<void>
  end(): Promise<void>
}

async function startEngine(): Promise<Engine> {
  const data = await mkdtemp(join(tmpdir(), 'engine-loss-'))
  const given_up = new AbortController()
  const room: Room = {
    run: join(data, 'run'),
    logs: join(data, 'logs'),
    signal: given_up.signal,
    log: (line) => process.stderr.write(`${line}\n`),
  }
  await mkdir(room.run)
  await mkdir(room.logs)
  const ports = new PortBook(join(room.run, 'ports.json'), {})
  const start = () =>
    startTemporal(room, data, ports, { namespace: NAMESPACE, headless: true }, () => {
      room.log('temporal had to be started again during the test')
    })
  let temporal: Temporal = await start()
  const { address } = temporal
  return {
    address,
    stop: () => temporal.stop(),
    lose: () => rm(join(data, 'temporal'), { recursive: true }),
    async start() {
      temporal = await start()
      expect(temporal.address).toBe(address)
    },
    async end() {
      given_up.abort()
      await temporal.stop()
      await rm(data, { recursive: true, force: true })
    },
  }
}

let engine: Engine
let world: World
beforeAll(async () => {
  engine = await startEngine()
  world = await startWorld({ temporal_address: engine.address, namespace: NAMESPACE })
})
afterAll(async () => {
  await world?.close()
  await engine?.end()
})

interface Lease extends ShownLease {
  readonly start_at: string
  readonly events: readonly (ShownLease['events'][number] & { readonly time: string; readonly acted_at: string })[]
}

const wait = (what: string) => ({ what, timeout_ms: GENEROUS_MS, interval_ms: 50 })

const times = <Made>(count: number, make: (number: number) => Promise<Made>): Promise<Made[]> =>
  Promise.all(Array.from({ length: count }, (_, number) => make(number)))

/** The engine knows of everything that was asked for. */
const untilHandedOver = () =>
  waitFor(async () => {
    const { rows } = await sql`select from outbox limit 1`.execute(world.h.store.db)
    return rows.length === 0
  }, wait('the outbox to be empty'))

test('its database deleted under 50 leases and 20 orders, every promise is kept, none early', async () => {
  const place = await world.place({ configuration: { boot_latency_ms: BOOT_LATENCY_MS } })
  const { project } = place
  const one = { order: { count: 1 } }
  const ending = [
    ...(await times(10, () => world.lease(project, { end_in_ms: 600_000 }))),
    ...(await times(6, () => world.lease(project, { end_in_ms: 600_000, ...one }))),
  ]
  await Promise.all(ending.map(({ id }) => untilLease(project.api, id, ['ACTIVE'])))
  const orders = await times(14, (number) => world.order(project, { count: 1 + (number % 2) }))
  const within_outage_ms = Date.now() + 8_000
  const starting_in = (ms: number) => ({ start_in_ms: ms, end_in_ms: ms + 45_000 })
  const others = [
    ...(await times(9, () => world.lease(project, starting_in(8_000)))),
    ...(await times(5, () => world.lease(project, { ...starting_in(8_000), ...one }))),
    ...(await times(5, () => world.lease(project, { ...starting_in(8_000), before_end_in_ms: 9_000 }))),
    ...(await times(5, () => world.lease(project, { ...starting_in(25_000), before_end_in_ms: 40_000, ...one }))),
    ...(await times(4, () => world.lease(project, { end_in_ms: 40_000, ...one }))),
  ]
  for (const { id } of ending) {
    const end_at = new Date(within_outage_ms).toISOString()
    expect(await world.change(project, 'extend', id, 'PATCH', `/api/leases/${id}`, { end_at })).toBeLessThan(300)
  }
  await untilHandedOver()

  await engine.stop()
  await engine.lose()
  others.push(
    ...(await times(3, () => world.lease(project, starting_in(2_000)))),
    ...(await times(3, () => world.lease(project, { ...starting_in(2_000), ...one }))),
  )
  orders.push(...(await times(6, () => world.order(project, { count: 1 }))))
  const [unwanted, unwanted_later] = [orders[0]!, orders.at(-1)!]
  for (const { id } of [unwanted, unwanted_later])
    expect(await world.change(project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`)).toBeLessThan(300)
  const last_moment_ms = Math.max(within_outage_ms, Date.now() + 2_000) + 1_000
  await waitFor(() => Date.now() > last_moment_ms, wait('the moments within the outage to pass'))
  await engine.start()
  const back_at_ms = Date.now()

  const leases = [...ending, ...others]
  expect([leases.length, orders.length]).toEqual([50, 20])
  const untilSettled = ({ id }: ShownOrder) => untilOrder(project.api, id, ['running', 'cancelled', 'terminated'])
  const settled = await Promise.all(orders.map(untilSettled))
  for (const order of settled) {
    if (order.id === unwanted.id || order.id === unwanted_later.id) expect(order.state).not.toBe('running')
    else expect(order).toMatchObject({ state: 'running', partial: false })
  }
  await world.untilQuiet()

  const ended = await Promise.all(leases.map(async ({ id }) => (await getLease(project.api, id)) as Lease))
  expect(new Set(ended.map(({ state }) => state))).toEqual(new Set(['TERMINATED']))
  for (const { time, acted_at, late_ms, status } of ended.flatMap(({ events }) => events)) {
    expect(status).toBe('DONE')
    expect(late_ms).toBeGreaterThanOrEqual(0)
    expect(Date.parse(acted_at)).toBeGreaterThanOrEqual(Date.parse(time))
    expect(Date.parse(acted_at)).toBeLessThanOrEqual(Math.max(Date.parse(time), back_at_ms) + LATE_MAX_MS)
  }

  const machines = await place.cloud.control.machines()
  const attempts = await world.h.store.db.selectFrom('launch_attempts').select(['order_id', 'provider_id']).execute()
  const order_ids = new Map(attempts.map(({ order_id, provider_id }) => [provider_id, order_id]))
  const leases_by_order = new Map(ended.map((lease) => [lease.order_id, lease]))
  for (const { id, created_at, gone_at } of machines) {
    const lease = leases_by_order.get(order_ids.get(id)!)
    if (!lease) continue
    expect(created_at).toBeGreaterThanOrEqual(Date.parse(lease.start_at))
    expect(gone_at).not.toBeNull()
  }
  const kept = settled.filter(({ state }) => state === 'running')
  expect(machines.filter(({ gone_at }) => gone_at === null)).toHaveLength(
    kept.reduce((sum, { counts }) => sum + counts.running!, 0),
  )
}, 300_000)

test('its database deleted and the service restarted as well, every promise is kept, none early', async () => {
  const place = await world.place({ configuration: { boot_latency_ms: 3_000 } })
  const { project } = place
  const one = { order: { count: 1 } }
  const running = await times(2, () => world.lease(project, { end_in_ms: 12_000, ...one }))
  await Promise.all(running.map(({ id }) => untilLease(project.api, id, ['ACTIVE'])))
  const orders = await times(4, () => world.order(project, { count: 2 }))
  const waiting = [
    ...(await times(3, () => world.lease(project, { start_in_ms: 4_000, end_in_ms: 30_000, ...one }))),
    ...(await times(3, () =>
      world.lease(project, { start_in_ms: 20_000, before_end_in_ms: 25_000, end_in_ms: 30_000 }),
    )),
  ]
  await untilHandedOver()

  await engine.stop()
  await engine.lose()
  await world.h.stopService()
  // The service comes back first and has to wait for the engine.
  await Promise.all([world.h.startService(), engine.start()])
  const back_at_ms = Date.now()

  for (const { id } of orders)
    expect(await untilOrder(project.api, id, ['running', 'failed'])).toMatchObject({ state: 'running' })
  await world.untilQuiet()
  for (const { id } of [...running, ...waiting]) {
    const lease = (await getLease(project.api, id)) as Lease
    expect(lease.state).toBe('TERMINATED')
    for (const { time, acted_at, status } of lease.events) {
      expect(status).toBe('DONE')
      expect(Date.parse(acted_at)).toBeGreaterThanOrEqual(Date.parse(time))
      expect(Date.parse(acted_at)).toBeLessThanOrEqual(Math.max(Date.parse(time), back_at_ms) + LATE_MAX_MS)
    }
  }
  const alive = (await place.cloud.control.machines()).filter(({ gone_at }) => gone_at === null)
  expect(alive).toHaveLength(orders.length * 2)
}, 200_000)

test('an order whose run an operator terminated is taken up again from the record', async () => {
  const { project } = await world.place({ configuration: { boot_latency_ms: BOOT_LATENCY_MS } })
  const { id } = await world.order(project, { count: 2 })
  await untilOrder(project.api, id, ['settling', 'launching'])
  await untilHandedOver()
  const run = world.h.temporal.workflow.getHandle(`order/${id}`)
  await run.terminate('ended by hand')
  const terminated = await run.describe()
  expect(terminated.status.name).toBe('TERMINATED')
  const overdue = await sql`
    update launch_orders set due_at = record_now() - interval '1 minute' where id = ${id} and due_at is not null`.execute(
    world.h.store.db,
  )
  expect(overdue.numAffectedRows).toBe(1n)
  await world.h.temporal.schedule.getHandle(HOUSEKEEPING).trigger(ScheduleOverlapPolicy.ALLOW_ALL)
  await waitFor(async () => (await run.describe()).runId !== terminated.runId, wait('another run'))
  expect(await untilOrder(project.api, id, ['running', 'failed'])).toMatchObject({ state: 'running', partial: false })
}, 90_000)

test('afterwards record, clouds and receivers agree', async () => {
  await world.judgeAll()
}, 120_000)
