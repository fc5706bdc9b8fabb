/** Clouds of files in the record: new, changed, broken, gone and back, while requests go on. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { sql } from 'kysely'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ConfigurationDirectory, openConfiguration } from '../../api/pcm/configuration.ts'
import { findCloudProblems } from '../../providers/registry.ts'
import { isAway, openStore, type Store } from '../../store/database.ts'
import { createEnvelope } from '../../store/envelope.ts'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'

interface Cloud {
  id: string
  name: string
  endpoint: string | null
  credential: boolean
  settings: object | null
  sizes: Record<string, string>
  images: Record<string, string>
  priority: number
  enabled: boolean
  disabled_reason: string | null
  source: string
  sequence: number
}
interface Event {
  resource_id: string
  sequence: number
  type: string
  cause: { rule?: string; reason: string; evidence?: object }
}

const SECRET = 'Xq7-a-very-secret-key'
const LAB = {
  provider: 'openstack',
  simulated: { endpoint: 'http://127.0.0.1:1/clouds/lab-1', api_key: SECRET },
  sizes: { large: 'm1.large' },
  images: { debian: { id: 'debian-13', note: 'attributes do not reach the record' } },
  settings: { settle_ms: 3_000 },
  priority: 5,
}

let folder: ConfigFolder
let server: ApiServer
let member: ApiClient
const opened: Store[] = []

beforeEach(async () => {
  folder = await openConfigFolder({
    'sizes/small': { ram: 2_048 },
    'sizes/large': { ram: 8_192 },
    'images/debian': { osfamily: 'Debian' },
    'providers/openstack': { sizes: { small: 'm1.small', large: 'never-used' } },
    'clouds/lab-1': LAB,
  })
  server = await startApi({ config_dir: folder.path })
  member = await server.client('web')
})
afterEach(async () => {
  await Promise.all(opened.splice(0).map((store) => store.close()))
  await server.close()
  await folder.close()
})

const cloudOf = async (name = 'lab-1'): Promise<Cloud> =>
  (await server.operator.get<{ cloud: Cloud }>(`/api/clouds/${name}`)).body.cloud
const order = (expect_status = 202, more: object = {}) =>
  member.post<{ launch_order: { id: string; clouds: string[] } } & ErrorAnswer>(
    '/api/launch-orders',
    { name: 'web', size: 'small', image: 'debian', ...more },
    { expect: expect_status },
  )
async function eventsOf({ id }: { id: string }): Promise<Event[]> {
  const rows = await server.store.db
    .selectFrom('events')
    .select(['resource_id', 'sequence', 'type', 'cause'])
    .where('resource_id', '=', id)
    .orderBy('sequence')
    .execute()
  return rows
}
const warnings = (): string[] => server.logged.map((line) => (JSON.parse(line) as { msg: string }).msg)

/** The directory as another process of the installation has it open. */
function another(log: string[] = []): ConfigurationDirectory {
  const store = openStore(server.database_url, { size: 3 })
  opened.push(store)
  const { envelope } = server
  const logger = pino({ level: 'warn' }, { write: (line: string) => void log.push(line) })
  return openConfiguration({ folder: folder.path, store, envelope, findCloudProblems, log: logger })
}

describe('a cloud of a file', () => {
  test('is in the record once somebody looks, with its own names over those of its provider type', async () => {
    expect(await cloudOf()).toMatchObject({
      source: 'file',
      endpoint: LAB.simulated.endpoint,
      credential: true,
      settings: { settle_ms: 3_000, presents_as: 'openstack' },
      sizes: { small: 'm1.small', large: 'm1.large' },
      images: { debian: 'debian-13' },
      priority: 5,
      enabled: true,
      disabled_reason: null,
      sequence: 1,
    })
    expect(warnings()).toEqual([])
  })

  test('says why it is there, and wakes its watcher', async () => {
    const cloud = await cloudOf()
    expect(await eventsOf(cloud)).toEqual([
      {
        resource_id: cloud.id,
        sequence: 1,
        type: 'cloud.created',
        cause: {
          rule: 'configuration_file',
          reason: 'its file is new',
          evidence: { file: 'clouds/lab-1.conf' },
        },
      },
    ])
    const outbox = await server.store.db.selectFrom('outbox').select('target').execute()
    expect(outbox).toContainEqual({ target: 'cloud/lab-1' })
    expect(await server.operator.get(`/api/clouds/lab-1/explain`)).toMatchObject({ status: 200 })
  })

  test('is for every project, also for one made later; nothing else has to look at it before', async () => {
    expect((await order()).body.launch_order.clouds).toEqual(['lab-1'])
    const later = await server.client('later')
    const { clouds } = (await later.get<{ clouds: Cloud[] }>('/api/clouds')).body
    expect(clouds).toMatchObject([{ name: 'lab-1', endpoint: null, settings: null }])
    const { grants } = (await server.operator.get<{ grants: { project: string }[] }>('/api/clouds/lab-1/grants')).body
    expect(grants.map(({ project }) => project)).toEqual(['default', 'later', 'web'])
    await server.operator.put('/api/clouds/lab-1/grants/web')
    await server.operator.delete('/api/clouds/lab-1/grants/web', { expect: 409 })
  })

  test('is ordered for leases, too', async () => {
    const end_at = new Date(Date.now() + 3_600_000).toISOString()
    const lease = { name: 'l', start_at: 'now', end_at, order: { size: 'small', image: 'debian' } }
    expect((await member.post('/api/leases', lease)).body).toMatchObject({ lease: { order: { clouds: ['lab-1'] } } })
  })
})

describe('a change of files', () => {
  test('changes the record, wakes what waits, and says why', async () => {
    const before = await cloudOf()
    const { id } = (await order()).body.launch_order
    await server.store.db.deleteFrom('outbox').execute()
    await folder.put('clouds/lab-1', { ...LAB, allocation: 7, sizes: { ...LAB.sizes, small: 'm1.tiny' } })
    expect(await cloudOf()).toMatchObject({ sizes: { small: 'm1.tiny' }, allocation: 7, sequence: 2 })
    const [, changed] = await eventsOf(before)
    expect(changed).toMatchObject({
      type: 'cloud.updated',
      cause: { rule: 'configuration_file', evidence: { file: 'clouds/lab-1.conf' } },
    })
    const woken = await server.store.db.selectFrom('outbox').select('target').execute()
    expect(woken.map(({ target }) => target).toSorted()).toEqual(['cloud/lab-1', `order/${id}`])
  })

  test('may be one of a provider, of a size that is new or of one that goes', async () => {
    await cloudOf()
    await folder.put('providers/openstack', { sizes: { small: 'm1.mini' } })
    await folder.put('sizes/tiny', {})
    expect((await cloudOf()).sizes).toEqual({ small: 'm1.mini', large: 'm1.large', tiny: 'tiny' })
    await folder.drop('sizes/tiny')
    await folder.drop('providers/openstack')
    expect((await cloudOf()).sizes).toEqual({ small: 'small', large: 'm1.large' })
    expect((await cloudOf()).sequence).toBe(3)
  })

  test('that says nothing new writes nothing', async () => {
    const before = await cloudOf()
    await server.store.db.deleteFrom('outbox').execute()
    const { provider, sizes, ...rest } = LAB
    for (const same of [JSON.stringify(LAB), { ...rest, sizes, provider }, { ...LAB, defaults: { size: 'small' } }]) {
      await folder.put('clouds/lab-1', same)
      expect(await cloudOf()).toEqual(before)
    }
    await folder.put('sizes/small', { ram: 4_096, description: 'for PCM alone' })
    expect(await cloudOf()).toEqual(before)
    expect(await server.store.db.selectFrom('outbox').selectAll().execute()).toEqual([])
    expect(await eventsOf(before)).toHaveLength(1)
  })

  test('is seen by whoever asks after it, while others look', async () => {
    const directory = another()
    for (const ram of [1, 2, 3, 4, 5]) {
      const looks = [directory.current(), directory.current()]
      await folder.put('sizes/small', { ram })
      const { sizes } = await directory.current()
      expect(sizes.get('small')).toEqual({ ram })
      await Promise.all(looks)
    }
  })

  test('replaces what an operator changed through the API; until then that stays', async () => {
    await cloudOf()
    await server.operator.patch('/api/clouds/lab-1', { enabled: false, priority: 9, credential: 'by hand' })
    await folder.put('clouds/lab-1', { ...LAB, defaults: { size: 'small' } }) // nothing the record knows of
    expect(await cloudOf()).toMatchObject({ enabled: false, priority: 9 })
    expect((await another().current()).clouds.size).toBe(1) // a process that starts
    expect(await cloudOf()).toMatchObject({ enabled: false, priority: 9, sequence: 2 })
    expect(await credential()).toBe('by hand')
    await folder.put('clouds/lab-1', { ...LAB, priority: 6 })
    expect(await cloudOf()).toMatchObject({ enabled: true, priority: 6, sequence: 3 })
    expect(await credential()).toBe(SECRET)
  })

  test('cannot turn a cloud into one of another type', async () => {
    const before = await cloudOf()
    await server.store.db.updateTable('clouds').set({ provider: 'ec2' }).execute()
    await folder.put('clouds/lab-1', { ...LAB, priority: 6 })
    expect((await cloudOf()).sequence).toBe(before.sequence)
    expect(warnings()).toEqual([expect.stringContaining('clouds/lab-1.conf: cloud lab-1 is one of provider ec2')])
  })
})

async function credential(): Promise<string | null> {
  const row = await server.store.db
    .selectFrom('clouds')
    .leftJoin('credentials', 'credentials.id', 'clouds.credential_id')
    .select(['credentials.id', 'credentials.sealed'])
    .where('clouds.name', '=', 'lab-1')
    .executeTakeFirstOrThrow()
  return row.id === null ? null : server.envelope.open(row.sealed!, row.id)
}

describe('a credential', () => {
  test('is sealed, replaced where the file has another, and let go where it has none', async () => {
    await cloudOf()
    expect(await credential()).toBe(SECRET)
    await folder.put('clouds/lab-1', { ...LAB, simulated: { ...LAB.simulated, api_key: 'another' } })
    await cloudOf()
    expect(await credential()).toBe('another')
    await folder.put('clouds/lab-1', { ...LAB, simulated: { endpoint: LAB.simulated.endpoint } })
    expect((await cloudOf()).credential).toBe(false)
    expect(await credential()).toBe(null)
    await folder.put('clouds/lab-1', LAB)
    expect((await cloudOf()).sequence).toBe(4)
    expect(await credential()).toBe(SECRET)
  })

  test('that is the same is not sealed again', async () => {
    await cloudOf()
    await folder.put('clouds/lab-1', { ...LAB, priority: 1 })
    await cloudOf()
    expect(await server.store.db.selectFrom('credentials').select('id').execute()).toHaveLength(1)
  })

  test('and what the file said are sealed anew under another master key', async () => {
    await cloudOf()
    const store = openStore(server.database_url)
    opened.push(store)
    const envelope = createEnvelope({ current: { id: 'other', key: randomBytes(32) } })
    const log = pino({ level: 'silent' })
    await openConfiguration({ folder: folder.path, store, envelope, findCloudProblems, log }).current()
    const cloud = await store.db.selectFrom('clouds').selectAll().executeTakeFirstOrThrow()
    expect(envelope.open(cloud.imported!, cloud.id)).toContain(SECRET)
    const { sealed } = await store.db
      .selectFrom('credentials')
      .select('sealed')
      .where('id', '=', cloud.credential_id!)
      .executeTakeFirstOrThrow()
    expect(envelope.open(sealed!, cloud.credential_id!)).toBe(SECRET)
  })

  test('is nowhere to be seen: not in the record, in events, in logs, in answers', async () => {
    await folder.put('clouds/keystone', {
      provider: 'openstack',
      openstack_auth_url: 'https://keystone.example.com/v3',
      openstack_username: 'pcm',
      openstack_api_key: SECRET,
    })
    await folder.put('inventory', { url: 'https://inventory.example.com', username: 'pcm', password: SECRET })
    const answers: unknown[] = [await cloudOf()]
    const broken = JSON.stringify(LAB).replace(`"${SECRET}"`, SECRET)
    for (const content of [
      broken,
      { ...LAB, provider: SECRET },
      { ...LAB, simulated: SECRET },
      { ...LAB, enabled: SECRET },
    ]) {
      await folder.put('clouds/lab-1', content)
      answers.push(await cloudOf())
    }
    await folder.drop('clouds/lab-1')
    answers.push(await cloudOf(), (await order(400)).body)
    await folder.put('clouds/lab-1', LAB)
    for (const path of ['/api/clouds', '/api/clouds/lab-1', '/api/clouds/lab-1/explain', '/api/events'])
      answers.push((await server.operator.get(path)).body)
    const { rows } = await sql<{ name: string }>`
      select table_name as name from information_schema.tables where table_schema = 'public'`.execute(server.store.db)
    const dump: string[] = []
    for (const { name } of rows) {
      const { rows: lines } = await sql<{
        line: string
      }>`select row_to_json(t)::text as line from ${sql.table(name)} t`.execute(server.store.db)
      dump.push(...lines.map(({ line }) => line))
    }
    expect(await credential()).toBe(SECRET)
    expect(dump.length).toBeGreaterThan(10)
    expect(warnings().length).toBeGreaterThanOrEqual(5)
    const shown = [JSON.stringify(answers), ...server.logged, ...dump].join('\n')
    expect(shown).not.toContain(SECRET)
    expect(shown).not.toContain(Buffer.from(SECRET).toString('hex'))
    const { inventory } = await another().current()
    expect([JSON.stringify(inventory), inventory!.password!.reveal()]).toEqual([
      expect.not.stringContaining(SECRET),
      SECRET,
    ])
  })
})

describe('a file that breaks', () => {
  test('leaves its cloud as it was, and is told once a change', async () => {
    const before = await cloudOf()
    for (const content of ['{', '{ ', { provider: 'openstack' }]) {
      await folder.put('clouds/lab-1', content)
      expect(await cloudOf()).toEqual(before)
      expect((await order()).body.launch_order.clouds).toEqual(['lab-1'])
    }
    expect(warnings()).toEqual([
      expect.stringMatching(
        /^configuration: clouds\/lab-1.conf: is not JSON, see line 1 column 2; what it said before/,
      ),
      expect.stringMatching(/is not JSON/),
      expect.stringMatching(/openstack_auth_url: is missing/),
    ])
  })

  test('before a process starts leaves its cloud as it was, too', async () => {
    const before = await cloudOf()
    await folder.put('clouds/lab-1', '{')
    const log: string[] = []
    expect((await another(log).current()).clouds.size).toBe(0)
    expect(log).toEqual([expect.stringContaining('what it says is left out')])
    expect(await cloudOf()).toEqual(before)
  })

  test('is no news from a process that did not see what it said last', async () => {
    const late = another()
    await late.current()
    await folder.put('clouds/lab-1', { ...LAB, priority: 6 })
    expect(await cloudOf()).toMatchObject({ priority: 6 })
    await folder.put('clouds/lab-1', '{')
    await folder.put('sizes/tiny', {})
    expect((await late.current()).sizes.size).toBe(3)
    expect(await cloudOf()).toMatchObject({ priority: 6, sequence: 2 })
  })

  test('of names leaves the names as they were, also where a process starts then', async () => {
    const before = await cloudOf()
    await folder.put('providers/openstack', '{')
    await folder.put('sizes/small', '{')
    expect(await cloudOf()).toEqual(before)
    expect((await another().current()).sizes.get('small')).toEqual({})
    expect(await cloudOf()).toEqual(before)
    await folder.put('providers/openstack', { sizes: { small: 'm1.mini' } })
    expect((await cloudOf()).sizes).toEqual({ small: 'm1.mini', large: 'm1.large' })
  })

  test('does not keep others from being taken over', async () => {
    await folder.put('clouds/lab-1', '{')
    await folder.put('clouds/lab-2', LAB)
    expect(await cloudOf('lab-2')).toMatchObject({ source: 'file' })
    await server.operator.get('/api/clouds/lab-1', { expect: 404 })
  })
})

describe('a file that goes', () => {
  test('retires its cloud: no orders, a reason, nothing else; back, it takes orders again', async () => {
    const cloud = await cloudOf()
    const { id } = (await order()).body.launch_order
    await folder.drop('clouds/lab-1')
    const refused = (await order(400)).body
    expect(refused.error.problems).toMatchObject([{ path: 'body.clouds' }])
    await order(400, { clouds: ['lab-1'] })
    const retired = await cloudOf()
    expect(retired).toMatchObject({ enabled: false, sequence: 2, credential: true, endpoint: cloud.endpoint })
    expect(retired.disabled_reason).toMatch(/^its file clouds\/lab-1.conf is gone since 20/)
    await server.operator.patch('/api/clouds/lab-1', { enabled: true }, { expect: 409 })
    await server.operator.patch('/api/clouds/lab-1', { priority: 1 })

    const { instances } = (await member.get<{ instances: { id: string }[] }>(`/api/launch-orders/${id}/instances`)).body
    await member.post(`/api/instances/${instances[0]!.id}/actions`, { action: 'terminate' }, { expect: 202 })
    await member.delete(`/api/launch-orders/${id}`, { expect: 202 })

    await folder.put('clouds/lab-1', LAB)
    expect((await order()).body.launch_order.clouds).toEqual(['lab-1'])
    expect(await cloudOf()).toMatchObject({ id: cloud.id, enabled: true, disabled_reason: null, priority: 5 })
    expect((await eventsOf(cloud)).map(({ type, cause }) => [type, cause.reason])).toEqual([
      ['cloud.created', 'its file is new'],
      ['cloud.retired', 'its file is gone'],
      ['cloud.updated', 'requested'],
      ['cloud.updated', 'its file is back'],
    ])
  })

  test('is back as its file says: disabled, where that says so', async () => {
    await cloudOf()
    await folder.drop('clouds/lab-1')
    await cloudOf()
    await folder.put('clouds/lab-1', { ...LAB, enabled: false })
    expect(await cloudOf()).toMatchObject({ enabled: false, disabled_reason: null })
    await order(202)
  })

  test('while nobody ran is missed by the next process that starts', async () => {
    await cloudOf()
    await folder.drop('clouds/lab-1')
    await another().current()
    const { retired_at } = await server.store.db.selectFrom('clouds').selectAll().executeTakeFirstOrThrow()
    expect(retired_at).toBeInstanceOf(Date)
  })

  test('because the directory is away retires nothing', async () => {
    const before = await cloudOf()
    await folder.close()
    expect(await cloudOf()).toEqual(before)
    const log: string[] = []
    await another(log).current()
    expect(await cloudOf()).toEqual(before)
    expect([log.length, warnings().length]).toEqual([1, 1])
  })
})

describe('a file is refused, with one warning', () => {
  test('whose name is that of a cloud made through the API', async () => {
    await server.cloud('east', ['web'])
    const before = await cloudOf('east')
    await folder.put('clouds/east', LAB)
    expect(await cloudOf('east')).toEqual(before)
    await folder.put('sizes/other', {})
    expect(await cloudOf('east')).toEqual(before)
    await folder.drop('clouds/east')
    expect(await cloudOf('east')).toEqual(before)
    expect(warnings()).toEqual([expect.stringMatching(/clouds\/east.conf: there is a cloud east made through the API/)])
  })

  test('whose provider type nobody here speaks to', async () => {
    const keystone = { provider: 'openstack', openstack_auth_url: 'https://keystone.example.com/v3' }
    await folder.put('clouds/keystone', keystone)
    await server.operator.get('/api/clouds/keystone', { expect: 404 })
    await server.operator.get('/api/clouds/keystone', { expect: 404 })
    expect(warnings()).toEqual([
      expect.stringContaining(
        'clouds/keystone.conf: provider is not a type of cloud there is an adapter for (there is: simulated)',
      ),
    ])
  })

  test('whose settings its adapter cannot work with: it stays as it was', async () => {
    const before = await cloudOf()
    await folder.put('clouds/lab-1', { ...LAB, priority: 6, settings: { settle_ms: -1, settle: 1 } })
    expect(await cloudOf()).toEqual(before)
    expect(warnings()).toEqual([
      expect.stringMatching(/clouds\/lab-1.conf: settings.settle_ms .*; it is left out/),
      expect.stringMatching(
        /clouds\/lab-1.conf: settings.settle is not a setting of simulated clouds \(there is: .*; it is left out/,
      ),
    ])
  })

  test('whose name the API then cannot take', async () => {
    await cloudOf()
    const cloud = { name: 'lab-1', provider: 'simulated', endpoint: 'http://127.0.0.1:1/clouds/x' }
    await server.operator.post('/api/clouds', cloud, { expect: 409 })
  })
})

describe('names that do not fit together', () => {
  test('are told once, and again where they come back', async () => {
    const smal = { ...LAB, sizes: { ...LAB.sizes, smal: 'm1.small' }, defaults: { image: 'debain' } }
    await folder.put('clouds/lab-1', smal)
    await cloudOf()
    await folder.put('sizes/other', {})
    await cloudOf()
    expect(warnings()).toEqual([
      expect.stringContaining('clouds/lab-1.conf: maps size smal'),
      expect.stringContaining('clouds/lab-1.conf: its default image debain is not known'),
    ])
    await folder.put('clouds/lab-1', LAB)
    await cloudOf()
    await folder.put('clouds/lab-1', smal)
    await cloudOf()
    expect(warnings()).toHaveLength(4)
  })
})

describe('several processes at once', () => {
  test('make one cloud, one event a change, and the last word is the file`s', async () => {
    const logs: string[] = []
    const processes = Array.from({ length: 4 }, () => another(logs))
    const lookAll = () => Promise.all(processes.flatMap((one) => [one.current(), one.current()]))
    await lookAll()
    for (const priority of [1, 2, 3]) {
      await folder.put('clouds/lab-1', { ...LAB, priority })
      await lookAll()
    }
    await folder.drop('clouds/lab-1')
    await lookAll()
    await folder.put('clouds/lab-1', LAB)
    await lookAll()
    const cloud = await cloudOf()
    expect(cloud).toMatchObject({ enabled: true, priority: 5, sequence: 6 })
    expect((await eventsOf(cloud)).map(({ type }) => type)).toEqual([
      'cloud.created',
      ...Array.from({ length: 3 }, () => 'cloud.updated'),
      'cloud.retired',
      'cloud.updated',
    ])
    expect(logs).toEqual([])
  })

  test('while files change all the time end with what they say', async () => {
    const processes = Array.from({ length: 3 }, () => another())
    const editing = (async () => {
      for (let priority = 1; priority <= 20; priority++) {
        await folder.put('clouds/lab-1', { ...LAB, priority })
        await processes[priority % 3]!.current()
      }
    })()
    let is_over = false
    const looking = processes.map(async (one) => {
      while (!is_over) await one.current()
    })
    await editing
    is_over = true
    await Promise.all(looking)
    const row = await server.store.db.selectFrom('clouds').selectAll().executeTakeFirstOrThrow()
    expect(row.priority).toBe(20)
  })
})

test('while the record is away nobody takes over anything; then it is made up for', async () => {
  const away = openStore(server.database_url.replace(/:(\d+)\//, ':1/'))
  opened.push(away)
  let is_back = false
  const store = {
    ...away,
    get db() {
      return is_back ? server.store.db : away.db
    },
  }
  const log: string[] = []
  const logger = pino({ level: 'warn' }, { write: (line: string) => void log.push(line) })
  const needs = { folder: folder.path, store, envelope: server.envelope, findCloudProblems, log: logger }
  const directory = openConfiguration(needs)
  await expect(directory.current()).rejects.toSatisfy(isAway)
  is_back = true
  expect((await directory.current()).clouds.size).toBe(1)
  expect(await server.store.db.selectFrom('clouds').select('name').execute()).toEqual([{ name: 'lab-1' }])
  expect(log).toEqual([])
})

test('the examples are fine', async () => {
  const log: string[] = []
  const logger = pino({ level: 'warn' }, { write: (line: string) => void log.push(line) })
  const examples = join(import.meta.dirname, '../../examples/pcm')
  const { store, envelope } = server
  await openConfiguration({ folder: examples, store, envelope, findCloudProblems, log: logger }).current()
  expect(log).toEqual([])
  const clouds = await store.db.selectFrom('clouds').select(['name', 'sizes', 'images']).orderBy('name').execute()
  expect(clouds).toEqual([
    { name: 'lab-1', sizes: { small: 'm1.small', large: 'm1.large' }, images: { debian: 'debian-13' } },
    { name: 'lab-2', sizes: { small: 't3.small', large: 'm5.large' }, images: { debian: 'ami-0a1b2c3d4e5f60002' } },
  ])
})
