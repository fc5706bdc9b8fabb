/** Machines that are there already: adopted and released, orphans and strangers, whatever fails meanwhile. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ErrorAnswer } from '../support/api-client.ts'
import { actOn, getInstance, getOrder, instancesOf, untilActed, untilInstance, untilOrder } from '../support/flow.ts'
import {
  adopt,
  adoptPath,
  cloudEvents,
  lifeOf,
  lookAgain,
  machineAt,
  orphansAt,
  type ShownAdoption,
  type ShownEvent,
  untilOrphans,
  untilTagged,
  wait,
} from '../support/found-machines.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

const ours = () => world.h.service.installation_id

async function refused(place: Place, provider_id: string, expected: number, body: object = {}) {
  const path = adoptPath(place, provider_id)
  const sent = { project: place.project.name, ...body }
  return world.h.operator.post<ErrorAnswer>(path, sent, { expect: expected })
}

async function eventsOf(place: Place, id: string): Promise<ShownEvent[]> {
  const path = `/api/events?after=&resource_type=instance&resource_id=${id}&limit=100`
  return (await place.project.api.get<{ events: ShownEvent[] }>(path)).body.events
}

async function claimed(place: Place): Promise<number> {
  const path = `/api/clouds/${place.cloud.name}`
  return (await place.project.api.get<{ cloud: { allocation_used: number } }>(path)).body.cloud.allocation_used
}

async function terminate(place: Place, order_id: string): Promise<void> {
  await world.change(place.project, 'terminate', order_id, 'DELETE', `/api/launch-orders/${order_id}`)
  await untilOrder(place.project.api, order_id, ['terminated'])
}

/** For the judge it is a wish for the end of the instance. */
const release = (place: Place, instance_id: string) =>
  world.change(place.project, 'terminate', instance_id, 'POST', `/api/instances/${instance_id}/release`)

describe.concurrent('adoption', () => {
  test.each(['orphan', 'stranger'] as const)(
    'of an orphan or a stranger (%s): an order of one that runs',
    async (kind) => {
      const place = await world.place()
      const provider_id = await machineAt(world, place, kind)
      const made = await adopt(world, place, provider_id, { name: 'old-server', deployment: 'legacy' })
      expect(made).toMatchObject({ dry_run: false, name: 'old-server', state: 'running', deployment: 'legacy' })
      expect(made).toMatchObject({ size: 'small', image: 'debian', project: place.project.name })
      const { api } = place.project
      expect(await getOrder(api, made.order_id)).toMatchObject({ state: 'running', partial: false })
      const [instance] = await instancesOf(api, made.order_id)
      expect(instance).toMatchObject({ id: made.instance_id, state: 'running', provider_id, cloud: place.cloud.name })
      await api.get(made.instance_href)
      expect(await claimed(place)).toBe(1)
      const created = await waitFor(async () => (await eventsOf(place, made.instance_id))[0], wait('its first event'))
      expect(created).toMatchObject({
        type: 'instance.created',
        to: 'running',
        cause: {
          actor: { request_id: expect.any(String) },
          evidence: { provider_id, observed_at: expect.any(String) },
        },
      })
      const path = `/api/launch-orders/${made.order_id}/attempts`
      const { body } = await api.get<{ attempts: { id: string; state: string }[] }>(path)
      const [attempt] = body.attempts
      expect(attempt!.state).toBe('won')
      const tags = { holdfast_attempt: attempt!.id, holdfast_installation: ours() }
      const tagged = async () => (await lifeOf(place, provider_id)).tags.holdfast_attempt === attempt!.id
      await waitFor(tagged, wait('the tag of its attempt'))
      expect((await lifeOf(place, provider_id)).tags).toEqual(tags)
      await untilOrphans(world, place, [])
      if (kind === 'orphan')
        await waitFor(
          async () => (await cloudEvents(world, place, 'cloud.orphan_adopted')).length === 1,
          wait('the cloud to tell it'),
        )
      // From now on the list of ours tells of it.
      await place.cloud.control.fate(provider_id, 'die')
      await lookAgain(world, place)
      await untilInstance(api, made.instance_id, ['failed'])
      await untilOrder(api, made.order_id, ['failed'])
      await world.change(place.project, 'terminate', made.order_id, 'DELETE', `/api/launch-orders/${made.order_id}`)
      await untilInstance(api, made.instance_id, ['terminated'])
      expect((await lifeOf(place, provider_id)).gone_at).not.toBeNull()
      expect(await claimed(place)).toBe(0)
    },
  )

  test('a dry run says what would be made and changes nothing', async () => {
    const place = await world.place()
    const provider_id = await machineAt(world, place, 'stranger')
    const { api, name: project } = place.project
    const { operator } = world.h
    const { body, status } = await operator.post<{ adoption: ShownAdoption }>(
      adoptPath(place, provider_id, '?dryRun=true'),
      { project },
    )
    expect(status).toBe(200)
    const nothing = { order_id: null, instance_id: null, instance_href: null, deployment: null }
    const { name: cloud } = place.cloud
    expect(body.adoption).toEqual({
      ...nothing,
      ...{ dry_run: true, cloud, provider_id, project, name: 'found-stranger', state: 'running', raw_state: 'ACTIVE' },
      ...{ size: 'small', image: 'debian' },
    })
    for (const noun of ['launch-orders', 'instances', 'deployments'])
      expect((await api.get<Record<string, unknown>>(`/api/${noun}`)).body).toMatchObject({
        [noun.replace('-', '_')]: [],
      })
    expect(await claimed(place)).toBe(0)
    expect((await lifeOf(place, provider_id)).tags).toEqual({})
    const made = await adopt(world, place, provider_id)
    expect({ ...body.adoption, ...made }).toEqual(made)
    // What a dry run refuses, adoption refuses.
    await operator.post(adoptPath(place, provider_id, '?dryRun=true'), { project }, { expect: 409 })
    await operator.post(adoptPath(place, provider_id, '?dryRun=maybe'), {}, { expect: 400 })
    await terminate(place, made.order_id)
  })

  test('twice is refused, but under its key it is the same again', async () => {
    const place = await world.place()
    const provider_id = await machineAt(world, place, 'stranger')
    const path = adoptPath(place, provider_id)
    const { operator } = world.h
    const key = { key: randomUUID() }
    const body = { project: place.project.name }
    const { body: first } = await operator.post<{ adoption: ShownAdoption }>(path, body, key)
    // Whatever the cloud says meanwhile: the answer was given.
    const fault = await place.cloud.control.fault({ match: { verb: 'get' }, effect: { kind: 'down' } })
    expect((await operator.post(path, body, key)).body).toEqual(first)
    await operator.post(path, { ...body, name: 'other' }, { ...key, expect: 422 })
    await place.cloud.control.send('DELETE', `/faults/${fault}`)
    const again = await refused(place, provider_id, 409)
    expect(again.body.error.message).toContain(first.adoption.instance_id)
    await terminate(place, first.adoption.order_id)
    const other = await machineAt(world, place, 'stranger')
    const both = await Promise.allSettled([1, 2, 3].map(() => adopt(world, place, other)))
    const made = both.filter((one) => one.status === 'fulfilled')
    expect(made).toHaveLength(1)
    for (const one of both) if (one.status === 'rejected') expect(String(one.reason)).toContain('answered 409')
    await terminate(place, made[0]!.value.order_id)
  })

  test('is refused for a machine that is bound, gone, on its way out, of others, or being removed', async () => {
    const place = await world.place({ configuration: { delete_latency_ms: 2_000 } })
    const { api } = place.project
    const { id } = await world.order(place.project, { count: 1 })
    await untilOrder(api, id, ['running'])
    const [instance] = await instancesOf(api, id)
    const bound = await refused(place, instance!.provider_id!, 409)
    expect(bound.body.error.message).toContain(`bound to instance ${instance!.id}`)
    await refused(place, randomUUID(), 404)
    const provider = place.cloud.control.provider()
    const signal = AbortSignal.timeout(10_000)
    const foreign = await machineAt(world, place, 'stranger')
    await provider.adopt(foreign, { attempt_id: randomUUID(), installation_id: randomUUID() }, signal)
    expect((await refused(place, foreign, 409)).body.error.message).toContain('another installation')
    await refused(place, foreign, 404, { project: 'nobodys' })
    expect((await refused(place, foreign, 409, { project: 'default' })).body.error.code).toBe('conflict')
    await provider.delete(foreign, signal)
    expect((await refused(place, foreign, 409)).body.error.message).toContain('terminating')
    const orphan = await machineAt(world, place, 'orphan')
    await world.h.operator.delete(`/api/clouds/${place.cloud.name}/orphans/${orphan}`)
    expect((await refused(place, orphan, 409)).body.error.message).toContain('being removed')
    await untilOrphans(world, place, [])
    await refused(place, orphan, 404)
    await terminate(place, id)
  })

  test('a cloud that cannot be asked: 503, and when to come back; one without such tags: refused', async () => {
    const place = await world.place()
    const provider_id = await machineAt(world, place, 'stranger')
    for (const effect of [{ kind: 'down' }, { kind: 'hang' }, { kind: 'error', class: 'auth' }] as const) {
      await place.cloud.control.fault({ id: 'away', match: { verb: 'get' }, effect })
      const answer = await refused(place, provider_id, 503)
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    }
    await place.cloud.control.noFaults()
    await world.h.operator.patch(`/api/clouds/${place.cloud.name}`, { settings: { adoption: false } })
    expect((await refused(place, provider_id, 409)).body.error.message).toContain('cannot tag')
  })

  test('an adopted machine is stopped and started, ended by its instance, and ended by its order', async () => {
    const place = await world.place()
    const { api } = place.project
    const first = await adopt(world, place, await machineAt(world, place, 'stranger'))
    await actOn(api, first.instance_id, { action: 'stop' })
    await actOn(api, first.instance_id, { action: 'start' })
    expect(await untilActed(api, first.instance_id)).toMatchObject([{ state: 'done' }, { state: 'done' }])
    await world.change(
      place.project,
      'terminate',
      first.instance_id,
      'POST',
      `/api/instances/${first.instance_id}/actions`,
      { action: 'terminate' },
    )
    await untilInstance(api, first.instance_id, ['terminated'])
    await untilOrder(api, first.order_id, ['terminated'])
    const stopped = await machineAt(world, place, 'stranger')
    await place.cloud.control.provider().stop(stopped, AbortSignal.timeout(10_000))
    await waitFor(async () => (await lifeOf(place, stopped)).state === 'stopped', wait('it to stop'))
    const second = await adopt(world, place, stopped)
    expect(second.state).toBe('stopped')
    await terminate(place, second.order_id)
    const alive = (await place.cloud.control.machines()).filter(({ gone_at }) => gone_at === null)
    expect(alive).toEqual([])
  })

  test('tags that the cloud does not take: named as what blocks it, tried until it does', async () => {
    const place = await world.place()
    const provider_id = await machineAt(world, place, 'stranger')
    await place.cloud.control.fault({ id: 'lost', match: { verb: 'tag' }, times: 1, effect: { kind: 'lost_reply' } })
    await place.cloud.control.fault({ id: 'no', match: { verb: 'tag' }, effect: { kind: 'error', class: 'conflict' } })
    const { order_id, instance_id } = await adopt(world, place, provider_id)
    const blocker = async () =>
      ((await getInstance(place.project.api, instance_id)) as { blocker?: { code: string } | null }).blocker
    await waitFor(async () => (await blocker())?.code === 'tags_unconfirmed', wait('the blocker to be named'))
    expect(await getInstance(place.project.api, instance_id)).toMatchObject({ state: 'running' })
    await place.cloud.control.noFaults()
    await untilTagged(place, provider_id, ours())
    await waitFor(async () => (await blocker()) === null, wait('nothing to block it'))
    await terminate(place, order_id)
  })
})

describe.concurrent('release', () => {
  test('the machine lives on, is ours no more, and nothing of ours touches it again', async () => {
    const place = await world.place()
    const { api } = place.project
    const { id } = await world.order(place.project, { count: 2 })
    await untilOrder(api, id, ['running'])
    const [first, second] = await instancesOf(api, id)
    const provider_id = first!.provider_id!
    await release(place, first!.id)
    expect(await getInstance(api, first!.id)).toMatchObject({ state: 'terminated' })
    await release(place, first!.id) // again is the same
    await untilTagged(place, provider_id, null)
    expect(await claimed(place)).toBe(1)
    await waitFor(async () => (await getOrder(api, id)).partial, wait('its order to notice'))
    const ended = (await eventsOf(place, first!.id)).findLast(({ to, from }) => to === 'terminated' && from !== to)
    expect(ended).toMatchObject({ cause: { rule: 'released', actor: { user_id: expect.any(String) } } })
    await api.post(`/api/instances/${first!.id}/actions`, { action: 'terminate' }, { expect: 409 })
    // Its order's end is not the machine's, and a person may adopt it again.
    await terminate(place, id)
    expect((await lifeOf(place, provider_id)).gone_at).toBeNull()
    expect((await lifeOf(place, second!.provider_id!)).gone_at).not.toBeNull()
    expect(await orphansAt(world, place)).toEqual([])
    const again = await adopt(world, place, provider_id)
    await untilTagged(place, provider_id, ours())
    await terminate(place, again.order_id)
    expect((await lifeOf(place, provider_id)).gone_at).not.toBeNull()
  })

  test('while our tags cannot be taken off it is known as released: no orphan, and not to be adopted', async () => {
    const place = await world.place()
    const { api } = place.project
    const provider_id = await machineAt(world, place, 'stranger')
    const { order_id, instance_id } = await adopt(world, place, provider_id)
    await untilTagged(place, provider_id, ours())
    await place.cloud.control.fault({ match: { verb: 'untag' }, effect: { kind: 'down' } })
    await release(place, instance_id)
    await untilOrder(api, order_id, ['terminated'])
    await waitFor(
      async () => (await place.cloud.control.ledger()).filter(({ verb }) => verb === 'untag').length > 1,
      wait('it to be tried again'),
    )
    // Lists go on showing it with our tag.
    const listed = async () =>
      (await place.cloud.control.ledger()).filter(({ kind, verb }) => kind === 'request' && verb === 'list').length
    const before = await listed()
    await lookAgain(world, place)
    await waitFor(async () => (await listed()) > before, wait('another list'))
    expect((await refused(place, provider_id, 409)).body.error.message).toContain('being released')
    expect(await orphansAt(world, place)).toEqual([])
    expect(await getInstance(api, instance_id)).toMatchObject({ state: 'terminated' })
    await place.cloud.control.noFaults()
    await untilTagged(place, provider_id, null)
    expect((await lifeOf(place, provider_id)).gone_at).toBeNull()
  })

  test('is refused where there is no machine, or where it is being deleted', async () => {
    const place = await world.place({ configuration: { delete_latency_ms: 2_000 } })
    const { api } = place.project
    const { id } = await world.order(place.project, { count: 1 })
    const path = async () => `/api/instances/${(await instancesOf(api, id))[0]!.id}/release`
    await untilOrder(api, id, ['running'])
    await world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
    await untilOrder(api, id, ['terminating'])
    await api.post(await path(), undefined, { expect: 409 })
    await untilOrder(api, id, ['terminated'])
    await api.post(await path(), undefined, { expect: 409 })
    const stranger = await world.h.project()
    await stranger.api.post(await path(), undefined, { expect: 404 })
  })
})

describe('the service ends between the record and the cloud', () => {
  test('afterwards the machine gets its tags, and another loses them', async () => {
    const place = await world.place()
    const { api } = place.project
    const [taken, given] = [await machineAt(world, place, 'stranger'), await machineAt(world, place, 'stranger')]
    const to_release = await adopt(world, place, given)
    await untilTagged(place, given, ours())
    // The calls arrive and are never answered: whoever asked dies waiting.
    await place.cloud.control.fault({ match: { verb: ['tag', 'untag'] }, effect: { kind: 'hang' } })
    const adopted = await adopt(world, place, taken)
    await release(place, to_release.instance_id)
    const asked = async (verb: string) =>
      (await place.cloud.control.ledger()).some((line) => line.kind === 'request' && line.verb === verb)
    await waitFor(async () => (await asked('tag')) && (await asked('untag')), wait('both to be under way'))
    await world.h.stopService()
    expect((await lifeOf(place, taken)).tags).toEqual({})
    await place.cloud.control.noFaults()
    await world.h.startService()
    await untilTagged(place, taken, ours())
    await untilTagged(place, given, null)
    expect(await getInstance(api, adopted.instance_id)).toMatchObject({ state: 'running' })
    await terminate(place, adopted.order_id)
    expect((await lifeOf(place, given)).gone_at).toBeNull()
  })
})

test('afterwards record, clouds and receivers agree', async () => {
  await world.judgeAll()
}, 120_000)
