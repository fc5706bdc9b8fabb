/** Credentials over the wire: kept, replaced, erased, and never shown. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'

interface Shown {
  readonly credential: {
    readonly id: string
    readonly href: string
    readonly name: string
    readonly cloud: string
    readonly state: string
    readonly version: number
    readonly machines: number
    readonly sequence: number
  }
}

const SECRET = 'sesame-open-4711'
const PATH = '/api/credentials'

let server: ApiServer
let api: ApiClient
let stranger: ApiClient
beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  stranger = await server.client('other')
  await server.cloud('east', ['web', 'other'])
  await server.cloud('west', ['web'])
})
afterAll(() => server.close())

let number = 0
const keep = async (more: Record<string, unknown> = {}) => {
  const input = { name: `account-${++number}`, cloud: 'east', secret: SECRET, ...more }
  return (await api.post<Shown>(PATH, input, { expect: 201 })).body.credential
}
const order = (credentials: unknown[]) => ({ name: 'web', size: 'small', image: 'debian', credentials })

describe('kept', () => {
  test('it is shown without its secret, to its project alone', async () => {
    const credential = await keep()
    expect(credential).toMatchObject({ cloud: 'east', state: 'ok', version: 1, machines: 0 })
    expect((await api.get<Shown>(credential.href)).body.credential).toEqual(credential)
    await stranger.get(credential.href, { expect: 404 })
    await stranger.patch(credential.href, { secret: 'mine' }, { expect: 404 })
    await stranger.delete(credential.href, { expect: 404 })
    const { body } = await api.get<{ credentials: Shown['credential'][] }>(`${PATH}?limit=1`)
    expect(body.credentials).toEqual([credential])
  })

  test('a secret is in no answer, no event, no log and no row but sealed', async () => {
    const { id, href } = await keep()
    await api.patch(href, { secret: `${SECRET}-2` }, { key: 'replace' })
    await api.post('/api/launch-orders', order([{ cloud: 'west', secret: `${SECRET}-3` }]), { key: 'order' })
    await server.stamp()
    const { text } = await rowsWith(SECRET)
    expect(text).toEqual([])
    expect(server.logged.join('\n')).not.toContain(SECRET)
    const row = await server.store.db
      .selectFrom('credentials')
      .select('sealed')
      .where('id', '=', id)
      .executeTakeFirstOrThrow()
    expect(server.envelope.open(row.sealed!, id)).toBe(`${SECRET}-2`)
  })

  test('names are taken once, and free again afterwards', async () => {
    const { name, href } = await keep()
    await api.post(PATH, { name, cloud: 'east', secret: 'x' }, { expect: 409 })
    await stranger.post(PATH, { name, cloud: 'east', secret: 'x' }, { expect: 201 })
    const other = await keep()
    await api.patch(other.href, { name }, { expect: 409 })
    await api.delete(href, { expect: 204 })
    await api.get(href, { expect: 404 })
    await api.post(PATH, { name, cloud: 'east', secret: 'x' }, { expect: 201 })
  })

  test('replaced and moved; its version counts secrets, its ETag changes', async () => {
    const { href, sequence } = await keep({ expires_at: '2020-01-01T00:00:00Z' })
    expect((await api.get<Shown>(href)).body.credential.state).toBe('expired')
    await api.patch(href, { secret: 'new' }, { if_match: `"${sequence + 5}"`, expect: 412 })
    const { body } = await api.patch<Shown>(href, { secret: 'new', expires_at: null }, { if_match: `"${sequence}"` })
    expect(body.credential).toMatchObject({ state: 'ok', version: 2, sequence: sequence + 1 })
    const same = await api.patch<Shown>(href, { expires_at: null })
    expect(same.body.credential.sequence).toBe(sequence + 1)
  })

  test.each<[string, Record<string, unknown>, string]>([
    ['no secret', { secret: undefined }, 'body.secret'],
    ['a cloud it may not use', { cloud: 'north' }, 'body.cloud'],
    ['a term that is no moment', { expires_at: 'soon' }, 'body.expires_at'],
    ['an unknown field', { password: 'x' }, 'body.password'],
  ])('%s is refused', async (_, more, path) => {
    const input = { name: 'bad', cloud: 'east', secret: 'x', ...more }
    const { body } = await api.post<ErrorAnswer>(PATH, input, { expect: 400 })
    expect(body.error.problems?.[0]?.path).toBe(path)
  })
})

describe('in orders', () => {
  test('by id or as they are; one that is in use is not dropped', async () => {
    const east = await keep()
    const input = order([{ id: east.id }, { cloud: 'west', secret: 'inline' }])
    const { body } = await api.post<{ launch_order: { id: string; credentials: string[] } }>(
      '/api/launch-orders',
      input,
    )
    expect(body.launch_order.credentials).toHaveLength(2)
    expect(body.launch_order.credentials).toContain(east.id)
    const inline = body.launch_order.credentials.find((id) => id !== east.id)!
    expect((await api.get<Shown>(`${PATH}/${inline}`)).body.credential).toMatchObject({
      cloud: 'west',
      order_id: body.launch_order.id,
    })
    for (const id of [east.id, inline]) await api.delete(`${PATH}/${id}`, { expect: 409 })
  })

  test.each<[string, () => Promise<unknown[]>, string]>([
    ['of nobody', async () => [{ id: randomUUID() }], 'body.credentials[0].id'],
    ['for a cloud it does not go to', async () => [{ cloud: 'north', secret: 'x' }], 'body.credentials[0]'],
    [
      'two for one cloud',
      async () => [{ id: (await keep()).id }, { cloud: 'east', secret: 'x' }],
      'body.credentials[1]',
    ],
  ])('a credential %s is refused', async (_, credentials, path) => {
    const before = await orders()
    const { body } = await api.post<ErrorAnswer>('/api/launch-orders', order(await credentials()), { expect: 400 })
    expect(body.error.problems?.[0]?.path).toBe(path)
    expect(await orders()).toBe(before)
  })

  test("another project's is as if it were not there", async () => {
    const { id } = await keep()
    await stranger.post('/api/launch-orders', order([{ id }]), { expect: 400 })
  })

  test('a repeat of the same key keeps nothing twice', async () => {
    const input = order([{ cloud: 'west', secret: 'once' }])
    const answers = await Promise.all(
      [1, 2, 3].map(() => api.post<{ launch_order: { id: string } }>('/api/launch-orders', input, { key: 'k1' })),
    )
    const [id] = new Set(answers.map(({ body }) => body.launch_order.id))
    const rows = await server.store.db.selectFrom('credentials').select('id').where('order_id', '=', id!).execute()
    expect(rows).toHaveLength(1)
  })

  test('Cloud State takes them, too', async () => {
    const { id } = await keep()
    const one = { name: 'web', image_id: 'debian', hwp_id: 'small', cloud: 'east' }
    const { body } = await api.post<{ launch_order: { id: string } }>('/api/cloud_state/launch_orders', {
      credentials_id: id,
      instances: [one],
    })
    const row = await server.store.db
      .selectFrom('launch_orders')
      .select('credentials')
      .where('id', '=', body.launch_order.id)
      .executeTakeFirstOrThrow()
    expect(Object.values(row.credentials)).toEqual([id])
  })
})

const orders = async () => (await server.store.db.selectFrom('launch_orders').select('id').execute()).length

/** Tables of the record in which a text stands in clear. */
async function rowsWith(needle: string): Promise<{ text: string[] }> {
  const { sql } = await import('kysely')
  const { rows: tables } = await sql<{ name: string }>`
    select table_name as name from information_schema.tables where table_schema = 'public'`.execute(server.store.db)
  const text: string[] = []
  for (const { name } of tables) {
    const { rows } = await sql`
      select from ${sql.table(name)} as row_of where row_of::text like ${`%${needle}%`} limit 1`.execute(
      server.store.db,
    )
    if (rows.length) text.push(name)
  }
  return { text }
}
