/**
 * Leases of hosts: booked in the request and never twice, held until the machines are gone, however long the booking is
 * over; what waits says for whom, and the lateness stands with the one that overstays.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  getLease,
  instancesOf,
  type ShownLease,
  submitLease,
  submitOrder,
  untilLease,
  untilOrder,
} from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'

let h: Harness
beforeAll(async () => {
  h = await startHarness()
})
afterAll(() => h.close())

const at = (ms: number): string => new Date(Date.now() + ms).toISOString()

/** A cloud of its own with so many hosts on record. */
async function cloudWith(project: Project, hosts: number, configuration: Record<string, unknown> = {}) {
  const cloud = await h.cloud(project, {
    configuration: { presents_as: 'openstack', ...configuration },
    settings: { hosts: true },
  })
  for (let number = 1; number <= hosts; number++)
    await h.operator.post(`/api/clouds/${cloud.name}/hosts`, { name: `compute-${number}` })
  return cloud
}

const untilBlocked = (project: Project, id: string) =>
  waitFor(
    async () => {
      const lease = await getLease(project.api, id)
      return lease.blocker?.code === 'host_held' ? lease : null
    },
    { what: `lease ${id} to wait for a host`, timeout_ms: 20_000 },
  )

/** Asks for a lease that is refused with this status; returns why. */
async function refused(project: Project, expected: number, body: Record<string, unknown>): Promise<string> {
  const lease = { name: 'night', ...body }
  const answer = await project.api.post<{ error: { message: string } }>('/api/leases', lease, { expect: expected })
  return answer.body.error.message
}

async function moved(project: Project, id: string, change: Record<string, unknown>, expected: number): Promise<string> {
  const answer = await project.api.patch<{ error?: { message: string } }>(`/api/leases/${id}`, change, {
    expect: expected,
  })
  return answer.body.error?.message ?? ''
}

interface Explained {
  readonly explanation: {
    readonly sentence: string
    readonly history: readonly { event: { cause: { reason: string } } }[]
  }
}

test('a lease has its hosts for itself, and its machines go to them in turn', async () => {
  const project = await h.project()
  const cloud = await cloudWith(project, 3)
  const hosts = { cloud: cloud.name, count: 2 }
  const lease = await submitLease(project, { end_in_ms: 60_000, hosts, order: { count: 3 } })
  expect(lease.hosts).toEqual({ ...hosts, names: ['compute-1', 'compute-2'] })
  const { order_id } = await untilLease(project.api, lease.id, ['ACTIVE'])
  await untilOrder(project.api, order_id!, ['running'])
  const machines = await cloud.control.machines()
  expect(machines.map(({ host }) => host).toSorted()).toEqual(['compute-1', 'compute-1', 'compute-2'])
  const { body } = await h.operator.get<{ hosts: { name: string; leases: unknown[] }[] }>(
    `/api/clouds/${cloud.name}/hosts`,
  )
  expect(body.hosts.map(({ leases }) => leases.length)).toEqual([1, 1, 0])
  expect(body.hosts[0]!.leases).toMatchObject([{ lease_id: lease.id, project: project.name, held: true }])
  await project.api.delete(`/api/leases/${lease.id}`)
  await untilLease(project.api, lease.id, ['TERMINATED'])
  const after = await h.operator.get<{ hosts: { leases: unknown[] }[] }>(`/api/clouds/${cloud.name}/hosts`)
  expect(after.body.hosts.flatMap(({ leases }) => leases)).toEqual([])
  expect((await getLease(project.api, lease.id)).hosts).toEqual({ ...hosts, names: ['compute-1', 'compute-2'] })
})

describe('a lease that ends when another starts', () => {
  test('keeps its host until its machine is gone; the other says so, and the lateness is booked here', async () => {
    const project = await h.project()
    const cloud = await cloudWith(project, 1, { delete_latency_ms: 2_000 })
    const hosts = { cloud: cloud.name, count: 1 }
    const first = await submitLease(project, { end_in_ms: 4_000, hosts, order: {} })
    const { end_at } = (await project.api.get<{ lease: { end_at: string } }>(`/api/leases/${first.id}`)).body.lease
    const { body } = await project.api.post<{ lease: { id: string } }>('/api/leases', {
      name: 'morning',
      start_at: end_at,
      end_at: at(60_000),
      hosts,
      order: { size: 'small', image: 'debian' },
    })
    const second = body.lease.id
    const { order_id } = await untilLease(project.api, first.id, ['ACTIVE'])
    await untilOrder(project.api, order_id!, ['running'])
    const blocked = await untilBlocked(project, second)
    expect(blocked!.blocker!.reason).toBe(
      `host compute-1 is held by lease night (${first.id}), whose machines are not gone yet`,
    )
    const waiting = await project.api.get<Explained>(`/api/leases/${second}/explain`)
    expect(waiting.body.explanation.sentence).toContain('It waits for this: host compute-1 is held by lease night')

    const started = await untilLease(project.api, second, ['ACTIVE'])
    await untilOrder(project.api, started.order_id!, ['running'])
    const ended = await getLease(project.api, first.id)
    expect(ended.state).toBe('TERMINATED')
    expect(ended.overstayed_ms).toBeGreaterThan(0)
    const { late_ms } = started.events.find(({ type }) => type === 'start_lease')!
    expect(late_ms).toBeGreaterThanOrEqual(ended.overstayed_ms!)
    expect(started.blocker).toBeNull()
    const told = await project.api.get<Explained>(`/api/leases/${second}/explain`)
    const reasons = told.body.explanation.history.map(({ event }) => event.cause.reason)
    expect(reasons[0]).toBe(`started ${late_ms} ms after its moment, for ${blocked!.blocker!.reason}`)

    const [before, behind] = (await cloud.control.machines()).toSorted((a, b) => a.created_at - b.created_at)
    expect(behind!.created_at).toBeGreaterThanOrEqual(before!.gone_at!)
  })

  test('may be ended early: its host is free to be booked at once, and waited for', async () => {
    const project = await h.project()
    const cloud = await cloudWith(project, 1, { delete_latency_ms: 1_000 })
    const hosts = { cloud: cloud.name, count: 1 }
    const first = await submitLease(project, { end_in_ms: 600_000, hosts, order: {} })
    const { order_id } = await untilLease(project.api, first.id, ['ACTIVE'])
    await untilOrder(project.api, order_id!, ['running'])
    const taken = await refused(project, 409, { start_at: 'now', end_at: at(60_000), hosts })
    expect(taken).toMatch(/^1 hosts are asked for, and 0 are free from /)
    await project.api.delete(`/api/leases/${first.id}`)
    const second = await submitLease(project, { end_in_ms: 60_000, hosts })
    await untilBlocked(project, second.id)
    await untilLease(project.api, second.id, ['ACTIVE'])
    expect((await getLease(project.api, first.id)).state).toBe('TERMINATED')
  })

  test('may outstay the whole time of the other, which is then missed and says why', async () => {
    const [project, other] = [await h.project(), await h.project()]
    const cloud = await cloudWith(project, 1)
    await h.operator.put(`/api/clouds/${cloud.name}/grants/${other.name}`, undefined)
    const hosts = { cloud: cloud.name, count: 1 }
    const first = await submitLease(project, { end_in_ms: 600_000, hosts, order: {}, name: 'secret' })
    const { order_id } = await untilLease(project.api, first.id, ['ACTIVE'])
    await untilOrder(project.api, order_id!, ['running'])
    await cloud.control.fault({ match: { verb: 'delete' }, effect: { kind: 'down', how: '503' } })
    await project.api.delete(`/api/leases/${first.id}`)
    const second = await submitLease(other, { end_in_ms: 3_000, hosts })
    const blocked = await untilBlocked(other, second.id)
    // The other project is not named.
    expect(blocked!.blocker!.reason).toBe(
      "host compute-1 is held by another project's lease, whose machines are not gone yet",
    )
    await untilLease(other.api, second.id, ['ERROR'])
    const { body } = await other.api.get<Explained>(`/api/leases/${second.id}/explain`)
    expect(body.explanation.sentence).toContain('its whole time passed before it could start')
    expect(body.explanation.sentence).toContain("host compute-1 is held by another project's lease")
    expect(JSON.stringify(body)).not.toContain(first.id)
    await cloud.control.noFaults()
    await untilLease(project.api, first.id, ['TERMINATED'])
    expect((await getLease(project.api, first.id)).overstayed_ms).toBeGreaterThan(1_000)
  })
})

test('dead machines of an order that failed are on their host still: it is held until they are gone', async () => {
  const project = await h.project()
  const cloud = await cloudWith(project, 1, { delete_latency_ms: 1_500 })
  const hosts = { cloud: cloud.name, count: 1 }
  const first = await submitLease(project, { end_in_ms: 600_000, hosts, order: { count: 1 } })
  const { order_id } = await untilLease(project.api, first.id, ['ACTIVE'])
  await untilOrder(project.api, order_id!, ['running'])
  const [instance] = await instancesOf(project.api, order_id!)
  // While something starts its cloud is looked at every second.
  await cloud.control.change({ boot_latency_ms: 600_000 })
  const slow = await submitOrder(project, { count: 1, clouds: [cloud.name] })
  await cloud.control.fate(instance!.provider_id!, 'die')
  await untilOrder(project.api, order_id!, ['failed'])
  await project.api.delete(`/api/launch-orders/${slow.id}`)
  await untilOrder(project.api, slow.id, ['cancelled'])
  await cloud.control.change({ boot_latency_ms: 100 })
  await project.api.delete(`/api/leases/${first.id}`)
  const second = await submitLease(project, { end_in_ms: 60_000, hosts, order: { count: 1 } })
  const started = await untilLease(project.api, second.id, ['ACTIVE'])
  await untilOrder(project.api, started.order_id!, ['running'])
  const machines = await cloud.control.machines()
  const before = machines.find(({ id }) => id === instance!.provider_id)
  const behind = machines.find(({ gone_at }) => gone_at === null)
  expect(before!.gone_at).not.toBeNull()
  expect(behind!.created_at).toBeGreaterThanOrEqual(before!.gone_at!)
})

test('a create without an answer at a cloud that is away: its host is held until somebody could look', async () => {
  const project = await h.project()
  const cloud = await cloudWith(project, 1)
  const hosts = { cloud: cloud.name, count: 1 }
  await cloud.control.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'lost_reply' } })
  await cloud.control.fault({ match: { verb: ['list', 'get', 'delete'] }, effect: { kind: 'down', how: '503' } })
  const first = await submitLease(project, { end_in_ms: 600_000, hosts, order: { count: 1 } })
  const { order_id } = await untilLease(project.api, first.id, ['ACTIVE'])
  await waitFor(async () => (await cloud.control.machines()).length > 0, { what: 'the machine to be made' })
  await project.api.delete(`/api/leases/${first.id}`)
  const second = await submitLease(project, { end_in_ms: 600_000, hosts, order: { count: 1 } })
  await untilOrder(project.api, order_id!, ['cancelled'])
  const blocked = await waitFor(
    async () => {
      const lease = await getLease(project.api, first.id)
      return lease.blocker?.code === 'cloud_unseen' ? lease : null
    },
    { what: 'the first lease to say what it waits for', timeout_ms: 20_000 },
  )
  expect(blocked!.blocker!.reason).toContain(`nobody could look at cloud ${cloud.name}`)
  expect((await untilBlocked(project, second.id))!.state).toBe('PENDING')

  await cloud.control.noFaults()
  const started = await untilLease(project.api, second.id, ['ACTIVE'])
  await untilOrder(project.api, started.order_id!, ['running'])
  const machines = (await cloud.control.machines()).toSorted((a, b) => a.created_at - b.created_at)
  expect(machines.map(({ gone_at }) => gone_at !== null)).toEqual([true, false])
  expect(machines[1]!.created_at).toBeGreaterThanOrEqual(machines[0]!.gone_at!)
})

test('a machine is not released onto a host that the next lease is to have', async () => {
  const project = await h.project()
  const cloud = await cloudWith(project, 1)
  const hosts = { cloud: cloud.name, count: 1 }
  const lease = await submitLease(project, { end_in_ms: 600_000, hosts, order: { count: 1 } })
  const { order_id } = await untilLease(project.api, lease.id, ['ACTIVE'])
  await untilOrder(project.api, order_id!, ['running'])
  const [instance] = await instancesOf(project.api, order_id!)
  const answer = await project.api.post<{ error: { message: string } }>(
    `/api/instances/${instance!.id}/release`,
    undefined,
    { expect: 409 },
  )
  expect(answer.body.error.message).toContain(`is on a host of lease ${lease.id}`)
})

describe('a host is booked once', () => {
  test('however many ask for it at the same moment', async () => {
    const project = await h.project()
    const cloud = await cloudWith(project, 3)
    const hosts = { cloud: cloud.name, count: 1 }
    const [start_at, end_at] = [at(3_600_000), at(7_200_000)]
    const make = (lease: Record<string, unknown>) =>
      project.api.post<{ lease: ShownLease }>('/api/leases', { name: 'night', hosts, ...lease })
    const answers = await Promise.allSettled(Array.from({ length: 20 }, () => make({ start_at, end_at })))
    const names = answers.flatMap((answer) =>
      answer.status === 'fulfilled' ? answer.value.body.lease.hosts!.names : [],
    )
    expect(names.toSorted()).toEqual(['compute-1', 'compute-2', 'compute-3'])
    for (const answer of answers)
      if (answer.status === 'rejected') expect(String(answer.reason)).toContain('answered 409')
    // Requests for different times do not keep each other waiting.
    const hour = (n: number) => at(n * 3_600_000)
    const shifts = Array.from({ length: 20 }, (_, n) => make({ start_at: hour(10 + n), end_at: hour(11 + n) }))
    expect((await Promise.all(shifts)).map(({ status }) => status)).toEqual(Array(20).fill(202))
    // Touching ends are no overlap.
    await make({ start_at: end_at, end_at: at(9_000_000) })
  })

  test('and a lease is moved only where its hosts, or others, are free', async () => {
    const project = await h.project()
    const cloud = await cloudWith(project, 2)
    const hosts = { cloud: cloud.name, count: 1 }
    const hour = (n: number) => at(n * 3_600_000)
    const make = async (start_at: string, end_at: string) => {
      const { body } = await project.api.post<{ lease: { id: string; hosts: { names: string[] } } }>('/api/leases', {
        ...{ name: 'shift', start_at, end_at, hosts },
      })
      return body.lease
    }
    const [early, late, both] = [
      await make(hour(1), hour(2)),
      await make(hour(3), hour(4)),
      await make(hour(3), hour(4)),
    ]
    expect([early, late, both].map((lease) => lease.hosts.names)).toEqual([['compute-1'], ['compute-1'], ['compute-2']])
    // Nothing is free then.
    expect(await moved(project, early.id, { end_at: hour(3.5) }, 409)).toMatch(
      /^1 hosts are asked for, and 0 are free from /,
    )
    expect((await getLease(project.api, early.id)).hosts!.names).toEqual(['compute-1'])
    // Its own is taken, another is free.
    await project.api.delete(`/api/leases/${both.id}`)
    await moved(project, early.id, { end_at: hour(3.5) }, 200)
    expect((await getLease(project.api, early.id)).hosts!.names).toEqual(['compute-2'])

    // One that has started stays where it is.
    const now = await submitLease(project, { end_in_ms: 600_000, hosts })
    await untilLease(project.api, now.id, ['ACTIVE'])
    expect((await getLease(project.api, now.id)).hosts!.names).toEqual(['compute-1'])
    const refusal = await moved(project, now.id, { end_at: hour(3.5) }, 409)
    expect(refusal).toContain('compute-1 is booked by another one then')
    await moved(project, now.id, { end_at: hour(2) }, 200)
  })
})

test('what is asked for is checked: the cloud, the number, the clouds of its order', async () => {
  const [project, other] = [await h.project(), await h.project()]
  const cloud = await cloudWith(project, 1)
  const second = await cloudWith(project, 0)
  const foreign = await cloudWith(other, 1)
  const times = { start_at: 'now', end_at: at(60_000) }
  const order = { size: 'small', image: 'debian' }
  const cases: [Record<string, unknown>, string][] = [
    [{ hosts: { cloud: foreign.name, count: 1 } }, 'hosts.cloud'],
    [{ hosts: { cloud: 'nowhere', count: 1 } }, 'hosts.cloud'],
    [{ hosts: { cloud: cloud.name, count: 0 } }, 'hosts.count'],
    [{ hosts: { cloud: cloud.name, count: 1_000 } }, 'hosts.count'],
    [{ hosts: { cloud: cloud.name, names: ['compute-1'] } }, 'hosts'],
    [{ hosts: { cloud: cloud.name }, order: { ...order, clouds: [cloud.name, second.name] } }, 'order.clouds'],
  ]
  for (const [fields, path] of cases) {
    expect(await refused(project, 400, { ...times, ...fields })).toContain(`body.${path}`)
  }
  await refused(project, 409, { ...times, hosts: { cloud: second.name } })
})
