/**
 * Two clients, or a client and the service, want different things at the same moment: whichever comes first, the end is
 * one of those promised, the events tell which it was, and nothing is left over. The order of the two is shifted from
 * round to round.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  getLease,
  instancesOf,
  SETTLE_TIMEOUT_MS,
  type ShownLease,
  type ShownOrder,
  untilInstance,
  untilLease,
  untilOrder,
} from '../support/flow.ts'
import type { Project } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

interface ShownEvent {
  readonly id: string
  readonly type: string
  readonly from: string | null
  readonly to: string | null
  readonly at: string
  readonly resource_id: string
  readonly cause: { readonly actor?: unknown; readonly rule?: string; readonly event?: string }
  readonly snapshot: Readonly<Record<string, unknown>>
}
type TimedLease = ShownLease & { readonly name: string; readonly end_at: string; readonly sequence: number }

/** An answer of any status: in a race the test does not know which it will be. */
interface RawAnswer {
  readonly status: number
  readonly location: string | null
  readonly text: string
}

async function send(
  project: Project,
  method: string,
  path: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<RawAnswer> {
  const response = await fetch(world.h.service.url! + path, {
    method,
    headers: {
      authorization: `Bearer ${project.token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  return { status: response.status, location: response.headers.get('location'), text: await response.text() }
}

const later = async <Result>(wait_ms: number, job: () => Promise<Result>): Promise<Result> => {
  await delay(wait_ms)
  return job()
}

const aliveAt = async ({ cloud }: Place) =>
  (await cloud.control.machines()).filter((machine) => machine.gone_at === null)

const untilNoMachine = (place: Place) =>
  waitFor(async () => (await aliveAt(place)).length === 0, {
    what: `no machine to be left at ${place.cloud.name}`,
    timeout_ms: 60_000,
    interval_ms: 100,
  })

/** Until an instance of an order runs, which is what the order is about to settle on. */
const untilOneRuns = (project: Project, order_id: string) =>
  waitFor(async () => (await instancesOf(project.api, order_id)).some(({ state }) => state === 'running'), {
    what: `an instance of ${order_id} to run`,
    timeout_ms: SETTLE_TIMEOUT_MS,
  })

/** All events of a project, oldest first. */
async function eventsOf({ api }: Project): Promise<ShownEvent[]> {
  const events: ShownEvent[] = []
  for (let cursor = ''; ; ) {
    const { body } = await api.get<{ events: ShownEvent[]; next: string }>(`/api/events?limit=100&after=${cursor}`)
    if (!body.events.length) return events
    events.push(...body.events)
    cursor = body.next
  }
}

/** All events of a project, once the end of these resources is among them. */
const eventsUntil = (project: Project, ends: readonly { id: string; state: string }[]) =>
  waitFor(
    async () => {
      const told = await eventsOf(project)
      return ends.every(({ id, state }) => told.some((e) => e.resource_id === id && e.to === state)) && told
    },
    { what: 'the ends to be told', timeout_ms: 20_000, interval_ms: 100 },
  )

/** Ids of an event and of all that brought it about. */
function chainOf(event: ShownEvent, by_id: ReadonlyMap<string, ShownEvent>): string[] {
  const chain: string[] = []
  for (let next: ShownEvent | undefined = event; next && !chain.includes(next.id); ) {
    chain.push(next.id)
    next = by_id.get(next.cause.event ?? '')
  }
  return chain
}

describe.concurrent('the same Idempotency-Key from two clients at once', () => {
  const JITTERS_MS = [0, 0, 0, 1, 3, 8]

  test('with the same request makes one order, and both are told of it; another request is refused', async () => {
    const place = await world.place()
    const { project } = place
    for (const [round, jitter_ms] of JITTERS_MS.entries()) {
      const body = { name: `twice-${round}`, count: 1, size: 'small', image: 'debian' }
      const headers = { 'idempotency-key': `twice-${round}` }
      const [one, other] = await Promise.all([
        send(project, 'POST', '/api/launch-orders', body, headers),
        later(jitter_ms, () => send(project, 'POST', '/api/launch-orders', body, headers)),
      ])
      expect([one.status, other.status]).toEqual([202, 202])
      const [first, second] = [one, other].map(
        ({ text }) => (JSON.parse(text) as { launch_order: ShownOrder }).launch_order,
      )
      expect(second!.id).toBe(first!.id)
      expect(other.location).toBe(one.location)
      const changed = await send(project, 'POST', '/api/launch-orders', { ...body, count: 2 }, headers)
      expect(changed).toMatchObject({ status: 422, text: expect.stringContaining('key_reused') })
      await untilOrder(project.api, first!.id, ['running'])
    }
    const listed = await project.api.get<{ launch_orders: ShownOrder[] }>('/api/launch-orders?limit=100')
    expect(listed.body.launch_orders.map(({ name }) => name).toSorted()).toEqual(JITTERS_MS.map((_, i) => `twice-${i}`))
    expect(await aliveAt(place)).toHaveLength(JITTERS_MS.length)
  })

  test('with two requests makes one order; exactly one of them is refused', async () => {
    const place = await world.place()
    const { project } = place
    for (const [round, jitter_ms] of JITTERS_MS.entries()) {
      const body = { name: `differs-${round}`, size: 'small', image: 'debian' }
      const headers = { 'idempotency-key': `differs-${round}` }
      const answers = await Promise.all([
        send(project, 'POST', '/api/launch-orders', { ...body, count: 1 }, headers),
        later(jitter_ms, () => send(project, 'POST', '/api/launch-orders', { ...body, count: 2 }, headers)),
      ])
      expect(answers.map(({ status }) => status).toSorted()).toEqual([202, 422])
      const won = answers.findIndex(({ status }) => status === 202)
      const { launch_order } = JSON.parse(answers[won]!.text) as { launch_order: ShownOrder }
      await untilOrder(project.api, launch_order.id, ['running'])
      expect(await instancesOf(project.api, launch_order.id)).toHaveLength(won + 1)
    }
    const listed = await project.api.get<{ launch_orders: ShownOrder[] }>('/api/launch-orders?limit=100')
    expect(listed.body.launch_orders).toHaveLength(JITTERS_MS.length)
  })
})

describe.concurrent('the end of an order', () => {
  // From before anything was sent to after it settled, and some right around that.
  const ROUNDS = [
    ...[0, 20, 60, 120, 250, 400].map((jitter_ms) => ({ until: 'accepted', jitter_ms })),
    ...[0, 20, 80, 150, 250, 400].map((jitter_ms) => ({ until: 'running', jitter_ms })),
    { until: 'settled', jitter_ms: 0 },
  ]

  test('against its settling: cancelled or terminated, no machine left, and the events tell which came first', {
    timeout: 120_000,
  }, async () => {
    const place = await world.place()
    const { project } = place
    const rounds = await Promise.all(
      ROUNDS.map(async ({ until, jitter_ms }) => {
        const { id } = await world.order(project, { count: 2 })
        if (until === 'running') await untilOneRuns(project, id)
        if (until === 'settled') await untilOrder(project.api, id, ['running'])
        await later(jitter_ms, () => world.change(project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`))
        const { state } = await untilOrder(project.api, id, ['cancelled', 'terminated', 'failed'])
        return { id, state }
      }),
    )
    expect(await aliveAt(place)).toEqual([])
    const events = await eventsUntil(project, rounds)
    const by_id = new Map(events.map((event) => [event.id, event]))
    for (const { id, state } of rounds) {
      const own = events.filter((event) => event.resource_id === id)
      const wished = own.findIndex((event) => event.type === 'order.wish_changed')
      const settled = own.findIndex((event) => event.to === 'running' && event.from !== 'running')
      const wish = own[wished]!
      expect(own.filter((event) => event.type === 'order.wish_changed')).toHaveLength(1)
      expect(wish.cause.actor).toBeDefined()
      // What was first decides what the wish means and how it ends.
      const came_first = settled >= 0 && settled < wished
      expect(settled).toBeLessThan(wished)
      expect(wish.snapshot.wish).toBe(came_first ? 'terminate' : 'cancel')
      expect(state).toBe(came_first ? 'terminated' : 'cancelled')
      const consequences = own.slice(wished + 1)
      expect(consequences.length).toBeGreaterThan(0)
      expect(consequences.at(-1)!.to).toBe(state)
      for (const event of consequences) {
        expect(['compensating', 'terminating', state]).toContain(event.to)
        expect(chainOf(event, by_id), `${event.type} to ${event.to} follows from the wish`).toContain(wish.id)
      }
    }
  })

  test('asked for by two at once is one wish', async () => {
    const place = await world.place()
    const { project } = place
    const JITTER_STEP_MS = 5
    for (let round = 0; round < 4; round++) {
      const { id } = await world.order(project, { count: 1 })
      await Promise.all([
        world.change(project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`),
        later(round * JITTER_STEP_MS, () => world.change(project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`)),
      ])
      const { state } = await untilOrder(project.api, id, ['cancelled', 'terminated'])
      const wishes = (await eventsUntil(project, [{ id, state }])).filter(
        (e) => e.resource_id === id && e.type === 'order.wish_changed',
      )
      expect(wishes).toHaveLength(1)
    }
    expect(await aliveAt(place)).toEqual([])
  })
})

describe.concurrent('the end of an instance', () => {
  // From the first machine, which fails to boot, on; and from the second, which takes its place.
  const ROUNDS = [
    ...[0, 100, 300, 600, 1_000].map((jitter_ms) => ({ machines: 1, jitter_ms })),
    ...[0, 20, 100, 400].map((jitter_ms) => ({ machines: 2, jitter_ms })),
  ]

  test('against the replacement of its machine that failed to boot: terminated, and no machine of it is left', {
    timeout: 180_000,
  }, async () => {
    await Promise.all(
      ROUNDS.map(async ({ machines, jitter_ms }) => {
        const place = await world.place()
        const { project, cloud } = place
        await cloud.control.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'boot', outcome: 'fails' } })
        const { id: order_id } = await world.order(project, { count: 1 })
        await waitFor(async () => (await cloud.control.machines()).length >= machines, {
          what: `${machines} machines to be made`,
          timeout_ms: SETTLE_TIMEOUT_MS,
        })
        const [instance] = await instancesOf(project.api, order_id)
        const { id } = instance!
        await later(jitter_ms, () =>
          world.change(project, 'terminate', id, 'POST', `/api/instances/${id}/actions`, { action: 'terminate' }),
        )
        await untilInstance(project.api, id, ['terminated'])
        await untilOrder(project.api, order_id, ['terminated', 'cancelled', 'failed'])
        await untilNoMachine(place)
        const told = await eventsUntil(project, [{ id, state: 'terminated' }])
        const own = told.filter((event) => event.resource_id === id)
        const wished = own.findIndex((event) => event.type === 'instance.wish_changed')
        expect(own[wished]!.cause.actor).toBeDefined()
        // What was under way when the wish came may still be told; once it is acted on there is only the end.
        const states = own.slice(wished + 1).map(({ to }) => to)
        const acted_on = states.findIndex((to) => to === 'terminating' || to === 'terminated')
        expect(states.slice(acted_on).every((to) => to === 'terminating' || to === 'terminated')).toBe(true)
        expect(states.at(-1)).toBe('terminated')
      }),
    )
  })
})

describe.concurrent('the end of a lease', () => {
  const JITTERS_MS = [-400, -250, -150, -100, -60, -30, -10, 0, 10, 50]
  const LASTS_MS = 6_000
  const LONGER_BY_MS = 4_000

  test('against its extension: either it ends at its new end, or it was too late and it ended on time', {
    timeout: 120_000,
  }, async () => {
    const place = await world.place()
    const { project } = place
    await Promise.all(
      JITTERS_MS.map(async (jitter_ms, round) => {
        const { id } = await world.lease(project, {
          end_in_ms: LASTS_MS,
          ...(round % 2 ? { order: { count: 1 } } : {}),
        })
        const before = (await getLease(project.api, id)) as TimedLease
        const end_ms = Date.parse(before.end_at)
        const longer = new Date(end_ms + LONGER_BY_MS).toISOString()
        const { status, text } = await later(Math.max(0, end_ms + jitter_ms - Date.now()), () =>
          send(project, 'PATCH', `/api/leases/${id}`, { end_at: longer }),
        )
        expect([200, 409], text).toContain(status)
        const ended = (await untilLease(project.api, id, ['TERMINATED', 'ERROR'])) as TimedLease
        expect(ended.state).toBe('TERMINATED')
        const end_at = status === 200 ? longer : before.end_at
        expect(Date.parse(ended.end_at)).toBe(Date.parse(end_at))
        const told = await eventsUntil(project, [{ id, state: 'TERMINATED' }])
        const own = told.filter((event) => event.resource_id === id)
        const endings = own.filter(({ type }) => type === 'lease.ending')
        expect(endings).toHaveLength(1)
        expect(Date.parse(endings[0]!.at)).toBeGreaterThanOrEqual(Date.parse(end_at))
        expect(own.filter(({ type }) => type === 'lease.updated')).toHaveLength(status === 200 ? 1 : 0)
        expect(ended.events.find(({ type }) => type === 'end_lease')).toMatchObject({ status: 'DONE' })
      }),
    )
    expect(await aliveAt(place)).toEqual([])
  })
})

describe.concurrent('the same If-Match from two clients at once', () => {
  const ROUNDS = 8
  const FAR_MS = 3_600_000

  test.each(['PATCH', 'DELETE'] as const)('an update and a %s: exactly one meets another version', async (method) => {
    const { project } = await world.place()
    for (let round = 0; round < ROUNDS; round++) {
      const { id } = await world.lease(project, { start_in_ms: FAR_MS, end_in_ms: 2 * FAR_MS })
      const path = `/api/leases/${id}`
      const { headers, body } = await project.api.get<{ lease: TimedLease }>(path)
      const if_match = { 'if-match': headers.get('etag')! }
      const rename = () => send(project, 'PATCH', path, { name: 'one' }, if_match)
      const other =
        method === 'PATCH'
          ? () => send(project, 'PATCH', path, { name: 'other' }, if_match)
          : () => send(project, 'DELETE', path, undefined, if_match)
      const sent_at_ms = Date.now()
      // Each of the two is ahead in every other round.
      const answers = await Promise.all(
        round % 2 ? [rename(), later(round >> 1, other)] : [later(round >> 1, rename), other()],
      )
      if (method === 'DELETE') world.note('end', id, sent_at_ms, answers[1]!.status)
      expect(answers.filter(({ status }) => status === 412)).toHaveLength(1)
      expect(answers.filter(({ status }) => status < 300)).toHaveLength(1)
      const renamed = answers[0]!.status < 300
      const changed = (await getLease(project.api, id)) as TimedLease
      const name = renamed ? 'one' : method === 'PATCH' ? 'other' : body.lease.name
      expect(changed.name).toBe(name)
      // One change, and the flow's own end of it where that was wished.
      if (renamed || method === 'PATCH') expect(changed.sequence).toBe(body.lease.sequence + 1)
      await world.change(project, 'end', id, 'DELETE', path)
      await untilLease(project.api, id, ['TERMINATED'])
    }
  })
})

test('nothing was lost, doubled or early, and every event was told in order', { timeout: 180_000 }, async () => {
  await world.judgeAll()
})
