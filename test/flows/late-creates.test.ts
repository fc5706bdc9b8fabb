/**
 * Creates whose reply is lost and that are carried out at once, late, or never: whatever happens meanwhile, at most one
 * machine of an item is ever in use, and what is too many is found, told and removed. Judged from the clouds' own books.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { CloudControl } from '../providers/simulated-control.ts'
import { instancesOf, submitOrder, untilOrder } from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'

let h: Harness
beforeAll(async () => {
  h = await startHarness()
})
afterAll(() => h.close())

const CALL_TIMEOUT_MS = 1_000
const SETTLE_MS = 4_000
/** An unanswered create may still be carried out, and is waited for, until then. */
const WITHIN_MS = 600
const BEYOND_MS = CALL_TIMEOUT_MS + SETTLE_MS + 2_000
/** A calm cloud is looked at every 30 s. */
const WATCH_PERIOD_MS = 30_000
const PATIENCE_MS = WATCH_PERIOD_MS + 25_000
const COUNT = 2

interface Attempt {
  readonly id: string
  readonly item: number
  readonly state: string
  readonly provider_id: string | null
}
interface ShownEvent {
  readonly type: string
  readonly cause: { readonly rule?: string; readonly evidence?: Readonly<Record<string, unknown>> }
  readonly snapshot: { readonly provider_id?: string | null }
}
interface Scene {
  readonly project: Project
  readonly control: CloudControl
  readonly order_id: string
}

type Effect = Parameters<CloudControl['fault']>[0]['effect']
type CloudKind = 'openstack' | 'aws'

/** An order of two whose first create at its only cloud meets the effect; resolves when it has. */
async function orderThatMeets(effect: Effect, presents_as: CloudKind, configuration = {}): Promise<Scene> {
  const project = await h.project()
  const { control } = await h.cloud(project, {
    configuration: { presents_as, terminated_visible_ms: 0, ...configuration },
    settings: { settle_ms: SETTLE_MS, call_timeout_ms: CALL_TIMEOUT_MS },
  })
  const id = await control.fault({ match: { verb: 'create' }, times: 1, effect })
  const { id: order_id } = await submitOrder(project, { count: COUNT })
  await waitFor(
    async () => {
      const { faults } = (await control.send('GET', '/faults')) as { faults: { id: string; struck: number }[] }
      return faults.some((fault) => fault.id === id && fault.struck === 1)
    },
    { what: 'the create to meet the fault', timeout_ms: 20_000 },
  )
  return { project, control, order_id }
}

/** All machines there ever were, once the cloud owes none any more. */
async function machinesOf({ control }: Scene) {
  const owed = async () =>
    ((await control.send('GET', '/machines')) as { pending_late_creates: number }).pending_late_creates
  await waitFor(async () => (await owed()) === 0, { what: 'late creates to be carried out', timeout_ms: 20_000 })
  return control.machines()
}

async function eventsOf({ project, order_id }: Scene): Promise<Map<string, ShownEvent[]>> {
  const events = new Map<string, ShownEvent[]>()
  for (const { id } of await instancesOf(project.api, order_id)) {
    const path = `/api/events?resource_type=instance&resource_id=${id}&limit=100`
    events.set(id, (await project.api.get<{ events: ShownEvent[] }>(path)).body.events.toReversed())
  }
  return events
}

/**
 * Waits until so many machines are left, then judges: each item has at most one of them, it is the only one that was
 * ever in use, every other one there was is gone, and each of those was told as surplus.
 */
async function judge(scene: Scene, expected: { left: number; made: number }): Promise<void> {
  const { project, order_id } = scene
  await machinesOf(scene)
  const machines = await waitFor(
    async () => {
      const seen = await machinesOf(scene)
      return seen.length === expected.made && seen.filter((m) => m.gone_at === null).length === expected.left && seen
    },
    {
      what: `${expected.left} of ${expected.made} machines to be left`,
      timeout_ms: PATIENCE_MS,
      interval_ms: 100,
    },
  )
  const { attempts } = (
    await project.api.get<{ attempts: Attempt[] }>(`/api/launch-orders/${order_id}/attempts?limit=100`)
  ).body
  const item_of = new Map(attempts.map((attempt) => [attempt.id, attempt.item]))
  const left = machines.filter((machine) => machine.gone_at === null)
  const items = left.map((machine) => item_of.get(machine.tags.holdfast_attempt ?? ''))
  expect(items).not.toContain(undefined)
  expect(new Set(items).size).toBe(left.length)
  const events = await eventsOf(scene)
  const used = new Set<string>()
  const surplus = new Set<unknown>()
  for (const told of events.values()) {
    const machines_used = told.flatMap(({ snapshot }) => snapshot.provider_id ?? [])
    expect(new Set(machines_used).size).toBeLessThanOrEqual(1)
    for (const id of machines_used) used.add(id)
    for (const { type, cause } of told)
      if (type === 'instance.surplus_found') {
        expect(cause.evidence).toMatchObject({ observed_at: expect.any(String), attempt_id: expect.any(String) })
        surplus.add(cause.evidence?.provider_id)
      }
  }
  for (const machine of left) expect(used).toContain(machine.id)
  for (const machine of machines)
    if (!used.has(machine.id)) {
      expect(machine.gone_at).not.toBeNull()
      expect(surplus).toContain(machine.id)
    } else expect(surplus).not.toContain(machine.id)
}

const late = (after_ms: number): Effect => ({ kind: 'late', after_ms })

describe.concurrent('without idempotency tokens', () => {
  test('late beyond the time it is waited for: another is made, the late one is surplus, told and removed', {
    timeout: 120_000,
  }, async () => {
    const scene = await orderThatMeets(late(BEYOND_MS), 'openstack')
    await untilOrder(scene.project.api, scene.order_id, ['running'])
    await judge(scene, { left: COUNT, made: COUNT + 1 })
  })

  test('late beyond it, and the order cancelled meanwhile: what turns up after its end is removed', {
    timeout: 120_000,
  }, async () => {
    const scene = await orderThatMeets(late(BEYOND_MS), 'openstack')
    await scene.project.api.delete(`/api/launch-orders/${scene.order_id}`)
    await untilOrder(scene.project.api, scene.order_id, ['cancelled', 'terminated'])
    await judge(scene, { left: 0, made: COUNT })
  })

  test('late within it: the machine is found by its tag and used; no other is made', async () => {
    const scene = await orderThatMeets(late(WITHIN_MS), 'openstack')
    await untilOrder(scene.project.api, scene.order_id, ['running'])
    await judge(scene, { left: COUNT, made: COUNT })
  })

  test('late within it, and the order cancelled meanwhile: its end waits until the machine is gone', async () => {
    const scene = await orderThatMeets(late(WITHIN_MS), 'openstack')
    await scene.project.api.delete(`/api/launch-orders/${scene.order_id}`)
    await untilOrder(scene.project.api, scene.order_id, ['cancelled', 'terminated'])
    // Confirmed gone before the order is over, not some time later.
    const machines = await machinesOf(scene)
    expect(machines.filter((machine) => machine.gone_at === null)).toEqual([])
    await judge(scene, { left: 0, made: COUNT })
  })

  test('while the call still hangs the machine is there already: it is used', async () => {
    const scene = await orderThatMeets({ kind: 'late', after_ms: 100, how: 'hang' }, 'openstack')
    await untilOrder(scene.project.api, scene.order_id, ['running'])
    await judge(scene, { left: COUNT, made: COUNT })
  })

  test.each(['reset', 'close', 'truncate', 'garbage', 'hang'] as const)(
    'the reply is lost (%s) and the machine there at once: it is used',
    async (how) => {
      const scene = await orderThatMeets({ kind: 'lost_reply', how }, 'openstack')
      await untilOrder(scene.project.api, scene.order_id, ['running'])
      await judge(scene, { left: COUNT, made: COUNT })
    },
  )

  test('a create that hangs and is never carried out is followed by another, not before it has settled', async () => {
    const scene = await orderThatMeets({ kind: 'hang' }, 'openstack')
    await untilOrder(scene.project.api, scene.order_id, ['running'])
    await judge(scene, { left: COUNT, made: COUNT })
    const creates = (await scene.control.ledger()).filter((line) => line.kind === 'request' && line.verb === 'create')
    const [first, last] = [creates[0]!.at, creates.at(-1)!.at]
    expect(creates).toHaveLength(COUNT + 1)
    expect(last - first).toBeGreaterThanOrEqual(SETTLE_MS)
  })
})

describe.concurrent('with idempotency tokens no second machine is ever made', () => {
  const effects: [string, Effect][] = [
    ['late within the time it is waited for', late(WITHIN_MS)],
    ['late beyond it', late(BEYOND_MS)],
    ['lost although carried out at once', { kind: 'lost_reply' }],
    ['hanging, carried out meanwhile', { kind: 'late', after_ms: 100, how: 'hang' }],
    ['hanging, never carried out', { kind: 'hang' }],
  ]
  test.each(effects)('%s', async (_name, effect) => {
    const scene = await orderThatMeets(effect, 'aws')
    await untilOrder(scene.project.api, scene.order_id, ['running'])
    await judge(scene, { left: COUNT, made: COUNT })
  })

  test('late, and the order cancelled meanwhile: the late one is removed', { timeout: 120_000 }, async () => {
    const scene = await orderThatMeets(late(BEYOND_MS), 'aws')
    await scene.project.api.delete(`/api/launch-orders/${scene.order_id}`)
    await untilOrder(scene.project.api, scene.order_id, ['cancelled', 'terminated'])
    const machines = await machinesOf(scene)
    expect(machines.length).toBeLessThanOrEqual(COUNT)
    await judge(scene, { left: 0, made: machines.length })
  })
})

describe('the service is away when the late create is carried out', () => {
  test('afterwards each item has one machine, and what is too many goes', { timeout: 120_000 }, async () => {
    // Kept from settling by a slow boot, so that the orders are under way when the service stops.
    const slow = { boot_latency_ms: 3_000 }
    const [within, beyond, tokens, cancelled] = await Promise.all([
      orderThatMeets(late(WITHIN_MS), 'openstack', slow),
      orderThatMeets(late(BEYOND_MS), 'openstack', slow),
      orderThatMeets(late(BEYOND_MS), 'aws', slow),
      orderThatMeets(late(BEYOND_MS), 'openstack', slow),
    ])
    await cancelled.project.api.delete(`/api/launch-orders/${cancelled.order_id}`)
    await h.stopService()
    const scenes = [within, beyond, tokens, cancelled]
    await Promise.all(scenes.map(machinesOf))
    await h.startService()
    for (const { project, order_id } of [within, beyond, tokens]) await untilOrder(project.api, order_id, ['running'])
    await untilOrder(cancelled.project.api, cancelled.order_id, ['cancelled', 'terminated'])
    for (const scene of [within, beyond]) {
      const { length: made } = await machinesOf(scene)
      expect(made).toBeLessThanOrEqual(COUNT + 1)
      await judge(scene, { left: COUNT, made })
    }
    await judge(tokens, { left: COUNT, made: COUNT })
    await judge(cancelled, { left: 0, made: (await machinesOf(cancelled)).length })
  })
})
