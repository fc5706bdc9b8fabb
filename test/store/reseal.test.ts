/** A change of the master key: what the old one sealed is sealed anew, and opens afterwards without the old one. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createEnvelope } from '../../store/envelope.ts'
import { countOld, resealOld } from '../../store/reseal.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'

const NEW = { id: 'new', key: Buffer.alloc(32, 2) }

let server: ApiServer
beforeAll(async () => {
  server = await startApi()
})
afterAll(() => server.close())

test('every column that is sealed is in the list', async () => {
  const { rows } = await sql<{ place: string }>`
    select table_name || '.' || column_name as place from information_schema.columns
    where table_schema = 'public' and data_type = 'bytea' order by 1`.execute(server.store.db)
  const plain = ['events.digest', 'idempotency_keys.request_hash', 'instances.content_hash', 'tokens.hash']
  const text = await readFile(join(import.meta.dirname, '../../store/reseal.ts'), 'utf8')
  const listed = [...text.matchAll(/table: '(\w+)',\s+column: '(\w+)'/g)].map(
    ([, table, column]) => `${table}.${column}`,
  )
  expect(rows.map(({ place }) => place).filter((place) => !plain.includes(place))).toEqual(listed.toSorted())
})

test('sealed anew, piece by piece, and the old key is not needed any more', async () => {
  const { envelope: old, store } = server
  const api = await server.client('web')
  await server.cloud('east', ['web'], { credential: 'sesame' })
  await api.post('/api/credentials', { name: 'mine', cloud: 'east', secret: 'open' })
  await api.post('/api/hooks', { uri: 'http://127.0.0.1:9/' }, { key: 'once' })
  const order = { name: 'web', image_id: 'debian', hwp_id: 'small', user_data: '#!/bin/sh' }
  await api.post('/api/cloud_state/instances', order)
  await api.post('/api/launch-orders', { name: 'o', size: 'small', image: 'debian', user_data: 'secret' })
  expect(await countOld(store.db, old)).toBe(0)

  const both = createEnvelope({ current: NEW, old: [server.master_key] })
  const count = await countOld(store.db, both)
  expect(count).toBe(7)
  expect(await resealOld(store, both)).toBe(count)
  expect(await resealOld(store, both)).toBe(0)
  const alone = createEnvelope({ current: NEW })
  expect(await countOld(store.db, alone)).toBe(0)
  const rows = await store.db.selectFrom('credentials').select(['id', 'sealed']).orderBy('name').execute()
  expect(rows.map(({ id, sealed }) => alone.open(sealed!, id))).toEqual(['sesame', 'open'])
})
