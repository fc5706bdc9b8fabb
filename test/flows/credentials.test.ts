/** Orders that bring accounts of their own: used for every call, held when refused or expired, erased at the end. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { dropOld } from '../../store/housekeeping.ts'
import {
  actOn,
  getOrder,
  instancesOf,
  SETTLE_TIMEOUT_MS,
  untilActed,
  untilInstance,
  untilOrder,
} from '../support/flow.ts'
import { unique } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

/** A cloud that was given no account of its own, with an account for each of these keys that sees nothing of the others. */
const placeWith = (...keys: string[]): Promise<Place> =>
  world.place({ configuration: { api_keys: keys.map((key) => ({ key, account: `of ${key}` })) } })

async function orderWith(place: Place, credentials: unknown[], more: Record<string, unknown> = {}) {
  return world.order(place.project, { count: 2, clouds: [place.cloud.name], credentials, ...more })
}

const keep = async (place: Place, secret: string, more: Record<string, unknown> = {}) => {
  const input = { name: unique('account'), cloud: place.cloud.name, secret, ...more }
  return (await place.project.api.post<{ credential: { id: string; href: string } }>('/api/credentials', input)).body
    .credential
}

const blocked = (place: Place, id: string, code: string) =>
  waitFor(async () => (await getOrder(place.project.api, id)).blocker?.code === code, {
    what: `order ${id} to be held by ${code}`,
    timeout_ms: SETTLE_TIMEOUT_MS,
  })

test('every call of an order is made with its own account', async () => {
  const place = await placeWith('open-sesame')
  const { id: credential_id, href } = await keep(place, 'open-sesame')
  const { id } = await orderWith(place, [{ id: credential_id }])
  const { api } = place.project
  await untilOrder(api, id, ['running'])
  const [instance] = await instancesOf(api, id)
  await actOn(api, instance!.id, { action: 'stop' })
  await actOn(api, instance!.id, { action: 'start' })
  expect(await untilActed(api, instance!.id)).toMatchObject([{ state: 'done' }, { state: 'done' }])
  await api.delete(href, { expect: 409 })
  const path = `/api/instances/${instance!.id}/actions`
  await world.change(place.project, 'terminate', instance!.id, 'POST', path, { action: 'terminate' })
  await untilInstance(api, instance!.id, ['terminated'])
  await world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilOrder(api, id, ['terminated'])
  await api.delete(href, { expect: 204 })
})

test('machines of two accounts at one cloud are each seen, kept and ended by their own', async () => {
  const place = await placeWith('open-sesame', 'open-barley')
  const orders = await Promise.all(
    ['open-sesame', 'open-barley'].map((secret) =>
      orderWith(place, [{ cloud: place.cloud.name, secret }], { policy: 'any' }),
    ),
  )
  const { api } = place.project
  for (const { id } of orders) await untilOrder(api, id, ['running'])
  const [first, second] = await Promise.all(orders.map(({ id }) => instancesOf(api, id)))
  await place.cloud.control.fate(first![0]!.provider_id!, 'vanish')
  await untilInstance(api, first![0]!.id, ['missing'])
  await untilInstance(api, first![1]!.id, ['running'])
  await world.change(place.project, 'terminate', orders[1]!.id, 'DELETE', `/api/launch-orders/${orders[1]!.id}`)
  for (const { id } of second!) await untilInstance(api, id, ['terminated'])
  const alive = (await place.cloud.control.machines()).filter(({ gone_at }) => gone_at === null)
  expect(alive.map(({ id }) => id)).toEqual([first![1]!.provider_id])
})

test('a machine of such an account that vanishes is noticed', async () => {
  const place = await placeWith('open-sesame')
  const { id } = await orderWith(place, [{ cloud: place.cloud.name, secret: 'open-sesame' }], { policy: 'any' })
  const { api } = place.project
  await untilOrder(api, id, ['running'])
  const [instance] = await instancesOf(api, id)
  await place.cloud.control.fate(instance!.provider_id!, 'vanish')
  await untilInstance(api, instance!.id, ['missing'])
})

test('a refused credential holds the order by name, is not used again, and goes on when it is replaced', async () => {
  const place = await placeWith('open-sesame')
  const { id: credential_id, href } = await keep(place, 'shut-sesame')
  const { id } = await orderWith(place, [{ id: credential_id }])
  const { api } = place.project
  await blocked(place, id, 'credentials_refused')
  expect((await api.get<{ credential: { state: string } }>(href)).body.credential.state).toBe('refused')
  const creates = async () =>
    ((await place.cloud.control.ledger()) as { kind: string; verb?: string }[]).filter(
      ({ kind, verb }) => kind === 'request' && verb === 'create',
    ).length
  const asked = await creates()
  await world.h.temporal.workflow.getHandle(`order/${id}`).signal('wake')
  await blocked(place, id, 'credentials_refused')
  expect(await creates()).toBe(asked)
  await api.patch(href, { secret: 'open-sesame' })
  await untilOrder(api, id, ['running'])
})

test('a machine that starts while its account is refused is not given up: nobody could see it', async () => {
  const boot_timeout_ms = 12_000
  const configuration = { api_keys: [{ key: 'open-sesame', account: 'of open-sesame' }], boot_latency_ms: 4_000 }
  const place = await world.place({ configuration, settings: { boot_timeout_ms } })
  const { api } = place.project
  const { id: credential_id, href } = await keep(place, 'open-sesame')
  const { id } = await orderWith(place, [{ id: credential_id }], { count: 1 })
  const [instance] = await instancesOf(api, id)
  const { provider_id } = await untilInstance(api, instance!.id, ['starting'])
  const started_at = performance.now()
  await place.cloud.control.change({ api_keys: [{ key: 'open-barley', account: 'of open-barley' }] })
  await waitFor(
    async () => (await api.get<{ credential: { state: string } }>(href)).body.credential.state === 'refused',
    {
      what: 'its account to be refused',
      timeout_ms: SETTLE_TIMEOUT_MS,
    },
  )
  await waitFor(() => performance.now() - started_at > boot_timeout_ms + 2_000, {
    what: 'the time that it may take to start to pass',
    timeout_ms: 2 * boot_timeout_ms,
  })
  await place.cloud.control.change({ api_keys: configuration.api_keys })
  await api.patch(href, { secret: 'open-sesame' })
  expect(await untilInstance(api, instance!.id, ['running'])).toMatchObject({ provider_id })
  expect(await place.cloud.control.machines()).toHaveLength(1)
}, 120_000)

test('an expired credential holds the order by name, and goes on when its term is moved', async () => {
  const place = await placeWith('open-sesame')
  const { id: credential_id, href } = await keep(place, 'open-sesame', { expires_at: '2020-01-01T00:00:00Z' })
  const { id } = await orderWith(place, [{ id: credential_id }])
  await blocked(place, id, 'credentials_expired')
  await place.project.api.patch(href, { expires_at: null })
  await untilOrder(place.project.api, id, ['running'])
})

test('one that came with an order is erased when none of its machines is left', async () => {
  const place = await placeWith('open-sesame')
  const { id } = await orderWith(place, [{ cloud: place.cloud.name, secret: 'open-sesame' }])
  const { api } = place.project
  await untilOrder(api, id, ['running'])
  const sealed = async () => {
    const found = world.h.store.db.selectFrom('credentials').select('sealed').where('order_id', '=', id)
    return (await found.executeTakeFirstOrThrow()).sealed
  }
  await dropOld(world.h.store)
  expect(await sealed()).not.toBeNull()
  await world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilOrder(api, id, ['terminated'])
  await waitFor(
    async () => {
      await dropOld(world.h.store)
      return (await sealed()) === null
    },
    { what: 'its credential to be erased', timeout_ms: SETTLE_TIMEOUT_MS },
  )
})

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
