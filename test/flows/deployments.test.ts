/** Actions on whole deployments: in waves, each instance once, whatever cloud, service and people do meanwhile. */
import { ScheduleOverlapPolicy } from '@temporalio/client'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { HOUSEKEEPING } from '../../domain/workflow-ids.ts'
import {
  actOn,
  actOnDeployment,
  instancesOf,
  SETTLE_TIMEOUT_MS,
  type ShownInstance,
  untilActed,
  untilDeploymentActed,
  untilOrder,
} from '../support/flow.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 50 })

interface Deployed {
  readonly place: Place
  readonly id: string
  readonly order_id: string
  /** In the order in which waves take them. */
  readonly instances: readonly ShownInstance[]
}

async function deployed(count: number, options?: Parameters<World['place']>[0]): Promise<Deployed> {
  const place = await world.place(options)
  const { id: order_id, deployment } = await world.order(place.project, { count })
  await untilOrder(place.project.api, order_id, ['running'])
  const instances = (await instancesOf(place.project.api, order_id)).toSorted((a, b) => (a.id < b.id ? -1 : 1))
  return { place, id: deployment.id, order_id, instances }
}

interface Line {
  readonly kind: string
  readonly verb?: string
  readonly path?: string
  readonly machine_id?: string
  readonly state?: string
  readonly why?: string
}
const ledgerOf = async ({ place }: Deployed) => (await place.cloud.control.ledger()) as unknown as Line[]

/** Calls of a kind that reached the cloud, by machine. */
async function called(deployment: Deployed, verb: string): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  for (const line of await ledgerOf(deployment)) {
    const machine = deployment.instances.find(({ provider_id }) => line.path?.includes(provider_id!))
    if (line.kind !== 'request' || line.verb !== verb || !machine) continue
    counts.set(machine.id, (counts.get(machine.id) ?? 0) + 1)
  }
  return counts
}

/** Most machines that were on their way to a state at the same time, each from the call on. */
async function atOnce(deployment: Deployed, verb: string, to: string): Promise<number> {
  const under_way = new Set<string>()
  let most = 0
  for (const line of await ledgerOf(deployment)) {
    const machine = deployment.instances.find(
      ({ provider_id }) => line.machine_id === provider_id || line.path?.includes(provider_id!),
    )
    if (!machine) continue
    if (line.kind === 'request' && line.verb === verb) under_way.add(machine.id)
    if (line.kind === 'machine' && line.state === to && line.why === verb) under_way.delete(machine.id)
    most = Math.max(most, under_way.size)
  }
  return most
}

/** How many instances each wave of an action took. */
async function waves(action_id: string): Promise<number[]> {
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from actions where deployment_action_id = ${action_id} group by wave order by wave`.execute(
    world.h.store.db,
  )
  return rows.map(({ count }) => count)
}

const statesOf = async ({ place, order_id }: Deployed): Promise<Set<string>> =>
  new Set((await instancesOf(place.project.api, order_id)).map(({ state }) => state))

interface Explained {
  readonly explanation: {
    readonly waits_for: { readonly what: string; readonly code: string | null; readonly until: string | null } | null
    readonly chain: readonly { readonly resource_type: string; readonly type: string }[]
    readonly origin: { readonly kind: string }
  }
}
const explain = async ({ place }: Deployed, path: string) =>
  (await place.project.api.get<Explained>(`/api/${path}/explain`)).body.explanation

test('ten instances in waves of three: never more at once, each once, and every one says why', async () => {
  const deployment = await deployed(10)
  const { place, id, instances } = deployment
  const { api } = place.project
  await place.cloud.control.fault({ id: 'away', match: { verb: 'stop' }, effect: { kind: 'down' } })
  const stop = await actOnDeployment(api, id, { action: 'stop', wave_size: 3 })
  const waits_for = await waitFor(async () => {
    const found = (await explain(deployment, `deployments/${id}`)).waits_for
    return found?.what.includes('instances of wave 1') ? found : null
  }, wait('the first wave'))
  expect(waits_for).toMatchObject({
    what: 'the stop of 3 of 3 instances of wave 1',
    code: null,
    until: expect.any(String),
  })
  await place.cloud.control.send('DELETE', '/faults/away')
  const [stopped] = await untilDeploymentActed(api, id)
  expect(stopped).toMatchObject({ id: stop.id, state: 'done', wave: 4, error: null, counts: { done: 10, failed: 0 } })
  expect(await waves(stop.id)).toEqual([3, 3, 3, 1])
  expect(await atOnce(deployment, 'stop', 'stopped')).toBeLessThanOrEqual(3)
  expect(await statesOf(deployment)).toEqual(new Set(['stopped']))

  const because = await explain(deployment, `instances/${instances[0]!.id}`)
  expect(because.chain.at(-1)).toMatchObject({ resource_type: 'deployment', type: 'deployment.wish_changed' })
  expect(because.origin.kind).toBe('request')
  const { body } = await api.get<{ actions: { deployment_action_id: string }[] }>(
    `/api/instances/${instances[0]!.id}/actions`,
  )
  expect(body.actions).toMatchObject([{ deployment_action_id: stop.id }])
  expect((await explain(deployment, `deployments/${id}`)).waits_for).toBeNull()
}, 120_000)

test('a restart starts what is stopped and reboots what runs', async () => {
  const deployment = await deployed(6)
  const { id, instances } = deployment
  const { api } = deployment.place.project
  const off = instances.slice(1, 3)
  for (const instance of off) await actOn(api, instance.id, { action: 'stop' })
  for (const instance of off) await untilActed(api, instance.id)
  await actOnDeployment(api, id, { action: 'restart', wave_size: 4 })
  expect(await untilDeploymentActed(api, id)).toMatchObject([
    { state: 'done', wave: 2, counts: { done: 6, skipped: 0, failed: 0, waiting: 0, open: 0 } },
  ])
  const once = (of: readonly ShownInstance[]) => new Map(of.map((instance) => [instance.id, 1]))
  expect(await called(deployment, 'start')).toEqual(once(off))
  expect(await called(deployment, 'reboot')).toEqual(once([instances[0]!, ...instances.slice(3)]))
}, 120_000)

test('one that is refused does not stop the others; where most of a wave are, no other begins', async () => {
  const deployment = await deployed(7)
  const { place, id, instances } = deployment
  const { api } = place.project
  const refuse = (instance: ShownInstance, verb: 'start' | 'stop') =>
    place.cloud.control.fault({
      match: { verb, machine_id: instance.provider_id! },
      effect: { kind: 'error', class: 'invalid' },
    })
  await refuse(instances[1]!, 'stop')
  await actOnDeployment(api, id, { action: 'stop', wave_size: 3 })
  expect(await untilDeploymentActed(api, id)).toMatchObject([
    { state: 'done', wave: 3, counts: { done: 6, failed: 1 } },
  ])
  expect((await called(deployment, 'stop')).size).toBe(7)

  await refuse(instances[0]!, 'start')
  await refuse(instances[2]!, 'start')
  await actOnDeployment(api, id, { action: 'start', wave_size: 3 })
  const [, start] = await untilDeploymentActed(api, id)
  expect(start).toMatchObject({
    state: 'failed',
    wave: 1,
    counts: { done: 1, failed: 2, skipped: 1, open: 0 },
    error: { class: 'wave_failed', message: '2 of 3 instances of wave 1 failed; 3 more are left as they are' },
  })
  expect([...(await called(deployment, 'start')).keys()].toSorted()).toEqual(
    [instances[0]!, instances[2]!, instances[3]!].map((instance) => instance.id).toSorted(),
  )
  const path = `/api/events?after=&resource_type=deployment&resource_id=${id}&limit=100`
  const told = await waitFor(async () => {
    const { body } = await api.get<{ events: { type: string }[] }>(path)
    const types = body.events.map(({ type }) => type).filter((type) => type !== 'deployment.state_changed')
    return types.includes('deployment.action_failed') && types
  }, wait('the events of it'))
  expect(told).toEqual([
    'deployment.created',
    'deployment.wish_changed',
    'deployment.action_done',
    'deployment.wish_changed',
    'deployment.action_failed',
  ])
}, 120_000)

test('a terminate in mid-wave overtakes it, and ends all orders of the deployment and no other', async () => {
  const deployment = await deployed(6, { configuration: { stop_latency_ms: 60_000 } })
  const { place, id, order_id } = deployment
  const { project } = place
  const { name } = (await project.api.get<{ deployment: { name: string } }>(`/api/deployments/${id}`)).body.deployment
  const beside = await world.order(project, { count: 2, deployment: name })
  const elsewhere = await world.order(project, { count: 1 })
  for (const order of [beside, elsewhere]) await untilOrder(project.api, order.id, ['running'])
  expect(beside.deployment.id).toBe(id)
  await actOnDeployment(project.api, id, { action: 'stop', wave_size: 2 })
  await waitFor(async () => (await called(deployment, 'stop')).size > 0, wait('a stop to be sent'))
  const path = `/api/deployments/${id}/actions`
  await world.change(project, 'terminate', order_id, 'POST', path, { action: 'terminate' })
  world.note('terminate', beside.id, Date.now(), 202)
  expect(await untilDeploymentActed(project.api, id)).toMatchObject([
    { action: 'stop', state: 'superseded', wave: 1 },
    { action: 'terminate', state: 'done', counts: { done: 8, open: 0, skipped: 0 } },
  ])
  for (const order of [order_id, beside.id]) await untilOrder(project.api, order, ['terminated'])
  await waitFor(async () => {
    const [stop] = await untilDeploymentActed(project.api, id)
    return stop!.counts.superseded === 2 && stop!.counts.open === 0
  }, wait('the flows of the first wave to see it'))
  expect((await untilOrder(project.api, elsewhere.id, ['running'])).partial).toBe(false)
  expect((await called(deployment, 'stop')).size).toBeLessThanOrEqual(2)
}, 120_000)

test('an instance that somebody ends in mid-wave is counted, and the others go on', async () => {
  const deployment = await deployed(4)
  const { place, id, instances } = deployment
  const { api } = place.project
  await place.cloud.control.fault({ id: 'away', match: { verb: 'stop' }, effect: { kind: 'down' } })
  await actOnDeployment(api, id, { action: 'stop', wave_size: 2 })
  await waitFor(async () => (await called(deployment, 'stop')).size > 0, wait('a stop to be sent'))
  const action = `/api/instances/${instances[0]!.id}/actions`
  await world.change(place.project, 'terminate', instances[0]!.id, 'POST', action, { action: 'terminate' })
  await place.cloud.control.send('DELETE', '/faults/away')
  expect(await untilDeploymentActed(api, id)).toMatchObject([
    { state: 'done', wave: 2, counts: { done: 3, superseded: 1, failed: 0 } },
  ])
}, 120_000)

test('the service stopped and started again in mid-wave, it goes on, and each instance is acted on once', async () => {
  const deployment = await deployed(9, { configuration: { stop_latency_ms: 1_000 } })
  const { place, id, instances } = deployment
  const { id: action_id } = await actOnDeployment(place.project.api, id, { action: 'stop', wave_size: 4 })
  await waitFor(async () => (await called(deployment, 'stop')).size > 0, wait('a stop to be sent'))
  await world.h.stopService()
  await world.h.startService()
  expect(await untilDeploymentActed(place.project.api, id)).toMatchObject([
    { state: 'done', wave: 3, counts: { done: 9, failed: 0, superseded: 0, skipped: 0 } },
  ])
  expect(await waves(action_id)).toEqual([4, 4, 1])
  expect(await atOnce(deployment, 'stop', 'stopped')).toBeLessThanOrEqual(4)
  const stopping = (await ledgerOf(deployment)).filter((line) => line.kind === 'machine' && line.state === 'stopping')
  expect(stopping.map((line) => line.machine_id).toSorted()).toEqual(
    instances.map(({ provider_id }) => provider_id).toSorted(),
  )
}, 120_000)

test('a run that an operator terminated is taken up again from the record', async () => {
  const deployment = await deployed(4)
  const { place, id } = deployment
  await place.cloud.control.fault({ id: 'away', match: { verb: 'stop' }, effect: { kind: 'down' } })
  await actOnDeployment(place.project.api, id, { action: 'stop', wave_size: 2 })
  await waitFor(async () => (await called(deployment, 'stop')).size === 2, wait('the first wave'))
  const run = world.h.temporal.workflow.getHandle(`deployment/${id}`)
  await run.terminate('ended by hand')
  await place.cloud.control.send('DELETE', '/faults/away')
  await sql`update deployment_actions set due_at = record_now() - interval '1 minute' where deployment_id = ${id}`.execute(
    world.h.store.db,
  )
  await world.h.temporal.schedule.getHandle(HOUSEKEEPING).trigger(ScheduleOverlapPolicy.ALLOW_ALL)
  expect(await untilDeploymentActed(place.project.api, id)).toMatchObject([{ state: 'done', counts: { done: 4 } }])
}, 120_000)

test('nothing of it was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
