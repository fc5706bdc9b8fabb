/** PCM v2 over the wire: what it takes, what it refuses, what it shows. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'
import { openPcmClient, type PcmClient } from '../support/pcm-client.ts'

let folder: ConfigFolder
let server: ApiServer
let pcm: PcmClient
let operator: PcmClient
let stranger: PcmClient

beforeAll(async () => {
  folder = await openConfigFolder({
    services: { v1api: 'http://old.example.com/' },
    'sizes/small': { name: 'small', ram: 2_048, cores: 1 },
    'sizes/large': { name: 'large', ram: 8_192, cores: 4 },
    'images/debian': { osfamily: 'Debian' },
    'providers/openstack': {
      sizes: { small: 'm1.small', large: { id: 'm1.large', price: 16 } },
      images: { debian: 'debian-13' },
    },
    'clouds/lab': {
      provider: 'openstack',
      simulated: { endpoint: 'http://127.0.0.1:1/clouds/lab' },
      subnets: { office: 'net-office' },
      defaults: {
        size: 'small',
        image: 'debian',
        environment: 'qa',
        name: '{environment}-{number}',
        extra: { openstack: { zone: 'a' } },
      },
      host_domain: 'lab.example.com',
    },
    'roles/db': { sizes: ['large'], extra: { inventory: { backup: 'nightly' } } },
  })
  server = await startApi({ config_dir: folder.path })
  pcm = openPcmClient(server.url, await server.token('web', 'member'))
  operator = openPcmClient(server.url, server.operator_token)
  await pcm('GET', '/v2/clouds')
  await server.cloud('tiny', ['web'], { allocation: 1 })
  await server.cloud('off', ['web'], { enabled: false })
  stranger = openPcmClient(server.url, await server.token('late', 'member'))
})
afterAll(async () => {
  await server.close()
  await folder.close()
})

const AT = '/v2/clouds/lab/instances'

describe('reading', () => {
  test('what there is', async () => {
    expect((await pcm('GET', '')).body).toEqual({ v1api: 'http://old.example.com/', v2api: `${server.url}/pcm_api/v2` })
    expect((await pcm('GET', '/v2')).body).toEqual({
      clouds: '/pcm_api/v2/clouds',
      images: '/pcm_api/v2/images',
      sizes: '/pcm_api/v2/sizes',
    })
    expect((await pcm('GET', '/v2/clouds')).body.toSorted()).toEqual(['lab', 'off', 'tiny'])
    expect((await pcm('GET', '/v2/sizes')).body).toContainEqual({ name: 'small', ram: 2_048, cores: 1 })
    expect((await pcm('GET', '/v2/images/debian')).body).toEqual({ osfamily: 'Debian' })
  })

  test('clouds with their status, by three names of the same', async () => {
    const { body } = await pcm('GET', '/v2/clouds?view=status')
    expect(body).toContainEqual({ name: 'off', provider: 'simulated', status: 'disabled', since: expect.any(String) })
    for (const word of ['clouds', 'cloud', 'locations'])
      expect((await pcm('GET', `/v2/${word}/lab`)).body).toMatchObject({
        name: 'lab',
        provider: 'openstack',
        status: 'ok',
      })
  })

  test('sizes and images of a cloud: the map, its provider, the file', async () => {
    const { body } = await pcm('GET', '/v2/clouds/lab/sizes')
    expect(body).toContainEqual({
      id: 'large',
      provider_id: 'm1.large',
      price: 16,
      name: 'large',
      ram: 8_192,
      cores: 4,
    })
    expect((await pcm('GET', '/v2/clouds/lab/sizes/small')).body).toMatchObject({
      id: 'small',
      provider_id: 'm1.small',
    })
    expect((await pcm('GET', '/v2/clouds/lab/images/debian')).body).toMatchObject({ id: 'debian', osfamily: 'Debian' })
  })

  test.each([
    ['/v2/clouds/nowhere', 'No such cloud "nowhere"'],
    ['/v2/sizes/giant', 'No such size "giant"'],
    ['/v2/images/plan9', 'No such image "plan9"'],
    ['/v2/clouds/lab/sizes/giant', 'No such size "giant" in cloud lab'],
    [
      '/v2/clouds/lab/instances/a50eb0d4-64bf-11e2-a2be-57c6bf471819',
      'Instance a50eb0d4-64bf-11e2-a2be-57c6bf471819 does not exist in cloud lab',
    ],
    ['/v2/clouds/lab/instances/qa-1', 'Instance qa-1 does not exist in cloud lab'],
    ['/v2/nothing', 'there is nothing at this address'],
  ])('%s is not there', async (path, message) => {
    const { status, body, headers } = await pcm('GET', path)
    expect({ status, body }).toEqual({ status: 404, body: { error: '404', status: '404 Not Found', message } })
    expect(headers.get('content-type')).toBe('application/json; charset=utf-8')
  })

  test('indented on request; details for operators alone', async () => {
    expect((await pcm('GET', '/v2?pretty')).text).toContain('\n  "clouds"')
    expect((await pcm('GET', '/v2/clouds/nowhere?details')).body).not.toHaveProperty('details')
    expect((await operator('GET', '/v2/clouds/nowhere?details')).body.details).toMatchObject({ code: 'not_found' })
  })
})

describe('creating', () => {
  test('defaults are filled in, a name is given, the room is taken at once', async () => {
    const { status, body, headers } = await pcm('POST', AT, { role: 'web,cache', subnet: 'office' })
    expect(status).toBe(202)
    expect(body).toEqual({
      name: expect.stringMatching(/^qa-\d+$/),
      id: expect.any(String),
      role: ['web', 'cache'],
      size: 'small',
      image: 'debian',
      environment: 'qa',
      subnet: 'office',
      status: 'build',
      host: `${body.name}.lab.example.com`,
    })
    expect(headers.get('location')).toBe(`/pcm_api/v2/clouds/lab/instances/${body.id}`)
    expect((await pcm('GET', `${AT}/${body.id}`)).body).toEqual(body)
    expect((await pcm('GET', AT)).body).toContainEqual(body)
    const attempt = await server.store.db
      .selectFrom('launch_attempts')
      .innerJoin('claims', 'claims.attempt_id', 'launch_attempts.id')
      .selectAll()
      .where('instance_id', '=', body.id)
      .executeTakeFirst()
    expect(attempt).toMatchObject({ state: 'open', number: 1, released_at: null })
    const record = await inventory(body.name)
    expect(record).toMatchObject({
      name: body.name,
      status: 'building',
      roles: 'cache,web',
      environment: 'qa',
      cloud: 'lab',
    })
  })

  test('names follow a template and are given once', async () => {
    const answers = await Promise.all(Array.from({ length: 10 }, () => pcm('POST', AT, {})))
    const names = answers.map(({ body }) => body.name as string)
    expect(new Set(names).size).toBe(10)
    const numbers = names.map((name) => Number(name.split('-')[1])).toSorted((a, b) => a - b)
    expect(numbers.at(-1)! - numbers[0]!).toBe(9)
  })

  test('a role adds to the inventory and restricts; what is asked by it is refused by name and rule', async () => {
    const { body } = await pcm('POST', AT, { role: ['db'], size: 'large' })
    expect(await inventory(body.name)).toMatchObject({ backup: 'nightly' })
    const refused = await pcm('POST', AT, { role: 'db', size: 'small' })
    expect(refused.status).toBe(400)
    expect(refused.body.message).toContain('role db does not allow size small (rule "sizes" of roles/db.conf)')
  })

  test('additions for other types of provider are told and left aside', async () => {
    const { status, body } = await pcm('POST', AT, { extra: { openstack: { hint: 1 }, vmware: { x: 1 } } })
    expect(status).toBe(202)
    expect(body.warnings).toEqual([expect.stringContaining('extra.vmware')])
    const { extra } = await server.store.db
      .selectFrom('launch_orders')
      .innerJoin('instances', 'instances.order_id', 'launch_orders.id')
      .select('launch_orders.extra')
      .where('instances.id', '=', body.id)
      .executeTakeFirstOrThrow()
    expect(extra).toEqual({ openstack: { hint: 1, zone: 'a' } })
  })

  test.each<[string, unknown, number]>([
    ['no body', undefined, 400],
    ['no JSON', '{', 400],
    ['a list', [], 400],
    ['an unknown size', { size: 'giant' }, 400],
    ['an unknown image', { image: 'plan9' }, 400],
    ['an unknown subnet', { subnet: 'moon' }, 400],
    ['an extra that is no object', { extra: 'all' }, 400],
    ['a member of extra that is no object', { extra: { openstack: 1 } }, 400],
    ['a reserved key in extra', { extra: { openstack: { name: 'mine' } } }, 400],
    ['a key that reaches too far', '{"extra":{"openstack":{"__proto__":{"a":1}}}}', 400],
  ])('%s is refused, and spends no name', async (_, body, status) => {
    const before = await counters()
    const answer = await pcm('POST', AT, body)
    expect(answer.status).toBe(status)
    expect(answer.body).toEqual({ error: String(status), status: '400 Bad Request', message: expect.any(String) })
    expect(await counters()).toEqual(before)
  })

  test('a full cloud is 507, a disabled one 503 with a time to come back; neither spends a name', async () => {
    const body = { size: 'small', image: 'debian' }
    const [one, two] = await Promise.all([1, 2].map(() => pcm('POST', '/v2/clouds/tiny/instances', body)))
    expect([one!.status, two!.status].toSorted()).toEqual([202, 507])
    const before = await counters()
    const full = await pcm('POST', '/v2/clouds/tiny/instances', body)
    expect(full.body).toMatchObject({ error: '507', status: '507 Insufficient Storage' })
    const off = await pcm('POST', '/v2/clouds/off/instances', body)
    expect(off.body).toMatchObject({ error: '503', message: 'Cloud off is disabled' })
    expect(off.headers.get('retry-after')).toBe('30')
    expect(await counters()).toEqual(before)
  })

  test('another type of body is 415, another method 405 with what is allowed', async () => {
    const typed = await pcm('POST', AT, 'size=small', { 'content-type': 'application/x-www-form-urlencoded' })
    expect(typed.body).toMatchObject({ error: '415' })
    const method = await pcm('PATCH', AT, {})
    expect(method.body).toMatchObject({ error: '405' })
    expect(method.headers.get('allow')).toBe('GET, HEAD, POST')
  })

  test('the same key again is the same instance, with another request a conflict', async () => {
    const key = { 'idempotency-key': randomUUID() }
    const first = await pcm('POST', AT, { environment: 'one' }, key)
    const again = await pcm('POST', AT, { environment: 'one' }, key)
    expect(again.body.id).toBe(first.body.id)
    expect((await pcm('POST', AT, { environment: 'two' }, key)).body).toMatchObject({ error: '409' })
  })

  test('without a token 401, as a reader 403, of another project 404', async () => {
    expect((await openPcmClient(server.url, 'nobody')('GET', '/v2/clouds')).body).toMatchObject({ error: '401' })
    const reader = openPcmClient(server.url, await server.token('web', 'reader'))
    expect((await reader('POST', AT, {})).body).toMatchObject({ error: '403' })
    const { body } = await pcm('POST', AT, {})
    for (const [method, sent] of [
      ['GET', undefined],
      ['DELETE', undefined],
      ['PUT', { status: 'reboot' }],
    ] as const)
      expect((await stranger(method, `${AT}/${body.id}`, sent)).status).toBe(404)
  })
})

describe('changing', () => {
  test.each<[string, unknown, string]>([
    ['a status nobody may set', { status: 'terminated' }, 'Cannot update to status "terminated"'],
    ['another field', { size: 'large' }, 'Cannot update field "size"'],
    ['another field beside a good one', { status: 'reboot', size: 'large' }, 'Cannot update field "size"'],
  ])('%s is refused', async (_, sent, message) => {
    const { body } = await pcm('POST', AT, {})
    const answer = await pcm('PUT', `${AT}/${body.id}`, sent)
    expect(answer).toMatchObject({ status: 400, body: { message } })
    const rows = await server.store.db.selectFrom('actions').select('id').where('instance_id', '=', body.id).execute()
    expect(rows).toEqual([])
  })

  test('nothing is nothing; what its state does not allow is 409', async () => {
    const { body } = await pcm('POST', AT, {})
    expect(await pcm('PUT', `${AT}/${body.id}`, {})).toMatchObject({ status: 202, body: { status: 'build' } })
    expect(await pcm('PUT', `${AT}/${body.id}`, { status: 'reboot' })).toMatchObject({
      status: 409,
      body: { error: '409' },
    })
  })

  test('deleted is 202, and a machine without a console has none', async () => {
    const { body } = await pcm('POST', AT, {})
    expect((await pcm('GET', `${AT}/${body.id}/console_log`)).status).toBe(404)
    expect((await pcm('DELETE', `${AT}/${body.id}`)).status).toBe(202)
  })
})

const inventory = async (name: string): Promise<unknown> => {
  const token = await server.token('web', 'reader')
  const response = await fetch(`${server.url}/api/inventory/${name}`, { headers: { authorization: `Bearer ${token}` } })
  return ((await response.json()) as { inventory: unknown }).inventory
}

const counters = () => server.store.db.selectFrom('name_counters').selectAll().orderBy('stem').execute()
