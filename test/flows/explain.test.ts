/**
 * Why things are as they are: `explain` tells the whole life of a lease and of an order and answers for every past
 * moment of it; and each event of a project that has seen trouble leads back to a request, or to what was observed.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  getLease,
  instancesOf,
  submitLease,
  submitOrder,
  untilInstance,
  untilLease,
  untilOrder,
} from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'

interface Cause {
  readonly actor?: { readonly user_id: string; readonly request_id: string }
  readonly rule?: string
  readonly reason: string
  readonly evidence?: { readonly observed_at?: string }
  readonly event?: string
}
interface ShownEvent {
  readonly id: string
  readonly type: string
  readonly resource_type: string
  readonly resource_id: string
  readonly sequence: number
  readonly from: string | null
  readonly to: string | null
  readonly at: string
  readonly cause: Cause
}
interface Origin {
  readonly kind: string
  readonly event_id: string
  readonly sentence: string
}
interface Explanation {
  readonly sentence: string
  readonly state: string
  readonly state_since: string
  readonly wish: string | null
  readonly waits_for: { readonly what: string; readonly until: string | null } | null
  readonly chain: readonly ShownEvent[]
  readonly origin: Origin
  readonly history: readonly {
    readonly event: ShownEvent
    readonly because: readonly string[]
    readonly origin: Origin
  }[]
  readonly causes: readonly ShownEvent[]
}

const GENEROUS_MS = 45_000
/** Clocks of one machine, read by two programs. */
const CLOCKS_APART_MS = 50
const PATHS = { order: 'launch-orders', lease: 'leases', instance: 'instances', deployment: 'deployments' } as const
type Noun = keyof typeof PATHS

let h: Harness
beforeAll(async () => {
  h = await startHarness()
})
afterAll(() => h.close())

/** All events of a project, oldest first, once nothing of it is waited for any more. */
async function eventsOf({ api }: Project): Promise<ShownEvent[]> {
  const events: ShownEvent[] = []
  for (let cursor = ''; ; ) {
    const { body } = await api.get<{ events: ShownEvent[]; next: string }>(`/api/events?limit=100&after=${cursor}`)
    if (!body.events.length) return events
    events.push(...body.events)
    cursor = body.next
  }
}

/** Waits until the project's events have this one among them: they are shown a moment after they happened. */
const eventsWith = (project: Project, id: string, to: string) =>
  waitFor(
    async () => {
      const events = await eventsOf(project)
      return events.some((event) => event.resource_id === id && event.to === to) && events
    },
    { what: `${id} to be told as ${to}`, timeout_ms: GENEROUS_MS, interval_ms: 100 },
  )

const explain = async (project: Project, noun: Noun, id: string, at?: string): Promise<Explanation> => {
  const path = `/api/${PATHS[noun]}/${id}/explain${at === undefined ? '' : `?at=${at}`}`
  return (await project.api.get<{ explanation: Explanation }>(path)).body.explanation
}

const statesOf = (events: readonly ShownEvent[]): string[] =>
  events.map((event) => event.to ?? '').filter((state, i, all) => state !== all[i - 1])

const chainOf = (event: ShownEvent, by_id: ReadonlyMap<string, ShownEvent>): ShownEvent[] => {
  const chain = [event]
  for (let { cause } = event; cause.event !== undefined; ) {
    const next = by_id.get(cause.event)
    if (!next) throw new Error(`${event.type} of ${event.resource_id} names ${cause.event}, which is not there`)
    if (chain.includes(next)) throw new Error(`${event.type} of ${event.resource_id} is its own cause`)
    chain.push(next)
    cause = next.cause
  }
  return chain
}

/**
 * `explain` says now what the events say, all of them, and at each moment between two of them what was true then,
 * with nothing of what came later.
 */
async function judgeExplained(project: Project, noun: Noun, id: string, events: readonly ShownEvent[]) {
  const own = events.filter((event) => event.resource_id === id)
  const now = await explain(project, noun, id)
  expect(now.history.map(({ event }) => event.id)).toEqual(own.map((event) => event.id).toReversed())
  expect(now.state).toBe(own.at(-1)!.to)
  expect(now.sentence).toContain(now.state)
  const by_id = new Map(events.map((event) => [event.id, event]))
  for (const { event, because, origin } of now.history) {
    const chain = chainOf(by_id.get(event.id)!, by_id)
    expect(because).toEqual(chain.slice(1).map((cause) => cause.id))
    expect(origin.event_id).toBe(chain.at(-1)!.id)
    expect(['request', 'observation']).toContain(origin.kind)
  }
  let looked_back = 0
  for (const [i, event] of own.entries()) {
    const [from_ms, until_ms] = [Date.parse(event.at) + 1, Date.parse(own[i + 1]?.at ?? now.chain[0]!.at)]
    if (i < own.length - 1 && from_ms >= until_ms) continue // two in one millisecond: no moment lies between
    const then = await explain(project, noun, id, new Date(from_ms).toISOString())
    expect(then.state, `${event.type} at ${event.at}`).toBe(event.to)
    expect(then.chain[0]!.id).toBe(event.id)
    expect(then.history.map((entry) => entry.event.id)).toEqual(
      own
        .slice(0, i + 1)
        .map((e) => e.id)
        .toReversed(),
    )
    looked_back++
  }
  expect(looked_back).toBeGreaterThan(own.length / 2)
  const before = new Date(Date.parse(own[0]!.at) - 1_000).toISOString()
  await project.api.get(`/api/${PATHS[noun]}/${id}/explain?at=${before}`, { expect: 404 })
  const later = new Date(Date.now() + 3_600_000).toISOString()
  await project.api.get(`/api/${PATHS[noun]}/${id}/explain?at=${later}`, { expect: 400 })
  return now
}

describe.concurrent('explain', () => {
  test('tells the whole life of a lease and of its order, and leads both back to the request', async () => {
    const project = await h.project()
    await h.cloud(project, { configuration: { boot_latency_ms: 600 } })
    const { id } = await submitLease(project, {
      start_in_ms: 1_500,
      before_end_in_ms: 14_000,
      end_in_ms: 16_000,
      order: { count: 2 },
    })
    const pending = await explain(project, 'lease', id)
    expect(pending).toMatchObject({ state: 'PENDING', waits_for: { what: 'its start' } })
    expect(Date.parse(pending.waits_for!.until!)).toBeGreaterThan(Date.now() - 1_000)
    await untilLease(project.api, id, ['TERMINATED'])
    const order_id = (await getLease(project.api, id)).order_id!
    const events = await eventsWith(project, id, 'TERMINATED')
    const own = (resource_id: string) => events.filter((event) => event.resource_id === resource_id)

    const lease = await judgeExplained(project, 'lease', id, events)
    expect(statesOf(own(id))).toEqual(['PENDING', 'ACTIVE', 'TERMINATING', 'TERMINATED'])
    expect(lease.waits_for).toBeNull()
    const order = await judgeExplained(project, 'order', order_id, events)
    const states = statesOf(own(order_id))
    expect([states[0], ...states.slice(-3)]).toEqual(['queued', 'running', 'terminating', 'terminated'])
    for (const { id: instance_id } of await instancesOf(project.api, order_id)) {
      await judgeExplained(project, 'instance', instance_id, events)
      expect(statesOf(own(instance_id))).toEqual(['pending', 'starting', 'running', 'terminating', 'terminated'])
    }

    // What a clock alone brought about goes back to the request that set it.
    const by_id = new Map(events.map((event) => [event.id, event]))
    const created = own(id)[0]!
    expect(created.cause.actor).toMatchObject({ user_id: expect.any(String), request_id: expect.any(String) })
    const started = own(id).find((event) => event.type === 'lease.started')!
    expect(chainOf(started, by_id)).toEqual([started, created])
    for (const type of ['lease.before_end', 'lease.ending'])
      expect(chainOf(own(id).find((event) => event.type === type)!, by_id).at(-1)).toBe(created)
    expect(chainOf(own(order_id)[0]!, by_id)).toEqual([own(order_id)[0], started, created])
    const wished = own(order_id).find((event) => event.type === 'order.wish_changed')!
    expect(chainOf(wished, by_id).at(-1)).toBe(created)
    expect(order.origin).toMatchObject({ sentence: expect.any(String) })
  })

  test('tells what an order waits for, at every moment, and why it was cancelled', async () => {
    const project = await h.project()
    const { name } = await h.cloud(project, { configuration: { boot_latency_ms: 600_000 } })
    await h.operator.patch(`/api/clouds/${name}`, { enabled: false })
    const { id } = await submitOrder(project, { count: 1, clouds: [name] })
    await untilOrder(project.api, id, ['held'])
    await h.operator.patch(`/api/clouds/${name}`, { enabled: true })
    await untilOrder(project.api, id, ['settling', 'launching'])
    const answer = await project.api.delete(`/api/launch-orders/${id}`)
    await untilOrder(project.api, id, ['cancelled'])
    const events = await eventsWith(project, id, 'cancelled')
    const now = await judgeExplained(project, 'order', id, events)
    expect(now).toMatchObject({ wish: 'cancel', waits_for: null })
    const held = now.history.find(({ event }) => event.to === 'held')!.event
    const then = await explain(project, 'order', id, new Date(Date.parse(held.at) + 1).toISOString())
    expect(then).toMatchObject({ state: 'held', waits_for: { code: 'cloud_disabled' } })
    const wished = now.history.find(({ event }) => event.type === 'order.wish_changed')!.event
    const request_id = answer.headers.get('x-request-id')
    if (request_id !== null) expect(wished.cause.actor!.request_id).toBe(request_id)
    const by_id = new Map(events.map((event) => [event.id, event]))
    const end = events.findLast((event) => event.resource_id === id)!
    expect(chainOf(end, by_id)).toContainEqual(expect.objectContaining({ id: wished.id }))
  })
})

describe.concurrent('every event of a project that has seen trouble', () => {
  test('leads back to a request or to an observation with its time', { timeout: 120_000 }, async () => {
    const project = await h.project()
    const settings = { settle_ms: 1_000 }
    const small = await h.cloud(project, { configuration: { capacity: 1 } })
    const good = await h.cloud(project)
    const deaf = await h.cloud(project, { configuration: { boot_latency_ms: 5_000 }, settings })
    const slow = await h.cloud(project, { configuration: { boot_latency_ms: 600_000 } })
    const flaky = await h.cloud(project)
    const create = { match: { verb: 'create' as const }, times: 1 }
    await deaf.control.fault({ ...create, effect: { kind: 'late', after_ms: 4_500 } })
    await flaky.control.fault({ ...create, effect: { kind: 'boot', outcome: 'fails' } })
    const order = async (clouds: readonly { name: string }[], count: number, more = {}) =>
      (await submitOrder(project, { clouds: clouds.map(({ name }) => name), count, ...more })).id

    const fails_over = await order([small, good], 3)
    const compensated = await order([small], 2)
    const surplus = await order([deaf], 1)
    const cancelled = await order([slow], 1)
    const replaced = await order([flaky], 1)
    const lease = await submitLease(project, {
      start_in_ms: 1_000,
      before_end_in_ms: 3_000,
      end_in_ms: 4_000,
      order: { count: 1, clouds: [good.name] },
    })
    await project.api.patch(`/api/leases/${lease.id}`, { end_at: new Date(Date.now() + 5_000).toISOString() })
    await untilOrder(project.api, fails_over, ['running'])
    await untilOrder(project.api, compensated, ['failed'])
    await untilOrder(project.api, cancelled, ['settling'])
    await project.api.delete(`/api/launch-orders/${cancelled}`)
    await untilOrder(project.api, cancelled, ['cancelled'])
    await untilOrder(project.api, replaced, ['running'])
    const [one] = await instancesOf(project.api, fails_over)
    await project.api.post(`/api/instances/${one!.id}/actions`, { action: 'terminate' })
    await untilInstance(project.api, one!.id, ['terminated'])
    await untilOrder(project.api, surplus, ['running'])
    await waitFor(
      async () => {
        const machines = await deaf.control.machines()
        return machines.length === 2 && machines.filter((machine) => machine.gone_at === null).length === 1
      },
      { what: 'the surplus machine to be gone', timeout_ms: GENEROUS_MS, interval_ms: 100 },
    )
    await untilLease(project.api, lease.id, ['TERMINATED'])
    await project.api.delete(`/api/launch-orders/${surplus}`)
    await untilOrder(project.api, surplus, ['terminated'])
    await eventsWith(project, surplus, 'terminated')
    const events = await eventsWith(project, lease.id, 'TERMINATED')

    const types = new Set(events.map((event) => event.type))
    for (const type of ['instance.surplus_found', 'lease.updated', 'lease.before_end', 'instance.wish_changed'])
      expect(types).toContain(type)
    const by_id = new Map(events.map((event) => [event.id, event]))
    const roots = new Set<string>()
    for (const event of events) {
      const chain = chainOf(event, by_id)
      const { cause, at, type } = chain.at(-1)!
      const said = `${event.type} to ${event.to} (${event.cause.rule ?? 'no rule'}) goes back to ${type}: ${JSON.stringify(cause)}`
      expect(event.cause.reason, said).not.toBe('')
      if (cause.actor) {
        expect(cause.actor.request_id, said).toMatch(/^req_/)
        roots.add('request')
      } else {
        expect(cause.evidence?.observed_at, said).toEqual(expect.any(String))
        expect(Date.parse(cause.evidence!.observed_at!), said).toBeLessThanOrEqual(Date.parse(at) + CLOCKS_APART_MS)
        roots.add('observation')
      }
      // No cause comes after what it brought about.
      for (const [i, link] of chain.entries())
        if (i > 0) expect(Date.parse(link.at), said).toBeLessThanOrEqual(Date.parse(chain[i - 1]!.at) + 1)
    }
    expect(roots).toContain('request')
    for (const [noun, id] of [
      ['order', fails_over],
      ['order', compensated],
      ['order', surplus],
      ['order', cancelled],
      ['order', replaced],
      ['lease', lease.id],
    ] as const)
      await judgeExplained(project, noun, id, events)
    const sequences = Map.groupBy(events, (event) => event.resource_id)
    for (const own of sequences.values()) expect(own.map((e) => e.sequence)).toEqual(own.map((_, i) => i + 1))
  })
})
