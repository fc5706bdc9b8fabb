/** Plans of large deployments: in short transactions, however many instances or orders there are to look at. */
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { planDeployment } from '../../store/deployment-plan.ts'
import type { ApiClient } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { actOnDeployment } from '../support/flow.ts'

let server: ApiServer
let api: ApiClient
beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.cloud('east', ['web'])
})
afterAll(() => server.close())

/** Orders of one deployment, with so many instances each; nothing looks after them. */
async function deployed(name: string, ...counts: readonly number[]): Promise<{ id: string; orders: string[] }> {
  const orders: string[] = []
  let id = ''
  for (const count of counts) {
    const order = { name: 'w', size: 'small', image: 'debian', deployment: name, count }
    const { body } = await api.post<{ launch_order: { id: string; deployment: { id: string } } }>(
      '/api/launch-orders',
      order,
    )
    orders.push(body.launch_order.id)
    id = body.launch_order.deployment.id
  }
  return { id, orders }
}

const wished = async (deployment_id: string): Promise<number> => {
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from launch_orders where deployment_id = ${deployment_id} and wish = 'cancel'`.execute(
    server.store.db,
  )
  return rows[0]!.count
}

const shown = async (deployment_id: string) =>
  (await api.get<{ actions: object[] }>(`/api/deployments/${deployment_id}/actions`)).body.actions[0]

test('a wave begins with the first instance that it fits, however many there are before', async () => {
  const { id, orders } = await deployed('wide', 1_000, 1_000, 3)
  await sql`update instances set state = 'running' where order_id = ${orders[2]}`.execute(server.store.db)
  await actOnDeployment(api, id, { action: 'stop', wave_size: 2 })
  expect(await planDeployment(server.store, id)).toMatchObject({
    done: false,
    steps: [],
    sleep_ms: 30_000,
    why: 'waiting for the stop of 2 of 2 instances of wave 1',
  })
  expect(await shown(id)).toMatchObject({ wave: 1, counts: { skipped: 2_000, open: 2, waiting: 1 } })
  // Planned again it finds the same.
  await planDeployment(server.store, id)
  expect(await shown(id)).toMatchObject({ wave: 1, counts: { skipped: 2_000, open: 2, waiting: 1 } })
})

test('what comes to a deployment after the wish is not meant by it', async () => {
  const { id } = await deployed('grows', 2)
  await sql`update instances set state = 'running' where deployment_id = ${id}`.execute(server.store.db)
  await actOnDeployment(api, id, { action: 'stop', wave_size: 5 })
  await deployed('grows', 2)
  await sql`update instances set state = 'running' where deployment_id = ${id}`.execute(server.store.db)
  await planDeployment(server.store, id)
  expect(await shown(id)).toMatchObject({ wave: 1, counts: { open: 2, waiting: 0, skipped: 0 } })
})

test('orders are ended some at a time, each once, and those that are over already are done', async () => {
  const { id, orders } = await deployed('many', ...Array.from({ length: 110 }, () => 1))
  await actOnDeployment(api, id, { action: 'terminate' })
  expect(await planDeployment(server.store, id)).toMatchObject({ done: false, sleep_ms: 1 })
  expect(await wished(id)).toBe(100)
  expect(await planDeployment(server.store, id)).toMatchObject({
    done: false,
    sleep_ms: 30_000,
    why: 'waiting for the end of 110 orders',
  })
  expect(await wished(id)).toBe(110)
  await sql`update launch_orders set state = 'cancelled', due_at = null where id = any(${orders}::uuid[])`.execute(
    server.store.db,
  )
  expect(await planDeployment(server.store, id)).toMatchObject({ done: true, state: 'done' })
  const { rows } = await sql<{ wish_version: number; told: number }>`
    select wish_version, (select count(*)::int from events where resource_id = launch_orders.id and type = 'order.wish_changed') as told
    from launch_orders where deployment_id = ${id} group by 1, 2`.execute(server.store.db)
  expect(rows).toEqual([{ wish_version: 2, told: 1 }])
}, 120_000)

test('two plans at once open a wave once', async () => {
  const { id } = await deployed('twice', 6)
  await sql`update instances set state = 'running' where deployment_id = ${id}`.execute(server.store.db)
  await actOnDeployment(api, id, { action: 'restart', wave_size: 4 })
  await Promise.all([1, 2, 3].map(() => planDeployment(server.store, id)))
  expect(await shown(id)).toMatchObject({ wave: 1, counts: { open: 4, waiting: 2 } })
})

test('a deployment that nothing is asked of is done', async () => {
  const { id } = await deployed('calm', 1)
  expect(await planDeployment(server.store, id)).toMatchObject({ done: true })
})
