/** Start, stop, reboot: in the order they were asked for, each once, whatever the cloud and the wire do meanwhile. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  actOn,
  getInstance,
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

type CloudOptions = Parameters<World['place']>[0]

async function running(options?: CloudOptions): Promise<{ place: Place; order_id: string; id: string }> {
  const place = await world.place(options)
  const { id: order_id } = await world.order(place.project, { count: 1 })
  await untilOrder(place.project.api, order_id, ['running'])
  const [instance] = await instancesOf(place.project.api, order_id)
  return { place, order_id, id: instance!.id }
}

const terminate = (place: Place, id: string) =>
  world.change(place.project, 'terminate', id, 'POST', `/api/instances/${id}/actions`, { action: 'terminate' })

/** Calls of these kinds that reached the cloud, in order. */
async function calls(place: Place, ...verbs: string[]): Promise<unknown[]> {
  const lines = (await place.cloud.control.ledger()) as { kind: string; verb?: string; body?: unknown }[]
  return lines
    .filter(({ kind, verb }) => kind === 'request' && verbs.includes(verb!))
    .map(({ verb, body }) => [verb, body])
}

async function eventTypes(place: Place, id: string): Promise<string[]> {
  const path = `/api/events?after=&resource_type=instance&resource_id=${id}&limit=100`
  const { body } = await place.project.api.get<{ events: { type: string; to: string | null }[] }>(path)
  return body.events.map(({ type, to }) => (type === 'instance.state_changed' ? `→ ${to}` : type.slice(9)))
}

test('actions asked for at once are done one after the other, and their order goes on running', async () => {
  const { place, order_id, id } = await running()
  const { api } = place.project
  for (const body of [
    { action: 'stop' },
    { action: 'start' },
    { action: 'reboot' },
    { action: 'stop' },
    { action: 'start' },
    { action: 'reboot', reboot: 'hard' },
  ])
    await actOn(api, id, body)
  expect((await untilActed(api, id)).map(({ action, state }) => `${action} ${state}`)).toEqual([
    'stop done',
    'start done',
    'reboot done',
    'stop done',
    'start done',
    'reboot done',
  ])
  const soft = ['reboot', JSON.stringify({ kind: 'soft' })]
  const hard = ['reboot', JSON.stringify({ kind: 'hard' })]
  const sent = await calls(place, 'stop', 'start', 'reboot')
  expect(sent.map((call) => (call as [string, string])[0])).toEqual([
    'stop',
    'start',
    'reboot',
    'stop',
    'start',
    'reboot',
  ])
  expect([sent[2], sent[5]]).toEqual([soft, hard])
  expect((await untilInstance(api, id, ['running'])).state).toBe('running')
  expect(await getOrder(api, order_id)).toMatchObject({ state: 'running', partial: false })
  const types = await waitFor(
    async () => {
      const found = await eventTypes(place, id)
      return found.filter((type) => type === 'action_done').length === 6 && found
    },
    { what: 'the events of six actions', timeout_ms: SETTLE_TIMEOUT_MS },
  )
  expect(types).toContain('→ stopped')
  expect(types.filter((type) => type === 'wish_changed')).toHaveLength(6)
})

test('an action that does not fit is refused, naming state and what is allowed', async () => {
  const { place, id } = await running()
  const { api } = place.project
  const path = `/api/instances/${id}/actions`
  const refused = await api.post(path, { action: 'start' }, { expect: 409 })
  expect(refused.body).toMatchObject({
    error: {
      code: 'conflict',
      message: 'a start is not for an instance that is running; allowed: stop, reboot, terminate',
      problems: [{ path: 'body.action', accepted: ['stop', 'reboot', 'terminate'] }],
    },
  })
  const stop = await actOn(api, id, { action: 'stop' })
  expect((await actOn(api, id, { action: 'stop' })).id).toBe(stop.id)
  await api.post(path, { action: 'reboot' }, { expect: 409 })
  await api.post(path, { action: 'stop', reboot: 'hard' }, { expect: 400 })
  await untilActed(api, id)
  await terminate(place, id)
  await untilInstance(api, id, ['terminated'])
  await untilActed(api, id)
  await api.post(path, { action: 'terminate' }, { expect: 409 })
})

test('a stop whose reply is lost is done all the same', async () => {
  const { place, id } = await running()
  await place.cloud.control.fault({ match: { verb: 'stop' }, times: 1, effect: { kind: 'lost_reply' } })
  await actOn(place.project.api, id, { action: 'stop' })
  expect(await untilActed(place.project.api, id)).toMatchObject([{ state: 'done', error: null }])
  expect((await getInstance(place.project.api, id)).state).toBe('stopped')
})

test('a reboot whose reply is lost is not sent again: nobody can say whether it happened', async () => {
  // As EC2 it shows no reboot at all.
  const { place, id } = await running({ configuration: { presents_as: 'aws' } })
  await place.cloud.control.fault({ match: { verb: 'reboot' }, times: 1, effect: { kind: 'lost_reply' } })
  await actOn(place.project.api, id, { action: 'reboot' })
  expect(await untilActed(place.project.api, id)).toMatchObject([{ state: 'failed', error: { class: 'lost_reply' } }])
  expect(await calls(place, 'reboot')).toHaveLength(1)
  expect(await eventTypes(place, id)).toContain('action_failed')
})

test('what the cloud refuses fails, with its class', async () => {
  const { place, id } = await running()
  await actOn(place.project.api, id, { action: 'stop' })
  await untilActed(place.project.api, id)
  await place.cloud.control.fault({ match: { verb: 'start' }, times: 1, effect: { kind: 'error', class: 'capacity' } })
  await actOn(place.project.api, id, { action: 'start' })
  const [, start] = await untilActed(place.project.api, id)
  expect(start).toMatchObject({ state: 'failed', error: { class: 'capacity' } })
  await actOn(place.project.api, id, { action: 'start' })
  expect((await untilActed(place.project.api, id)).at(-1)).toMatchObject({ state: 'done' })
})

test('what failed and is refused its stop is not asked for ten minutes', async () => {
  const { place, id } = await running()
  const { provider_id } = await getInstance(place.project.api, id)
  await place.cloud.control.fate(provider_id!, 'die')
  await actOn(place.project.api, id, { action: 'stop' })
  await actOn(place.project.api, id, { action: 'start' })
  const refused = (kind: string) => ({
    state: 'failed',
    error: { class: 'invalid', message: `the machine has failed, and its cloud does not ${kind} it any more` },
  })
  expect(await untilActed(place.project.api, id)).toMatchObject([refused('stop'), refused('start')])
  const path = `/api/instances/${id}/actions`
  await world.change(place.project, 'terminate', id, 'POST', path, { action: 'terminate' })
  await untilInstance(place.project.api, id, ['terminated'])
})

test('what vanished is neither stopped nor started, whatever state is on record', async () => {
  const { place, id } = await running()
  const { provider_id } = await getInstance(place.project.api, id)
  await place.cloud.control.fate(provider_id!, 'vanish')
  await actOn(place.project.api, id, { action: 'stop' })
  await actOn(place.project.api, id, { action: 'start' })
  const gone = { state: 'failed', error: { class: 'not_found' } }
  expect(await untilActed(place.project.api, id)).toMatchObject([gone, gone])
  const path = `/api/instances/${id}/actions`
  await world.change(place.project, 'terminate', id, 'POST', path, { action: 'terminate' })
  await untilInstance(place.project.api, id, ['terminated'])
})

test('a terminate of what has no machine is done when its order has withdrawn it', async () => {
  const place = await world.place()
  const { api } = place.project
  await world.h.operator.patch(`/api/clouds/${place.cloud.name}`, { allocation: 1 })
  const order = await world.order(place.project, { count: 2, policy: 'any' })
  const waiting = await waitFor(
    async () => {
      const instances = await instancesOf(api, order.id)
      return instances.some(({ state }) => state === 'running') && instances.find(({ state }) => state === 'pending')
    },
    { what: 'one to run and one to wait', timeout_ms: SETTLE_TIMEOUT_MS },
  )
  const path = `/api/instances/${waiting.id}/actions`
  await world.change(place.project, 'terminate', waiting.id, 'POST', path, { action: 'terminate' })
  // Far sooner than housekeeping would find it.
  await waitFor(async () => (await untilActed(api, waiting.id)).every(({ state }) => state === 'done'), {
    what: 'the terminate to be done',
    timeout_ms: 20_000,
  })
})

test('throttled, refused for its credential, or away: it waits, says why, and goes on by itself', async () => {
  const { place, id } = await running()
  const { api } = place.project
  await place.cloud.control.fault({
    match: { verb: 'stop' },
    times: 1,
    effect: { kind: 'error', class: 'throttled', retry_after_ms: 300 },
  })
  await place.cloud.control.fault({ id: 'auth', match: { verb: 'stop' }, effect: { kind: 'error', class: 'auth' } })
  await actOn(api, id, { action: 'stop' })
  const blocked = await waitFor(
    async () =>
      (await api.get<{ instance: { blocker: { code: string } | null } }>(`/api/instances/${id}`)).body.instance.blocker,
    { what: 'a blocker', timeout_ms: SETTLE_TIMEOUT_MS },
  )
  expect(blocked).toMatchObject({ code: 'credentials_refused' })
  await place.cloud.control.send('DELETE', '/faults/auth')
  expect(await untilActed(api, id)).toMatchObject([{ state: 'done' }])
  const types = await eventTypes(place, id)
  expect(types.filter((type) => type === 'blocked')).toHaveLength(1)
  expect(types.filter((type) => type === 'unblocked')).toHaveLength(1)
})

test('a terminate overtakes a stop in mid-step, and what waits behind it', async () => {
  const { place, order_id, id } = await running()
  const { api } = place.project
  await place.cloud.control.change({ stop_latency_ms: 60_000 })
  await actOn(api, id, { action: 'stop' })
  await actOn(api, id, { action: 'start' })
  await waitFor(async () => (await calls(place, 'stop')).length, {
    what: 'the stop to be sent',
    timeout_ms: SETTLE_TIMEOUT_MS,
  })
  await terminate(place, id)
  await untilInstance(api, id, ['terminated'])
  expect((await untilActed(api, id)).map(({ action, state }) => `${action} ${state}`)).toEqual([
    'stop superseded',
    'start superseded',
    'terminate done',
  ])
  await untilOrder(api, order_id, ['terminated'])
  expect(await calls(place, 'start')).toEqual([])
})

test('the end of its order overtakes the actions of an instance', async () => {
  const { place, order_id, id } = await running()
  const { api } = place.project
  await place.cloud.control.change({ stop_latency_ms: 60_000 })
  await actOn(api, id, { action: 'stop' })
  await world.change(place.project, 'terminate', order_id, 'DELETE', `/api/launch-orders/${order_id}`)
  await untilOrder(api, order_id, ['terminated'])
  expect(await untilActed(api, id)).toMatchObject([{ action: 'stop', state: 'superseded' }])
})

test('nothing of it was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
