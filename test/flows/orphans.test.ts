/** Orphans that go by themselves, and those that a person removes, whatever fails meanwhile. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { FaultInput } from '../../providers/simulated/configuration.ts'
import { instancesOf, untilOrder } from '../support/flow.ts'
import {
  cloudEvents,
  lifeOf,
  lookAgain,
  machineAt,
  orphansAt,
  type ShownEvent,
  untilOrphans,
  wait,
} from '../support/found-machines.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

const orphanPath = (place: Place, provider_id: string) => `/api/clouds/${place.cloud.name}/orphans/${provider_id}`

const remove = (place: Place, provider_id: string) => world.h.operator.delete(orphanPath(place, provider_id))

/** Events of a type, once there are as many. */
const untilTold = (place: Place, type: string, count: number): Promise<ShownEvent[]> =>
  waitFor(
    async () => {
      const told = await cloudEvents(world, place, type)
      return told.length >= count ? told : null
    },
    wait(`${count} of ${type}`),
  ) as Promise<ShownEvent[]>

describe.concurrent('an orphan', () => {
  test('whose machine goes by itself leaves the list, and the cloud tells it once', async () => {
    const place = await world.place()
    const [goes, stays] = [await machineAt(world, place, 'orphan'), await machineAt(world, place, 'orphan')]
    await place.cloud.control.fate(goes, 'vanish')
    await lookAgain(world, place)
    await untilOrphans(world, place, [stays])
    const [gone] = await untilTold(place, 'cloud.orphan_gone', 1)
    expect(gone).toMatchObject({ snapshot: { provider_id: goes }, cause: { rule: 'absent_twice' } })
    const { body } = await world.h.operator.get<string>('/metrics')
    expect(body).toContain(`holdfast_orphans{cloud="${place.cloud.name}"} 1`)
    await world.h.operator.delete(orphanPath(place, goes), { expect: 404 })
    await remove(place, stays)
    await untilOrphans(world, place, [])
    expect(await cloudEvents(world, place, 'cloud.orphan_found')).toHaveLength(2)
    expect(await cloudEvents(world, place, 'cloud.orphan_gone')).toHaveLength(1)
  })

  test('that one list leaves out is still there', async () => {
    const place = await world.place()
    const provider_id = await machineAt(world, place, 'orphan')
    const listed = async () =>
      (await place.cloud.control.ledger()).filter(({ kind, verb }) => kind === 'request' && verb === 'list').length
    await place.cloud.control.fault({
      id: 'lies',
      match: { verb: 'list' },
      times: 1,
      effect: { kind: 'list', omit_probability: 1 },
    })
    const before = await listed()
    await lookAgain(world, place)
    await waitFor(async () => (await listed()) >= before + 2, wait('two lists'))
    expect(await orphansAt(world, place)).toMatchObject([{ provider_id, removal: null }])
    expect(await cloudEvents(world, place, 'cloud.orphan_gone')).toEqual([])
    await remove(place, provider_id)
    await untilOrphans(world, place, [])
  })

  test('is removed as a person asks, once, and the cloud tells who', async () => {
    const place = await world.place({ configuration: { delete_latency_ms: 300 } })
    const provider_id = await machineAt(world, place, 'orphan')
    const member = await world.h.project()
    await member.api.delete(orphanPath(place, provider_id), { expect: 403 })
    await world.h.operator.delete(orphanPath(place, randomUUID()), { expect: 404 })
    const key = { key: randomUUID() }
    const path = orphanPath(place, provider_id)
    const { body, status } = await world.h.operator.delete<{ orphan: object }>(path, key)
    expect(status).toBe(202)
    expect(body.orphan).toMatchObject({ provider_id, removal: { user_id: expect.any(String), error: null } })
    await world.h.operator.delete(path, key)
    await untilOrphans(world, place, [])
    await world.h.operator.delete(path, key) // the same request is answered as before, also now
    await world.h.operator.delete(path, { expect: 404 })
    expect((await lifeOf(place, provider_id)).gone_at).not.toBeNull()
    const [asked, ...more] = await untilTold(place, 'cloud.orphan_removal_requested', 1)
    expect(more).toEqual([])
    expect(asked).toMatchObject({ cause: { actor: { user_id: expect.any(String), request_id: expect.any(String) } } })
    const removed = await untilTold(place, 'cloud.orphan_removed', 1)
    expect(removed).toMatchObject([{ snapshot: { provider_id }, cause: { event: (asked as { id?: string }).id } }])
  })

  test('as EC2 shows machines that are gone for a while: it is not found again', async () => {
    const place = await world.place({
      configuration: { presents_as: 'aws', terminated_visible_ms: 60_000 },
    })
    const provider_id = await machineAt(world, place, 'orphan')
    await remove(place, provider_id)
    await untilOrphans(world, place, [])
    await lookAgain(world, place)
    await untilTold(place, 'cloud.orphan_removed', 1)
    expect(await cloudEvents(world, place, 'cloud.orphan_found')).toHaveLength(1)
    expect(await orphansAt(world, place)).toEqual([])
  })

  const faults: [string, FaultInput['effect']][] = [
    ['lost replies', { kind: 'lost_reply' }],
    ['no connection', { kind: 'down' }],
    ['a refusal', { kind: 'error', class: 'conflict' }],
    ['throttling', { kind: 'error', class: 'throttled', retry_after_ms: 100 }],
    ['an answer without effect', { kind: 'ignored' }],
  ]
  test.each(faults)('is removed in spite of %s', async (_name, effect) => {
    const place = await world.place()
    const provider_id = await machineAt(world, place, 'orphan')
    await place.cloud.control.fault({ match: { verb: 'delete' }, times: 1, effect })
    await remove(place, provider_id)
    await untilOrphans(world, place, [])
    expect((await lifeOf(place, provider_id)).gone_at).not.toBeNull()
    expect(await untilTold(place, 'cloud.orphan_removed', 1)).toHaveLength(1)
  })

  test('that the cloud does not let go says why; a machine of ours is none, whoever asks', async () => {
    const place = await world.place()
    const provider_id = await machineAt(world, place, 'orphan')
    await place.cloud.control.fault({ match: { verb: 'delete' }, effect: { kind: 'error', class: 'conflict' } })
    await remove(place, provider_id)
    await waitFor(
      async () => (await orphansAt(world, place))[0]?.removal?.error?.class === 'conflict',
      wait('the reason to be told'),
    )
    await place.cloud.control.noFaults()
    await untilOrphans(world, place, [])
    const { id } = await world.order(place.project, { count: 1 })
    await untilOrder(place.project.api, id, ['running'])
    const [instance] = await instancesOf(place.project.api, id)
    await world.h.operator.delete(orphanPath(place, instance!.provider_id!), { expect: 404 })
  })
})

test('the service ends after a removal was accepted: it is done afterwards', async () => {
  const place = await world.place()
  const provider_id = await machineAt(world, place, 'orphan')
  await place.cloud.control.fault({ match: { verb: 'delete' }, effect: { kind: 'hang' } })
  await remove(place, provider_id)
  const asked = async () =>
    (await place.cloud.control.ledger()).some(({ kind, verb }) => kind === 'request' && verb === 'delete')
  await waitFor(asked, wait('the deletion to be under way'))
  await world.h.stopService()
  expect((await lifeOf(place, provider_id)).gone_at).toBeNull()
  await place.cloud.control.noFaults()
  await world.h.startService()
  await untilOrphans(world, place, [])
  expect((await lifeOf(place, provider_id)).gone_at).not.toBeNull()
})

test('afterwards record, clouds and receivers agree', async () => {
  await world.judgeAll()
}, 120_000)
