/** Machines that an inventory outside names: one name, one machine, one record, whatever goes wrong on the way. */
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'
import { getOrder, SETTLE_TIMEOUT_MS, untilInstance } from '../support/flow.ts'
import { type InventoryFault, type InventoryServer, startInventory } from '../support/inventory-server.ts'
import { openPcmClient, type PcmClient } from '../support/pcm-client.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
let place: Place
let inventory: InventoryServer
let folder: ConfigFolder
let pcm: PcmClient
let at: string
beforeAll(async () => {
  inventory = await startInventory()
  folder = await openConfigFolder({ inventory: inventory.file() })
  world = await startWorld({ config_dir: folder.path })
  place = await world.place({ configuration: { presents_as: 'openstack' } })
  pcm = openPcmClient(world.h.service.url!, place.project.token)
  at = `/v2/clouds/${place.cloud.name}/instances`
})
beforeEach(async () => {
  inventory.fault = () => undefined
  await folder.put('inventory', inventory.file())
})
afterAll(async () => {
  await world?.close()
  await inventory?.close()
  await folder?.close()
})

const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 50 })

interface Made {
  readonly id: string
  readonly order_id: string
  readonly request_id: string
  readonly body: Readonly<Record<string, unknown>>
}

/** A promise that the judge hears of. */
async function create(more: Record<string, unknown> = {}, headers: Record<string, string> = {}): Promise<Made> {
  const { status, body } = await pcm('POST', at, { size: 'small', image: 'debian', ...more }, headers)
  expect([201, 202]).toContain(status)
  const row = await world.h.store.db
    .selectFrom('inventory')
    .innerJoin('instances', 'instances.id', 'instance_id')
    .select(['order_id', 'request_id'])
    .where('instance_id', '=', body.id)
    .executeTakeFirstOrThrow()
  world.note('order', row.order_id, Date.now(), 202)
  return { id: body.id, order_id: row.order_id, request_id: row.request_id!, body }
}

const remove = async (id: string): Promise<void> => {
  const { status } = await pcm('DELETE', `${at}/${id}`)
  world.note('terminate', id, Date.now(), status)
}

const shown = async (id: string) => (await pcm('GET', `${at}/${id}`)).body
const untilStatus = (id: string, status: string) =>
  waitFor(async () => (await shown(id)).status === status, wait(`${id} to be ${status}`))
/** Until the inventory's record of the name has this status. */
const untilRecorded = ({ request_id }: Made, status: string) =>
  waitFor(
    () => {
      const record = inventory.records.get(inventory.names.get(request_id) ?? '')
      return record?.status === status ? record : null
    },
    wait(`the record of ${request_id} to be ${status}`),
  )

interface Explained {
  readonly explanation: { readonly waits_for: { readonly code: string | null; readonly what: string } | null }
}
const waitsFor = async (path: string) =>
  (await place.project.api.get<Explained>(`/api/${path}/explain`)).body.explanation.waits_for

/** Until instance and order say that this blocks them; its reason. */
async function untilBlocked(made: Made, code: string, reason: RegExp): Promise<void> {
  const paths = [`instances/${made.id}`, ...(code === 'name_missing' ? [`launch-orders/${made.order_id}`] : [])]
  for (const path of paths)
    await waitFor(
      async () => {
        const now = await waitsFor(path)
        return now?.code === code && reason.test(now.what)
      },
      wait(`${path} to be blocked: ${code} ${reason}`),
    )
}

const machines = async (name: string) =>
  (await place.cloud.control.machines()).filter((machine) => machine.name === name)

/** From here on all is well: one machine of the one name, its record, and both gone when it is deleted. */
async function expectOneOfAll(made: Made): Promise<void> {
  await untilStatus(made.id, 'active')
  const name = inventory.names.get(made.request_id)!
  const view = await shown(made.id)
  expect(view.name).toBe(name)
  const record = await untilRecorded(made, 'active')
  const [machine, ...others] = await machines(name)
  expect(others).toEqual([])
  expect(record).toMatchObject({ serial_number: machine!.id, ip_address: view.ip_address, cloud: place.cloud.name })
  await remove(made.id)
  await untilInstance(place.project.api, made.id, ['terminated'])
  expect(await untilRecorded(made, 'decommissioned')).toMatchObject({ serial_number: machine!.id })
  await untilNothingIsOpen()
}

const untilNothingIsOpen = () =>
  waitFor(async () => {
    const { rows } = await sql`
      select from inventory join instances on instances.id = instance_id where due_at is not null`.execute(
      world.h.store.db,
    )
    return rows.length === 0
  }, wait('everything to be told'))

const once = (kind: 'name' | 'record', fault: InventoryFault) => {
  let left = 1
  inventory.fault = (request) => (request.kind === kind && left-- > 0 ? fault : undefined)
}

test('named, created, recorded, deleted: in this order', async () => {
  const from = inventory.ledger.length
  const made = await create({
    role: 'web,cache',
    environment: 'qa',
    extra: { inventory: { rack: 'r-7', environment_name: 'qa-2' } },
  })
  expect(made.body).toMatchObject({ status: 'build', name: inventory.names.get(made.request_id) })
  expect(made.request_id).toBe(`pcm-${place.cloud.name}-${made.order_id}`)
  await expectOneOfAll(made)
  const calls = inventory.ledger.slice(from)
  expect(calls[0]).toEqual({
    kind: 'name',
    key: made.request_id,
    status: 201,
    body: {
      cloud: place.cloud.name,
      environment_name: 'qa-2',
      roles: 'cache,web',
      subnet: null,
      size: 'small',
      image: 'debian',
      rack: 'r-7',
    },
  })
  const records = calls.slice(1)
  expect(records.every(({ kind, key, status }) => kind === 'record' && key === made.body.name && status < 300)).toBe(
    true,
  )
  expect([...new Set(records.map(({ body }) => body.status))].join()).toMatch(/^(building,)?active,decommissioned$/)
  expect(records[0]!.body).toMatchObject({
    fqdn: made.body.name,
    host_fqdn: null,
    size: 'small',
    image: 'debian',
    roles: 'cache,web',
    environment_name: 'qa-2',
    cloud: place.cloud.name,
    rack: 'r-7',
  })
  const { body } = await place.project.api.get<{ inventory: object }>(`/api/inventory/${made.body.name}`)
  expect(body.inventory).toMatchObject({ name: made.body.name, status: 'decommissioned', roles: 'cache,web' })
})

test('who waits for the machine is told of it with its name', async () => {
  const made = await create({}, { prefer: 'wait=30' })
  expect(made.body.name).toBe(inventory.names.get(made.request_id))
  await expectOneOfAll(made)
})

test('who asks again with the same key gets the same one, and no other name is spent', async () => {
  const headers = { 'idempotency-key': 'the-same' }
  const made = await create({}, headers)
  const spent = inventory.names.size
  expect((await create({}, headers)).id).toBe(made.id)
  expect(inventory.names.size).toBe(spent)
  await expectOneOfAll(made)
})

describe('a fault of the naming, once:', () => {
  test.each([
    ['an error', { status: 500, body: 'oops' }],
    ['a lost request', { lose: 'before' }],
    ['a lost reply', { lose: 'after' }],
    ['too slow an answer', { delay_ms: 6_000 }],
    ['no JSON', { status: 200, body: '<html>' }],
    ['no name', { status: 200, body: '{"name": null}' }],
    ['no host name', { status: 200, body: '{"name": "../etc"}' }],
    ['an endless answer', { status: 200, body: JSON.stringify({ name: 'x'.repeat(100_000) }) }],
    ['a redirect', { status: 302, body: '' }],
  ] as const)('%s', async (_what, fault) => {
    const from = inventory.ledger.length
    once('name', fault)
    const made = await create()
    await untilStatus(made.id, 'active')
    const asked = inventory.ledger.slice(from).filter(({ kind }) => kind === 'name')
    expect(asked.map(({ key }) => key)).toEqual([made.request_id, made.request_id])
    await expectOneOfAll(made)
  })
})

describe('a fault of the record, once:', () => {
  test.each([
    ['an error', { status: 503, body: 'later' }],
    ['a lost request', { lose: 'before' }],
    ['a lost reply', { lose: 'after' }],
    ['a refusal', { status: 409, body: 'no' }],
  ] as const)('%s', async (_what, fault) => {
    once('record', fault)
    await expectOneOfAll(await create())
  })
})

test('while there is no name no cloud is called, the caller gets none, and both nouns say why', async () => {
  inventory.fault = () => ({ status: 500, body: `is down, ${inventory.password} for all` })
  const before = (await place.cloud.control.ledger()).filter(({ verb }) => verb === 'create').length
  const made = await create()
  expect(made.body).not.toHaveProperty('name')
  expect(made.body).not.toHaveProperty('host')
  await untilBlocked(
    made,
    'name_missing',
    /^the inventory has not named it: it answered 500: is down, \[secret\] for all$/,
  )
  expect((await getOrder(place.project.api, made.order_id)).state).toBe('held')
  const { body } = await place.project.api.get<{ instance: { name: string } }>(`/api/instances/${made.id}`)
  expect(body.instance.name).toBe(made.request_id)
  expect((await place.cloud.control.ledger()).filter(({ verb }) => verb === 'create')).toHaveLength(before)
  inventory.fault = () => undefined
  await expectOneOfAll(made)
})

test('a name that another machine has is not taken, whatever its case', async () => {
  const first = await create()
  inventory.newName = ((usual) => () => {
    inventory.newName = usual
    return String(first.body.name).toUpperCase()
  })(inventory.newName)
  const second = await create()
  await untilBlocked(second, 'name_missing', /it gave the name HOST-\d+, which another machine has$/)
  inventory.names.delete(second.request_id) // somebody put it right
  await expectOneOfAll(second)
  await expectOneOfAll(first)
})

test('a record that is not taken is told of, and nothing else waits for it', async () => {
  inventory.fault = ({ kind }) => (kind === 'record' ? { status: 400, body: 'who?' } : undefined)
  const made = await create()
  await untilStatus(made.id, 'active')
  await untilBlocked(made, 'record_unconfirmed', /the inventory has not taken its record: it answered 400: who\?$/)
  inventory.fault = () => undefined
  await expectOneOfAll(made)
})

test('cancelled before it was named: a name that was given all the same is decommissioned, no machine is made', async () => {
  inventory.fault = () => ({ lose: 'after' })
  const made = await create()
  await untilBlocked(made, 'name_missing', /cannot be reached/)
  await remove(made.id)
  await untilInstance(place.project.api, made.id, ['terminated'])
  inventory.fault = () => undefined
  expect(await untilRecorded(made, 'decommissioned')).toMatchObject({ serial_number: null })
  expect(await machines(inventory.names.get(made.request_id)!)).toEqual([])
  await untilNothingIsOpen()
})

test('a create that fails: its name is decommissioned', async () => {
  await place.cloud.control.fault({
    id: 'full',
    match: { verb: 'create' },
    effect: { kind: 'error', class: 'capacity' },
  })
  const made = await create()
  await untilInstance(place.project.api, made.id, ['failed'])
  await place.cloud.control.send('DELETE', '/faults/full')
  expect(await untilRecorded(made, 'decommissioned')).toMatchObject({ serial_number: null })
  await untilNothingIsOpen()
})

test('no name is spent where there is no room', async () => {
  const full = await world.place({ configuration: { presents_as: 'openstack' } })
  await world.h.operator.patch(`/api/clouds/${full.cloud.name}`, { allocation: 0 })
  const asked = inventory.ledger.length
  const there = openPcmClient(world.h.service.url!, full.project.token)
  const answer = await there('POST', `/v2/clouds/${full.cloud.name}/instances`, { size: 'small', image: 'debian' })
  expect(answer.status).toBe(507)
  expect(inventory.ledger).toHaveLength(asked)
})

describe('its file, while names are open:', () => {
  /** One whose name was asked for in vain. */
  const stuck = async (reason: RegExp): Promise<Made> => {
    const made = await create()
    await untilBlocked(made, 'name_missing', reason)
    return made
  }

  test('with another password goes on with it', async () => {
    inventory.password = 'another one'
    const made = await stuck(/it refuses us \(401\): not for "holdfast:\[secret\]"$/)
    await folder.put('inventory', inventory.file())
    await expectOneOfAll(made)
  })

  test('with another address goes on there', async () => {
    await folder.put('inventory', { ...inventory.file(), url: 'http://127.0.0.1:9/inventory' })
    const made = await stuck(/it cannot be reached \(ECONNREFUSED\)$/)
    await folder.put('inventory', inventory.file())
    await expectOneOfAll(made)
  })

  test('broken: what it said before is done', async () => {
    await folder.put('inventory', '{"url": ')
    await expectOneOfAll(await create())
  })

  test('gone: they wait, new machines get names of the built-in inventory; back: they go on', async () => {
    inventory.fault = () => ({ status: 503, body: '' })
    const made = await stuck(/it answered 503: nothing$/)
    await folder.drop('inventory')
    await shown(made.id) // somebody looks
    await untilBlocked(made, 'name_missing', /there is no inventory\.conf/)
    inventory.fault = () => undefined
    const asked = inventory.ledger.length
    const other = await pcm('POST', at, { size: 'small', image: 'debian' })
    world.note('order', (await orderOf(other.body.id)).order_id, Date.now(), 202)
    expect(other.body.name).toMatch(new RegExp(`^${place.cloud.name}-\\d+$`))
    await untilStatus(other.body.id, 'active')
    await remove(other.body.id)
    expect(inventory.ledger).toHaveLength(asked)
    await folder.put('inventory', inventory.file())
    await expectOneOfAll(made)
  })
})

const orderOf = (id: string) =>
  world.h.store.db.selectFrom('instances').select('order_id').where('id', '=', id).executeTakeFirstOrThrow()

test('nothing was lost, doubled or left behind, and no password got anywhere', async () => {
  await world.judgeAll()
  const { rows } = await sql<{ text: string }>`
    select snapshot::text || cause::text as text from events union all select coalesce(error::text, '') from inventory
    union all select coalesce(blocker::text, '') from instances union all select coalesce(blocker::text, '') from launch_orders`.execute(
    world.h.store.db,
  )
  const said = rows.map(({ text }) => text).join('\n')
  expect(said).toContain('[secret]')
  for (const password of ['open-sesame-inventory', 'another one']) expect(said).not.toContain(password)
}, 120_000)
