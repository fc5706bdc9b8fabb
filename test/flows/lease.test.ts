/**
 * Leases, end to end: each act at its moment and never before, by the record's clock, the cloud's and the receiver's;
 * moved, extended, shortened, ended early; and a year of them in a moment.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { shiftClock } from '../../store/housekeeping.ts'
import {
  getLease,
  getOrder,
  type ShownLease,
  type ShownOrder,
  submitLease,
  untilLease,
  untilOrder,
} from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

let h: Harness
beforeAll(async () => {
  h = await startHarness()
})
afterAll(() => h.close())

const GENEROUS_MS = 20_000
const DAY_MS = 24 * 3_600_000

interface Lease extends ShownLease {
  readonly start_at: string
  readonly end_at: string
  readonly before_end_at: string | null
  readonly wish: string
  readonly sequence: number
  readonly events: readonly {
    readonly type: string
    readonly time: string
    readonly status: string
    readonly acted_at: string | null
    readonly late_ms: number | null
  }[]
}
interface LeaseEvent {
  readonly type: string
  readonly at: string
  readonly to: string
  readonly cause: { readonly rule?: string; readonly actor?: unknown }
}

const alive = (machines: readonly { gone_at: number | null }[]) =>
  machines.filter((machine) => machine.gone_at === null)
const inMs = (ms: number): string => new Date(Date.now() + ms).toISOString()

const change = async (project: Project, id: string, changes: Record<string, unknown>) =>
  (await project.api.patch<{ lease: Lease }>(`/api/leases/${id}`, changes)).body.lease

const leaseOf = async (project: Project, id: string) => (await getLease(project.api, id)) as Lease

/** Events show once they are stamped: all that the lease has had until now are waited for. */
function eventsOf(project: Project, lease_id: string): Promise<LeaseEvent[]> {
  const path = `/api/events?resource_type=lease&resource_id=${lease_id}&limit=100`
  return waitFor(
    async () => {
      const { sequence } = await leaseOf(project, lease_id)
      const { events } = (await project.api.get<{ events: LeaseEvent[] }>(path)).body
      return events.length >= sequence && events.toReversed()
    },
    { what: `the events of lease ${lease_id} to show`, timeout_ms: 20_000 },
  ) as Promise<LeaseEvent[]>
}

const typesOf = async (project: Project, lease_id: string): Promise<string[]> =>
  (await eventsOf(project, lease_id)).map((event) => event.type)

async function eventOf(project: Project, lease_id: string, type: string): Promise<LeaseEvent & { at_ms: number }> {
  const found = (await eventsOf(project, lease_id)).find((event) => event.type === type)
  if (!found) throw new Error(`lease ${lease_id} has no event ${type}`)
  return { ...found, at_ms: Date.parse(found.at) }
}

/** Each act on record: not before its moment, and settled within a generous time of it. */
function judgeActs(lease: Lease): void {
  for (const { type, time, acted_at, late_ms, status } of lease.events) {
    expect({ type, status }).toEqual({ type, status: 'DONE' })
    const late = Date.parse(acted_at!) - Date.parse(time)
    expect(late, type).toBeGreaterThanOrEqual(0)
    expect(late, type).toBeLessThan(GENEROUS_MS)
    expect(late_ms, type).toBeGreaterThanOrEqual(0)
  }
}

/** When the receiver got the first event of this type, by its own clock. */
const receivedAt = (receiver: Receiver, type: string): number => {
  const entry = receiver.ledger.find((received) => received.type === type)
  if (!entry) throw new Error(`the receiver got no ${type}`)
  return performance.timeOrigin + entry.at_ms
}

describe.concurrent('a lease with machines', () => {
  test('starts, gives notice, ends, each on time and never early by three clocks', async () => {
    const project = await h.project()
    const { control } = await h.cloud(project)
    const receiver = await startReceiver()
    try {
      await project.api.post('/api/hooks', { uri: receiver.uri })
      const { id } = await submitLease(project, {
        start_in_ms: 2_000,
        before_end_in_ms: 4_500,
        end_in_ms: 6_000,
        order: { count: 2 },
      })
      const asked = await leaseOf(project, id)
      const [start, notice, end] = [asked.start_at, asked.before_end_at!, asked.end_at].map(Date.parse) as [
        number,
        number,
        number,
      ]
      await untilLease(project.api, id, ['ACTIVE'])
      const { order_id } = await leaseOf(project, id)
      await untilOrder(project.api, order_id!, ['running'])
      expect(alive(await control.machines())).toHaveLength(2)
      await untilLease(project.api, id, ['TERMINATED'])
      const lease = await leaseOf(project, id)
      const machines = await control.machines()
      // The record's clock.
      judgeActs(lease)
      expect(lease.events.map((event) => event.type)).toEqual(['start_lease', 'before_end_lease', 'end_lease'])
      expect(await typesOf(project, id)).toEqual([
        'lease.created',
        'lease.started',
        'lease.before_end',
        'lease.ending',
        'lease.ended',
      ])
      expect((await eventOf(project, id, 'lease.started')).at_ms).toBeGreaterThanOrEqual(start)
      expect((await eventOf(project, id, 'lease.before_end')).at_ms).toBeGreaterThanOrEqual(notice)
      expect((await eventOf(project, id, 'lease.ending')).at_ms).toBeGreaterThanOrEqual(end)
      // The cloud's: nothing made before the start, nothing asked to go before the end.
      const requests = (await control.ledger()).filter((line) => line.kind === 'request')
      const ofVerb = (verb: string) => requests.filter((line) => line.verb === verb).map((line) => line.at)
      expect(Math.min(...ofVerb('create'))).toBeGreaterThanOrEqual(start)
      expect(Math.min(...ofVerb('delete'))).toBeGreaterThanOrEqual(end)
      expect(alive(machines)).toHaveLength(0)
      expect(Math.max(...machines.map((machine) => machine.gone_at!))).toBeLessThan(end + GENEROUS_MS)
      // The receiver's.
      await waitFor(() => receiver.ledger.some((received) => received.type === 'lease.ended'), {
        what: 'the last event of the lease',
        timeout_ms: GENEROUS_MS,
      })
      expect(receivedAt(receiver, 'lease.started')).toBeGreaterThanOrEqual(start)
      expect(receivedAt(receiver, 'lease.before_end')).toBeGreaterThanOrEqual(notice)
      expect(receivedAt(receiver, 'lease.ending')).toBeGreaterThanOrEqual(end)
      expect(receiver.judge()).toMatchObject({ gaps: 0, inversions: 0 })
    } finally {
      await receiver.close()
    }
  })

  test('its end catches an order that has not settled: cancelled, and nothing of it stays', async () => {
    const project = await h.project()
    const { control } = await h.cloud(project, { configuration: { boot_latency_ms: 60_000 } })
    const { id } = await submitLease(project, { end_in_ms: 3_000, order: { count: 2 } })
    await untilLease(project.api, id, ['TERMINATED'])
    const lease = await leaseOf(project, id)
    judgeActs(lease)
    expect((await getOrder(project.api, lease.order_id!)).state).toBe('cancelled')
    expect(alive(await control.machines())).toHaveLength(0)
  })

  test('whose order cannot be met stays active without machines, says so in the order, and ends on time', async () => {
    const project = await h.project()
    const { control } = await h.cloud(project, { configuration: { capacity: 1 } })
    const { id } = await submitLease(project, { end_in_ms: 15_000, order: { count: 2 } })
    await untilLease(project.api, id, ['ACTIVE'])
    const { order_id } = await leaseOf(project, id)
    await untilOrder(project.api, order_id!, ['failed'])
    expect(alive(await control.machines())).toHaveLength(0)
    await untilLease(project.api, id, ['TERMINATED'])
    judgeActs(await leaseOf(project, id))
  })

  test('ended now while its machines run: they go now, and not twice', async () => {
    const project = await h.project()
    const { control } = await h.cloud(project)
    const { id } = await submitLease(project, { end_in_ms: DAY_MS, order: { count: 2 } })
    await untilLease(project.api, id, ['ACTIVE'])
    const { order_id } = await leaseOf(project, id)
    await untilOrder(project.api, order_id!, ['running'])
    await project.api.delete(`/api/leases/${id}`)
    await project.api.delete(`/api/leases/${id}`)
    await untilLease(project.api, id, ['TERMINATED'])
    expect((await getOrder(project.api, order_id!)).state).toBe('terminated')
    expect(alive(await control.machines())).toHaveLength(0)
    expect(await typesOf(project, id)).toEqual([
      'lease.created',
      'lease.started',
      'lease.wish_changed',
      'lease.ending',
      'lease.ended',
    ])
  })

  test('extended, its machines stay beyond the first end; shortened, they go at the new one', async () => {
    const project = await h.project()
    const { control } = await h.cloud(project)
    const { id, end_at: first_end } = (await submitLease(project, { end_in_ms: 3_000, order: { count: 1 } })) as Lease
    await change(project, id, { end_at: inMs(DAY_MS) })
    await untilLease(project.api, id, ['ACTIVE'])
    const { order_id } = await leaseOf(project, id)
    await untilOrder(project.api, order_id!, ['running'])
    await waitFor(() => Date.now() > Date.parse(first_end) + 1_000, { what: 'the first end', timeout_ms: 10_000 })
    expect((await leaseOf(project, id)).state).toBe('ACTIVE')
    const { end_at } = await change(project, id, { end_at: inMs(2_000) })
    await untilLease(project.api, id, ['TERMINATED'])
    const lease = await leaseOf(project, id)
    expect(lease.end_at).toBe(end_at)
    judgeActs(lease)
    const deletes = (await control.ledger()).filter((line) => line.kind === 'request' && line.verb === 'delete')
    expect(Math.min(...deletes.map((line) => line.at))).toBeGreaterThanOrEqual(Date.parse(end_at))
    expect(alive(await control.machines())).toHaveLength(0)
  })
})

describe.concurrent('a lease without machines', () => {
  test('starts and ends on time', async () => {
    const project = await h.project()
    const { id } = await submitLease(project, { start_in_ms: 1_000, end_in_ms: 2_500 })
    await untilLease(project.api, id, ['TERMINATED'])
    const lease = await leaseOf(project, id)
    judgeActs(lease)
    expect(lease.order_id).toBeNull()
  })

  test('ended before it started is over at once, and never starts', async () => {
    const project = await h.project()
    const { id } = await submitLease(project, { start_in_ms: 3_000, end_in_ms: DAY_MS })
    await project.api.delete(`/api/leases/${id}`)
    await untilLease(project.api, id, ['TERMINATED'])
    expect(await typesOf(project, id)).toEqual(['lease.created', 'lease.wish_changed', 'lease.ended'])
    expect((await leaseOf(project, id)).events.find((event) => event.type === 'start_lease')?.acted_at).toBeNull()
  })

  test('moved while it is pending starts at the new moment, later or sooner', async () => {
    const project = await h.project()
    const later = await submitLease(project, { start_in_ms: 1_500, end_in_ms: DAY_MS })
    const sooner = await submitLease(project, { start_in_ms: DAY_MS, end_in_ms: 2 * DAY_MS })
    const moved = [
      await change(project, later.id, { start_at: inMs(4_000) }),
      await change(project, sooner.id, { start_at: inMs(2_000) }),
    ]
    for (const { id, start_at } of moved) {
      await untilLease(project.api, id, ['ACTIVE'])
      const started = await eventOf(project, id, 'lease.started')
      expect(started.at_ms).toBeGreaterThanOrEqual(Date.parse(start_at))
      expect(started.at_ms).toBeLessThan(Date.parse(start_at) + GENEROUS_MS)
      await project.api.patch(`/api/leases/${id}`, { start_at: inMs(10_000) }, { expect: 409 })
      await project.api.delete(`/api/leases/${id}`)
    }
  })

  test('a notice that is moved comes at its new moment; one moved after it was given comes again', async () => {
    const project = await h.project()
    const { id } = await submitLease(project, { end_in_ms: DAY_MS, before_end_in_ms: DAY_MS / 2 })
    const notices = async () => (await typesOf(project, id)).filter((type) => type === 'lease.before_end').length
    const { before_end_at } = await change(project, id, { before_end_at: inMs(1_500) })
    await waitFor(async () => (await notices()) === 1, { what: 'the notice', timeout_ms: GENEROUS_MS })
    expect((await eventOf(project, id, 'lease.before_end')).at_ms).toBeGreaterThanOrEqual(Date.parse(before_end_at!))
    await change(project, id, { before_end_at: inMs(1_500) })
    await waitFor(async () => (await notices()) === 2, { what: 'the second notice', timeout_ms: GENEROUS_MS })
    await change(project, id, { before_end_at: null, end_at: inMs(1_000) })
    await untilLease(project.api, id, ['TERMINATED'])
    expect(await notices()).toBe(2)
  })

  test('a notice that was taken back is not given', async () => {
    const project = await h.project()
    const { id } = await submitLease(project, { end_in_ms: 3_000, before_end_in_ms: 2_000 })
    await change(project, id, { before_end_at: null })
    await untilLease(project.api, id, ['TERMINATED'])
    expect(await typesOf(project, id)).not.toContain('lease.before_end')
  })
})

describe('the clock of the record', () => {
  test('shifted, a lease of a year passes in a test, and none of its acts comes early', async () => {
    const project = await h.project()
    const { control } = await h.cloud(project)
    const { id } = await submitLease(project, {
      start_in_ms: 100 * DAY_MS,
      before_end_in_ms: 464 * DAY_MS,
      end_in_ms: 465 * DAY_MS,
      order: { count: 1 },
    })
    const shift = (days: number) => shiftClock(h.store, days * DAY_MS)
    await shift(99)
    expect((await leaseOf(project, id)).state).toBe('PENDING')
    await shift(1)
    await untilLease(project.api, id, ['ACTIVE'])
    const order = await untilOrder(project.api, (await leaseOf(project, id)).order_id!, ['running'])
    await shift(364)
    await waitFor(async () => (await typesOf(project, id)).includes('lease.before_end'), {
      what: 'the notice',
      timeout_ms: GENEROUS_MS,
    })
    expect((await leaseOf(project, id)).state).toBe('ACTIVE')
    expect(alive(await control.machines())).toHaveLength(1)
    await shift(1)
    await untilLease(project.api, id, ['TERMINATED'])
    judgeActs(await leaseOf(project, id))
    expect(((await getOrder(project.api, order.id)) as ShownOrder).state).toBe('terminated')
    expect(alive(await control.machines())).toHaveLength(0)
  })

  test('a lease whose whole time passed before it could start is missed: an error, told, and nothing is launched', async () => {
    const project = await h.project()
    const { control } = await h.cloud(project)
    const now_ms = Date.parse(
      (await leaseOf(project, (await submitLease(project, { end_in_ms: 900 * DAY_MS })).id)).start_at,
    )
    const at = (ms: number) => new Date(now_ms + ms).toISOString()
    const { id } = (
      await project.api.post<{ lease: Lease }>('/api/leases', {
        name: 'missed',
        start_at: at(DAY_MS),
        end_at: at(2 * DAY_MS),
        order: { count: 1, size: 'small', image: 'debian' },
      })
    ).body.lease
    await shiftClock(h.store, 3 * DAY_MS)
    await untilLease(project.api, id, ['ERROR'])
    expect(await typesOf(project, id)).toEqual(['lease.created', 'lease.missed'])
    expect(await control.machines()).toEqual([])
  })
})
