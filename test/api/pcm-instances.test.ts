/** PCM v2: instances that outlive what ordered them: a grant, their own failure, a request that is sent again. */
import { randomUUID } from 'node:crypto'
import { type RawBuilder, sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listPcmInstances } from '../../store/pcm.ts'
import type { ApiClient } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { openPcmClient, type PcmClient } from '../support/pcm-client.ts'

let server: ApiServer
let api: ApiClient
let pcm: PcmClient
beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.client('late')
  await server.cloud('east', ['web'])
  await server.cloud('north', ['late'])
  pcm = openPcmClient(server.url, await server.token('web', 'member'))
})
afterAll(() => server.close())

const AT = '/v2/clouds/east/instances'
const NEW = { size: 'small', image: 'debian' }
const key = () => ({ 'idempotency-key': randomUUID() })
const create = async (at = AT): Promise<string> => (await pcm('POST', at, NEW)).body.id

type State = 'running' | 'failed' | 'missing' | 'terminated'
/** As its flow and its cloud would leave it; over since some hours. */
async function set(id: string, state: State, { hours = 0, has_machine = false } = {}): Promise<void> {
  const { db } = server.store
  const ended: RawBuilder<Date> = sql`record_now() - ${hours} * interval '1 hour'`
  const values = { state, terminated_at: state === 'running' ? null : ended }
  await db.updateTable('instances').set(values).where('id', '=', id).execute()
  const machine = has_machine ? { provider_id: `m-${id}`, answered_at: new Date() } : {}
  if (has_machine) await db.updateTable('launch_attempts').set(machine).where('instance_id', '=', id).execute()
}

const isListed = async (id: string) => {
  const { body } = await pcm('GET', AT)
  return (body as { id: string }[]).some((instance) => instance.id === id)
}

test.each([
  ['an object', { toString: 1 }],
  ['a list', ['reboot']],
  ['a number', 5],
  ['nothing', null],
])('a status that is %s is refused', async (_, status) => {
  const id = await create()
  expect(await pcm('PUT', `${AT}/${id}`, { status })).toMatchObject({
    status: 400,
    body: { message: `Cannot update to status "${JSON.stringify(status)}"` },
  })
  expect(server.logged).toEqual([])
})

describe('at a cloud the project may not use any more', () => {
  const there = '/v2/clouds/west/instances'
  let id: string
  beforeAll(async () => {
    await server.cloud('west', ['web'])
    id = await create(there)
    await set(id, 'running')
    await server.operator.delete('/api/clouds/west/grants/web')
  })

  test('instances are listed and read', async () => {
    expect((await pcm('GET', there)).body).toMatchObject([{ id, status: 'active' }])
    expect((await pcm('GET', `${there}/${id}`)).body).toMatchObject({ id })
    expect((await pcm('GET', `${there}/${id}/console_log`)).body.message).toBe(`Instance ${id} has no console log`)
    expect((await pcm('GET', `${there}/${randomUUID()}`)).body.message).toMatch(/does not exist in cloud west$/)
  })

  test('none is made', async () => {
    expect(await pcm('POST', there, NEW)).toMatchObject({ status: 404, body: { message: 'No such cloud "west"' } })
  })

  test('they are switched and ended; with the last, the cloud is not there', async () => {
    expect(await pcm('PUT', `${there}/${id}`, { status: 'reboot' })).toMatchObject({ status: 202, body: { id } })
    expect((await pcm('DELETE', `${there}/${id}`)).status).toBe(202)
    await set(id, 'terminated', { hours: 2 })
    for (const path of [there, `${there}/${id}`])
      expect(await pcm('GET', path)).toMatchObject({ status: 404, body: { message: 'No such cloud "west"' } })
  })

  test('a name that can be none is no cloud', async () => {
    expect(await pcm('GET', '/v2/clouds/%00/instances')).toMatchObject({ status: 404 })
    expect(await pcm('DELETE', `/v2/clouds/%00/instances/${randomUUID()}`)).toMatchObject({ status: 404 })
  })

  test('one without an instance there has no such cloud, whoever else has', async () => {
    for (const path of ['', `/${randomUUID()}`])
      expect(await pcm('GET', `/v2/clouds/north/instances${path}`)).toMatchObject({
        status: 404,
        body: { message: 'No such cloud "north"' },
      })
  })
})

describe('over for long', () => {
  test.each(['failed', 'missing'] as const)('one that is %s is there as long as its machine lives', async (state) => {
    const id = await create()
    await set(id, state, { hours: 2, has_machine: true })
    expect((await pcm('GET', `${AT}/${id}`)).status).toBe(200)
    expect(await isListed(id)).toBe(true)
    expect((await pcm('DELETE', `${AT}/${id}`)).status).toBe(202)
    const gone = { gone_at: new Date() }
    await server.store.db.updateTable('launch_attempts').set(gone).where('instance_id', '=', id).execute()
    expect((await pcm('GET', `${AT}/${id}`)).status).toBe(404)
    expect(await isListed(id)).toBe(false)
  })

  test.each(['failed', 'missing', 'terminated'] as const)('one that is %s and has no machine is not', async (state) => {
    const id = await create()
    await set(id, state)
    expect((await pcm('GET', `${AT}/${id}`)).status).toBe(200)
    await set(id, state, { hours: 2 })
    expect((await pcm('GET', `${AT}/${id}`)).status).toBe(404)
    expect(await isListed(id)).toBe(false)
  })
})

test('where not all are listed, those that are over are left out first', async () => {
  const [oldest, older, ended] = [await create(), await create(), await create()]
  await set(ended, 'terminated')
  const { db } = server.store
  const { project_id, cloud_ids } = await db
    .selectFrom('launch_orders')
    .innerJoin('instances', 'instances.order_id', 'launch_orders.id')
    .select(['launch_orders.project_id', 'cloud_ids'])
    .where('instances.id', '=', ended)
    .executeTakeFirstOrThrow()
  const list = async (limit: number) =>
    (await listPcmInstances(db, project_id, cloud_ids[0]!, limit)).map(({ id }) => id)
  expect(await list(2)).toEqual([older, oldest])
  expect((await list(1_000)).slice(0, 3)).toEqual([ended, older, oldest])
})

describe('the same request again, under its key', () => {
  test('an end is an end, at once and when it is forgotten', async () => {
    const id = await create()
    const path = `${AT}/${id}`
    const headers = key()
    expect((await pcm('DELETE', path, undefined, headers)).status).toBe(202)
    expect((await pcm('DELETE', path, undefined, headers)).status).toBe(202)
    for (const hours of [0, 2]) {
      await set(id, 'terminated', { hours })
      expect(await pcm('DELETE', path, undefined, headers)).toMatchObject({ status: 204, text: '' })
      expect((await pcm('DELETE', path)).status).toBe(404)
    }
    const other = await create()
    expect((await pcm('DELETE', `${AT}/${other}`, undefined, headers)).status).toBe(409)
  })

  test('an instance that failed since it was accepted is shown as it is', async () => {
    const headers = key()
    const { status, body } = await pcm('POST', AT, NEW, headers)
    expect(status).toBe(202)
    await set(body.id, 'failed')
    expect(await pcm('POST', AT, NEW, headers)).toMatchObject({ status: 202, body: { id: body.id, status: 'error' } })
    // Whoever waits wants to know what came of it.
    expect((await pcm('POST', AT, NEW, { ...headers, prefer: 'wait=5' })).status).toBe(503)
  })

  test('one that failed after the cloud had taken it was made', async () => {
    const headers = { ...key(), prefer: 'wait=5' }
    const { id } = (await pcm('POST', `${AT}?wait=0`, NEW, { 'idempotency-key': headers['idempotency-key'] })).body
    await set(id, 'failed', { has_machine: true })
    expect(await pcm('POST', `${AT}?wait=0`, NEW, headers)).toMatchObject({
      status: 201,
      body: { id, status: 'error' },
    })
  })

  test('answers as the document says', async () => {
    const path = `/pcm_api${AT}`
    const options = { key: randomUUID(), expect: 202 }
    const { body } = await api.post<{ id: string }>(path, NEW, options)
    await set(body.id, 'failed')
    await api.post(path, NEW, options)
    const ending = { key: randomUUID() }
    await api.delete(`${path}/${body.id}`, { ...ending, expect: 202 })
    await set(body.id, 'terminated')
    await api.delete(`${path}/${body.id}`, { ...ending, expect: 204 })
  })
})
