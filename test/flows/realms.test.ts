/** What clouds tell of their realms, sizes and images: kept, told when it changes, and not doubted when they are silent. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { CloudConfigurationInput } from '../../providers/simulated/configuration.ts'
import { untilOrder } from '../support/flow.ts'
import { cloudEvents, lookAgain, wait } from '../support/found-machines.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
beforeAll(async () => {
  world = await startWorld()
})
afterAll(() => world.close())

interface Told {
  readonly realms?: { provider_id: string; name: string; available: boolean; since: string }[]
  readonly sizes?: { name: string; vcpus: number; memory_mib: number; disk_gib: number }[]
  readonly images?: { name: string }[]
  readonly seen_at: string | null
  readonly failing_since: string | null
  readonly last_error: { class: string } | null
  readonly next: string | null
}

async function told(place: Place, what: 'realms' | 'sizes' | 'images', query = ''): Promise<Told> {
  return (await place.project.api.get<Told>(`/api/clouds/${place.cloud.name}/${what}${query}`)).body
}

/** Has the cloud asked again, and waits until it told this. */
async function untilTold(
  place: Place,
  what: 'realms' | 'sizes' | 'images',
  expected: (now: Told) => boolean,
): Promise<Told> {
  await lookAgain(world, place)
  const look = async () => {
    const now = await told(place, what)
    return expected(now) && now
  }
  return (await waitFor(look, wait(`the ${what} to be told`))) as Told
}

/** Realms as `north south`, those that are not available in brackets. */
const open = (words: string) => (now: Told) =>
  now.realms!.map(({ name, available }) => (available ? name : `(${name})`)).join(' ') === words

const realm = (name: string, available = true) => ({ id: `id-${name}`, name, available })
const setRealms = (place: Place, ...realms: ReturnType<typeof realm>[]) =>
  place.cloud.control.change({ realms } satisfies CloudConfigurationInput)

describe.concurrent('realms', () => {
  test('that go away and come back are told once each, with since when', async () => {
    const place = await world.place({ configuration: { realms: [realm('north'), realm('south')] } })
    const first = await untilTold(place, 'realms', open('north south'))
    expect(first.realms).toMatchObject([{ provider_id: 'id-north' }, { provider_id: 'id-south' }])
    expect(first).toMatchObject({ failing_since: null, last_error: null, next: null })
    await setRealms(place, realm('north'), realm('south', false))
    const away = await untilTold(place, 'realms', open('north (south)'))
    expect(away.realms![0]!.since).toBe(first.realms![0]!.since)
    expect(away.realms![1]!.since > first.realms![1]!.since).toBe(true)
    await untilTold(place, 'realms', ({ seen_at }) => seen_at! > away.seen_at!) // nothing new
    await setRealms(place, realm('north'), realm('south'))
    await untilTold(place, 'realms', open('north south'))
    // One that is not named any more is closed, too.
    await setRealms(place, realm('south'))
    await untilTold(place, 'realms', open('(north) south'))
    const events = await waitFor(async () => {
      const found = await cloudEvents(world, place, 'cloud.realm_changed')
      return found.length >= 3 && found
    }, wait('three events'))
    expect(events).toMatchObject([
      {
        snapshot: { realm: 'south', from: 'available', to: 'unavailable' },
        cause: { rule: 'surveyed', evidence: { observed_at: expect.any(String) } },
      },
      { snapshot: { realm: 'south', from: 'unavailable', to: 'available' }, cause: { evidence: { named: true } } },
      { snapshot: { realm: 'north', from: 'available', to: 'unavailable' }, cause: { evidence: { named: false } } },
    ])
  })

  test('a cloud that does not tell them proves nothing, and is watched all the same', async () => {
    const place = await world.place({ configuration: { realms: [realm('north')] } })
    const before = await untilTold(place, 'realms', open('north'))
    await place.cloud.control.fault({ match: { verb: ['realms', 'sizes'] }, effect: { kind: 'answer', status: 500 } })
    await setRealms(place)
    const failing = await untilTold(place, 'realms', ({ failing_since }) => failing_since !== null)
    expect(failing).toMatchObject({ seen_at: expect.any(String), last_error: { class: 'unavailable' } })
    expect(failing.realms).toEqual(before.realms)
    // Images are asked for all the same, and machines are seen.
    const { seen_at } = await told(place, 'images')
    await untilTold(place, 'images', (now) => now.seen_at !== seen_at)
    const { id } = await world.order(place.project, { count: 1 })
    await untilOrder(place.project.api, id, ['running'])
    await place.cloud.control.noFaults()
    expect(await untilTold(place, 'realms', open('(north)'))).toMatchObject({ failing_since: null })
    expect(await cloudEvents(world, place, 'cloud.realm_changed')).toHaveLength(1)
  })

  test('a survey that never ends holds up nothing', async () => {
    const place = await world.place({ settings: { call_timeout_ms: 30_000 } })
    await place.cloud.control.fault({ match: { verb: ['realms', 'sizes', 'images'] }, effect: { kind: 'hang' } })
    await lookAgain(world, place)
    const { id } = await world.order(place.project, { count: 1 })
    await untilOrder(place.project.api, id, ['running'])
    await lookAgain(world, place)
    expect(await told(place, 'realms')).toMatchObject({ realms: [], seen_at: null })
  })
})

describe.concurrent('sizes and images', () => {
  test('are those the cloud has now, in its own names, page by page', async () => {
    const size = (name: string, vcpus: number) => ({ id: name, name, vcpus, memory_mib: 1_024, disk_gib: 10 })
    const place = await world.place({
      configuration: {
        sizes: [size('a', 1), size('b', 2), size('c', 4)],
        images: [{ id: 'i1', name: 'debian-13' }],
      },
    })
    const names = (words: string) => (now: Told) => now.sizes!.map(({ name }) => name).join(' ') === words
    expect((await untilTold(place, 'sizes', names('a b c'))).sizes).toMatchObject([
      { name: 'a', vcpus: 1, memory_mib: 1_024, disk_gib: 10 },
      { name: 'b', vcpus: 2 },
      { name: 'c', vcpus: 4 },
    ])
    const page = await told(place, 'sizes', '?limit=2')
    expect(page.sizes!.map(({ name }) => name)).toEqual(['a', 'b'])
    expect((await told(place, 'sizes', `?limit=2&cursor=${page.next}`)).sizes).toMatchObject([{ name: 'c' }])
    await place.cloud.control.change({ sizes: [size('b', 3), size('d', 8)] })
    const changed = await untilTold(place, 'sizes', names('b d'))
    expect(changed.sizes).toMatchObject([
      { name: 'b', vcpus: 3 },
      { name: 'd', vcpus: 8 },
    ])
    await untilTold(place, 'images', ({ images }) => images!.map(({ name }) => name).join() === 'debian-13')
    const stranger = await world.h.project()
    await stranger.api.get(`/api/clouds/${place.cloud.name}/sizes`, { expect: 404 })
  })
})

test('afterwards record, clouds and receivers agree', async () => {
  await world.judgeAll()
}, 120_000)
