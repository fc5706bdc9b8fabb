import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { isAway, leave, openStore, type Store, write } from '../../store/database.ts'
import { within } from '../../store/idempotency.ts'
import { acceptOrder } from '../../store/orders.ts'
import { ensureDefaultIdentity } from '../../store/projects.ts'
import { type FreshStore, freshStore } from '../support/database.ts'

let fresh: FreshStore
let store: Store
beforeAll(async () => {
  fresh = await freshStore()
  store = openStore(fresh.database_url, { size: 1 })
})
afterAll(async () => {
  await store.close()
  await fresh.close()
})

test('a statement that a migration outdated is away once, and works on the next connection', async () => {
  await sql`create table growing (id int)`.execute(store.db)
  await sql`insert into growing (id) values (${1})`.execute(store.db)
  const read = () => sql`select * from growing where id = ${1}`.execute(store.db)
  const pid = async () => (await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(store.db)).rows[0]!.pid
  const before = await pid()
  for (let times = 0; times < 3; times++) expect((await read()).rows).toEqual([{ id: 1 }])
  await sql`alter table growing add column name text`.execute(fresh.store.db)
  await expect(read()).rejects.toSatisfy(isAway)
  expect((await read()).rows).toEqual([{ id: 1, name: null }])
  expect(await pid()).not.toBe(before)
})

test('an order is accepted by a statement that is prepared: planning it anew costs more than the rest', async () => {
  const { project_id, user_id } = await ensureDefaultIdentity(store)
  const order = {
    name: 'o',
    count: 1,
    policy: 'all',
    cloud_ids: [],
    size: 's',
    image: 'i',
    sealed_user_data: null,
  } as const
  await acceptOrder(store, { project_id, user_id, request_id: 'req_test' }, order, null)
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from pg_prepared_statements where statement like '%insert into launch_orders%'`.execute(
    store.db,
  )
  expect(rows[0]!.count).toBe(1)
})

test('what a change leaves for others is told after the commit, also from inside another transaction of ours', async () => {
  const told: string[][] = []
  store.onCommit = (topics) => void told.push([...topics])
  await write(store, async (trx) => {
    leave(trx, 'events')
    await write(within(store, trx), async (inner) => leave(inner, 'outbox'))
    expect(told).toEqual([])
  })
  expect(told).toEqual([['events', 'outbox']])
})
