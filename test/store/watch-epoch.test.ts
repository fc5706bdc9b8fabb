/** A watcher that was replaced writes nothing: not what it saw, not what it was told, not what it did. */
import { v7 as newId } from 'uuid'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Machine } from '../../domain/machine.ts'
import { findOrphan, listOrphans, noteAbsentOrphans, noteOrphans, storeRemovals } from '../../store/orphans.ts'
import { listOffers, listRealms, storeSurvey } from '../../store/surveys.ts'
import { beginWatch, cloudChanged, StaleWatcher } from '../../store/watch-epoch.ts'
import { type HookWorld, hookWorld } from '../support/hook-world.ts'

let world: HookWorld
beforeAll(async () => {
  world = await hookWorld()
})
afterAll(() => world.close())

const machine: Machine = {
  provider_id: 'found',
  attempt_id: null,
  state: 'running',
  raw_state: 'ACTIVE',
  public_addresses: [],
  private_addresses: [],
  created_at: null,
}

test('writes of a watch that was taken over are refused', async () => {
  const { store } = world
  const id = newId()
  const name = `cloud-${id}`
  await store.db
    .insertInto('clouds')
    .values({ id, name, provider: 'simulated', endpoint: 'http://127.0.0.1:1' })
    .execute()
  const old = (await beginWatch(store, name))!
  await noteOrphans(store, old, null, [machine], new Date())
  const current = (await beginWatch(store, name))!
  const now = new Date(Date.now() + 1_000)
  const [orphan] = await listOrphans(store.db, id, { limit: 10 })
  const entries = [{ provider_id: 'one', name: 'one' }]
  const error = { class: 'unavailable', message: 'away', at: now.toISOString() }
  const writes: ((cloud: typeof old) => Promise<void>)[] = [
    (cloud) => noteOrphans(store, cloud, null, [{ ...machine, provider_id: 'other' }], now),
    (cloud) => noteAbsentOrphans(store, cloud, null, [], now),
    (cloud) => storeSurvey(store, cloud, 'realm', now, { entries }),
    (cloud) => storeSurvey(store, cloud, 'size', now, { entries }),
    (cloud) => storeSurvey(store, cloud, 'image', now, { error }),
    (cloud) => storeRemovals(store, cloud, [{ orphan: orphan!, error }]),
  ]
  const state = async () => ({
    orphans: (await listOrphans(store.db, id, { limit: 10 })).map(({ provider_id }) => provider_id),
    absent: (await findOrphan(store.db, id, 'found'))?.absent_lists,
    removal: (await findOrphan(store.db, id, 'found'))?.removal,
    realms: (await listRealms(store.db, id, { limit: 10 })).length,
    sizes: (await listOffers(store.db, id, 'size', { limit: 10 })).length,
    surveys: (await store.db.selectFrom('cloud_surveys').selectAll().where('cloud_id', '=', id).execute()).length,
  })
  const before = await state()
  expect(before).toEqual({ orphans: ['found'], absent: 0, removal: null, realms: 0, sizes: 0, surveys: 0 })
  for (const write of writes) await expect(write(old)).rejects.toBeInstanceOf(StaleWatcher)
  expect(await state()).toEqual(before)
  for (const write of writes) await write(current)
  expect(await state()).toMatchObject({ orphans: ['found', 'other'], absent: 1, realms: 1, sizes: 1, surveys: 3 })
})

test('a watch begins anew when an operator changes its cloud, and not for what it found itself', async () => {
  const { store } = world
  const id = newId()
  const name = `cloud-${id}`
  await store.db
    .insertInto('clouds')
    .values({ id, name, provider: 'simulated', endpoint: 'http://127.0.0.1:1' })
    .execute()
  const cloud = (await beginWatch(store, name))!
  await noteOrphans(store, cloud, null, [machine], new Date())
  expect(await cloudChanged(store.db, cloud)).toBe(false)
  await store.db
    .updateTable('clouds')
    .set({ settings: JSON.stringify({ page: 2 }) })
    .where('id', '=', id)
    .execute()
  expect(await cloudChanged(store.db, cloud)).toBe(true)
})
