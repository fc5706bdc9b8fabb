/** Clouds of files taken over by several processes at once: each step held where it matters. */
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Secret } from '../../domain/secret.ts'
import { type ConfiguredCloud, type FoundClouds, importClouds } from '../../store/cloud-files.ts'
import { insertCloud } from '../../store/clouds.ts'
import { write } from '../../store/database.ts'
import { createEnvelope } from '../../store/envelope.ts'
import { ensureDefaultIdentity } from '../../store/projects.ts'
import { type FreshStore, freshStore } from '../support/database.ts'
import { waitFor } from '../support/wait-for.ts'

const envelope = createEnvelope({ current: { id: 'test', key: randomBytes(32) } })
const FIELDS = {
  endpoint: 'http://127.0.0.1:1/clouds/lab',
  settings: {},
  sizes: { small: 'm1.small' },
  images: {},
  prices: {},
  priority: 0,
  enabled: true,
  allocation: null,
}

let fresh: FreshStore
beforeEach(async () => {
  fresh = await freshStore()
})
afterEach(() => fresh.close())

const lab = (change: Partial<ConfiguredCloud> = {}): ConfiguredCloud => ({
  ...FIELDS,
  name: 'lab',
  file: 'clouds/lab.conf',
  provider: 'simulated',
  credential: new Secret('sesame'),
  ...change,
})
const found = (...clouds: ConfiguredCloud[]): FoundClouds => ({
  clouds,
  present: new Set(clouds.map(({ name }) => name)),
})
const take = (read: () => FoundClouds | Promise<FoundClouds>) => importClouds(fresh.store, envelope, async () => read())

/** Until a transaction waits for another one. */
const somebodyWaits = () =>
  waitFor(
    async () => {
      const { rows } = await sql`select from pg_locks where not granted`.execute(fresh.store.db)
      return rows.length > 0
    },
    { what: 'a transaction to wait' },
  )

test('who read before a change does not put back what was taken over after it', async () => {
  let priority = 1
  const has_read = Promise.withResolvers<void>()
  const go_on = Promise.withResolvers<void>()
  const slow = take(async () => {
    const before = found(lab({ priority }))
    has_read.resolve()
    await go_on.promise
    return before
  })
  await has_read.promise
  priority = 2
  const quick = take(() => found(lab({ priority })))
  await somebodyWaits()
  go_on.resolve()
  expect(await Promise.all([slow, quick])).toEqual([[], []])
  expect(await fresh.store.db.selectFrom('clouds').select(['priority', 'sequence']).execute()).toEqual([
    { priority: 2, sequence: 2 },
  ])
})

test('a name that the API takes meanwhile stays the API`s, and nothing of the file is left', async () => {
  const { project_id, user_id } = await ensureDefaultIdentity(fresh.store)
  const is_made = Promise.withResolvers<void>()
  const commit = Promise.withResolvers<void>()
  const through_api = write(fresh.store, async (trx) => {
    const caller = { project_id, user_id, request_id: 'req_test' }
    await insertCloud(trx, caller, { ...FIELDS, id: newId(), name: 'lab', provider: 'simulated', priority: 7 }, null)
    is_made.resolve()
    await commit.promise
  })
  await is_made.promise
  const import_it = take(() => found(lab()))
  await somebodyWaits()
  commit.resolve()
  await through_api
  expect(await import_it).toEqual([
    { file: 'clouds/lab.conf', reason: expect.stringContaining('made through the API') },
  ])
  expect(await fresh.store.db.selectFrom('clouds').select(['source', 'priority']).execute()).toEqual([
    { source: 'api', priority: 7 },
  ])
  expect(await fresh.store.db.selectFrom('credentials').select('id').execute()).toEqual([])
})

test('where nobody can tell which files there are nothing is retired', async () => {
  await take(() => found(lab()))
  await take(() => ({ clouds: [], present: null }))
  await take(() => ({ clouds: [], present: new Set(['lab']) }))
  expect(await fresh.store.db.selectFrom('clouds').select('retired_at').execute()).toEqual([{ retired_at: null }])
  await take(() => found())
  await take(() => found())
  expect(await fresh.store.db.selectFrom('clouds').select(['enabled', 'sequence']).execute()).toEqual([
    { enabled: false, sequence: 2 },
  ])
})
