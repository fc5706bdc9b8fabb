/** Machines that die after they ran: healed by their order's policy, never too many at once, and never against a person. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  actOn,
  getOrder,
  instancesOf,
  SETTLE_TIMEOUT_MS,
  untilActed,
  untilInstance,
  untilOrder,
} from '../support/flow.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

async function running(healing: string, count: number, more: Record<string, unknown> = {}) {
  const place = await world.place()
  const { id } = await world.order(place.project, { count, healing, policy: 'any', ...more })
  await untilOrder(place.project.api, id, ['running'])
  return { place, id, instances: await instancesOf(place.project.api, id) }
}

interface ShownEvent {
  readonly type: string
  readonly to: string | null
  readonly cause: { readonly rule?: string }
  readonly snapshot: { readonly blocker?: { readonly code: string } | null }
}
async function events(place: Place, query: string): Promise<ShownEvent[]> {
  const { body } = await place.project.api.get<{ events: ShownEvent[] }>(`/api/events?after=&limit=100&${query}`)
  return body.events
}

const bound = async (place: Place, id: string) =>
  new Map((await instancesOf(place.project.api, id)).map((instance) => [instance.id, instance]))

test('replace: all that vanish are replaced, no more at once than may be', async () => {
  const { place, id, instances } = await running('replace', 6, { healing_max: 2 })
  // Boots take a while, so that those under way at once can be counted.
  await place.cloud.control.change({ boot_latency_ms: 700 })
  for (const { provider_id } of instances) await place.cloud.control.fate(provider_id!, 'vanish')
  await waitFor(
    async () => {
      const now = await bound(place, id)
      return instances.every((old) => {
        const { state, provider_id } = now.get(old.id)!
        return state === 'running' && provider_id !== old.provider_id
      })
    },
    { what: 'all of them to be replaced', timeout_ms: 2 * SETTLE_TIMEOUT_MS },
  )
  await untilOrder(place.project.api, id, ['running'])
  const lives = (await place.cloud.control.machines()).slice(instances.length)
  for (const { created_at } of lives) {
    const booting = lives.filter(
      (other) => other.created_at <= created_at && (other.booted_at ?? Infinity) > created_at,
    )
    expect(booting.length).toBeLessThanOrEqual(2)
  }
  const said = (await events(place, 'type=order.*')).map(({ snapshot }) => snapshot.blocker?.code)
  expect(said).toContain('healing_capped')
  const pending = (await events(place, 'type=instance.state_changed')).filter(({ to }) => to === 'pending')
  expect(new Set(pending.map(({ cause }) => cause.rule))).toEqual(new Set(['healing']))
}, 180_000)

test('restart: what fails is rebooted, once', async () => {
  const { place, id, instances } = await running('restart', 2)
  const [sick] = instances
  await place.cloud.control.fate(sick!.provider_id!, 'die')
  const { api } = place.project
  await waitFor(async () => (await untilActed(api, sick!.id)).length, {
    what: 'a restart by rule',
    timeout_ms: SETTLE_TIMEOUT_MS,
  })
  const acted = await untilActed(api, sick!.id)
  expect(acted).toMatchObject([{ action: 'reboot', state: 'done' }])
  expect(await untilInstance(api, sick!.id, ['running'])).toMatchObject({ provider_id: sick!.provider_id })
  await waitFor(async () => !(await getOrder(api, id)).partial, {
    what: 'the order to be whole again',
    timeout_ms: SETTLE_TIMEOUT_MS,
  })
  expect((await getOrder(api, id)).state).toBe('running')
}, 120_000)

test('notify: a person is asked to look', async () => {
  const { place, instances } = await running('notify', 2)
  await place.cloud.control.fate(instances[0]!.provider_id!, 'vanish')
  await untilInstance(place.project.api, instances[0]!.id, ['missing'])
  await waitFor(async () => (await events(place, 'type=instance.attention_wanted')).length === 1, {
    what: 'the event that asks for attention',
    timeout_ms: SETTLE_TIMEOUT_MS,
  })
})

test('what a person stopped is not healed when it vanishes', async () => {
  const { place, id, instances } = await running('replace', 2)
  const { api } = place.project
  const [stopped] = instances
  await actOn(api, stopped!.id, { action: 'stop' })
  await untilActed(api, stopped!.id)
  await place.cloud.control.fate(stopped!.provider_id!, 'vanish')
  await untilInstance(api, stopped!.id, ['missing'])
  await waitFor(async () => (await getOrder(api, id)).partial, {
    what: 'the order to count without it',
    timeout_ms: SETTLE_TIMEOUT_MS,
  })
  expect((await place.cloud.control.machines()).length).toBe(2)
})

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
