/** PCM API v2, its interface page: every parameter, result, error and use case. */
import { afterAll, beforeAll, describe, expect } from 'vitest'
import { PCM_STATUSES } from '../../domain/pcm/status.ts'
import { CloudControl } from '../providers/simulated-control.ts'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'
import { actOn, SETTLE_TIMEOUT_MS, untilActed } from '../support/flow.ts'
import { openPcmClient, type PcmAnswer, type PcmClient } from '../support/pcm-client.ts'
import { waitFor } from '../support/wait-for.ts'
import { startWorld, type World } from '../support/world.ts'
import { everyRow, type Row } from './rows.ts'

let folder: ConfigFolder
let world: World
let control: CloudControl
let pcm: PcmClient
let api: Parameters<typeof actOn>[0]

beforeAll(async () => {
  folder = await openConfigFolder()
  world = await startWorld({ config_dir: folder.path })
  control = new CloudControl(world.h.simulated_url, 'lab')
  await control.configure({ presents_as: 'openstack', boot_latency_ms: 100, delete_latency_ms: 50 })
  await folder.put('sizes/small', { ram: 2_048 })
  await folder.put('sizes/large', { ram: 8_192 })
  await folder.put('images/debian', { osfamily: 'Debian' })
  await folder.put('providers/openstack', {
    sizes: { small: 'm1.small', large: 'm1.large' },
    images: { debian: 'debian-13' },
    defaults: { size: 'small', image: 'debian', environment: 'lab' },
  })
  await folder.put('clouds/lab', {
    provider: 'openstack',
    simulated: { endpoint: `${world.h.simulated_url}/clouds/lab` },
    subnets: { office: 'net-office' },
  })
  await folder.put('roles/database', { sizes: ['large'] })
  const project = await world.h.project()
  api = project.api
  pcm = openPcmClient(world.h.service.url!, project.token)
  expect((await pcm('GET', '/v2/clouds')).body).toEqual(['lab'])
})
afterAll(async () => {
  await world.close()
  await folder.close()
})

const AT = '/v2/clouds/lab/instances'
const create = (body: Record<string, unknown> = {}): Promise<PcmAnswer> => pcm('POST', AT, body)
const read = async (id: string) => (await pcm('GET', `${AT}/${id}`)).body

const until = (id: string, status: string) =>
  waitFor(async () => (await read(id)).status === status, {
    what: `${id} to be ${status}`,
    timeout_ms: SETTLE_TIMEOUT_MS,
  })

async function active(body: Record<string, unknown> = {}): Promise<string> {
  const { id } = (await create(body)).body
  await until(id, 'active')
  return id
}

/** What reached the cloud for the machine of this name. */
async function sent(name: string): Promise<Record<string, unknown>> {
  const found = await waitFor(
    async () => {
      const lines = (await control.ledger()) as { kind: string; verb?: string; body?: string }[]
      const bodies = lines
        .filter(({ kind, verb }) => kind === 'request' && verb === 'create')
        .map(({ body }) => JSON.parse(body!))
      return bodies.find((one: { name: string }) => one.name === name)
    },
    { what: `the create of ${name}`, timeout_ms: SETTLE_TIMEOUT_MS },
  )
  return found as Record<string, unknown>
}

const TESTS: Readonly<Record<string, Row>> = {
  'POST instances: size, mapped by configuration': async () => {
    const { body } = await create({ size: 'large' })
    expect(body.size).toBe('large')
    expect(await sent(body.name)).toMatchObject({ size: 'm1.large' })
    expect((await create({ size: 'giant' })).status).toBe(400)
  },
  'POST instances: role, checks allowed sizes': async () => {
    expect((await create({ role: 'database', size: 'large' })).body.role).toEqual(['database'])
    expect((await create({ role: 'database', size: 'small' })).status).toBe(400)
  },
  'POST instances: environment': async () => {
    expect((await create({ environment: 'qa' })).body.environment).toBe('qa')
  },
  'POST instances: image, mapped by configuration': async () => {
    const { body } = await create({ image: 'debian' })
    expect(await sent(body.name)).toMatchObject({ image: 'debian-13' })
    expect((await create({ image: 'plan9' })).status).toBe(400)
  },
  'POST instances: subnet, promised for later': async () => {
    const { body } = await create({ subnet: 'office' })
    expect(body.subnet).toBe('office')
    expect(await sent(body.name)).toMatchObject({ subnet: 'net-office' })
  },
  'POST instances: extra, for the provider type it names': async () => {
    const os_scheduler_hints = { different_host: ['214cc582-0041-46d8-9158-a1459a8233d7'] }
    const { status, body } = await create({ extra: { openstack: { os_scheduler_hints }, aws: { key: 'other' } } })
    expect(status).toBe(202)
    expect((await sent(body.name)).extra).toEqual({ os_scheduler_hints })
  },
  'POST instances: 202 with name, id, role, size, image, environment, status': async () => {
    const { status, body } = await create({ role: 'web' })
    expect(status).toBe(202)
    expect(body).toMatchObject({
      name: expect.any(String),
      id: expect.any(String),
      role: ['web'],
      size: 'small',
      image: 'debian',
      environment: 'lab',
      status: 'build',
    })
  },
  'POST instances: 503 where it cannot be created or scheduled': async () => {
    await folder.put('clouds/off', {
      provider: 'openstack',
      simulated: { endpoint: `${world.h.simulated_url}/clouds/lab` },
      enabled: false,
    })
    const answer = await pcm('POST', '/v2/clouds/off/instances', {})
    expect(answer).toMatchObject({ status: 503, body: { error: '503' } })
    expect(answer.headers.get('retry-after')).not.toBeNull()
    await folder.drop('clouds/off')
  },
  'DELETE instance: 202, and it ends': async () => {
    const id = await active()
    expect((await pcm('DELETE', `${AT}/${id}`)).status).toBe(202)
    await until(id, 'terminated')
  },
  'DELETE instance: 404': async () => {
    expect((await pcm('DELETE', `${AT}/a50eb0d4-64bf-11e2-a2be-57c6bf471819`)).status).toBe(404)
  },
  'DELETE instance: a cloud that cannot be reached holds it up, and loses nothing': async () => {
    const id = await active()
    await control.fault({ id: 'away', effect: { kind: 'down' } })
    expect((await pcm('DELETE', `${AT}/${id}`)).status).toBe(202)
    await control.send('DELETE', '/faults/away')
    await until(id, 'terminated')
  },
  'GET instance by id: name, id, size, subnet, image, status': async () => {
    const id = await active({ subnet: 'office' })
    expect(await read(id)).toMatchObject({
      name: expect.any(String),
      id,
      size: 'small',
      subnet: 'office',
      image: 'debian',
      status: 'active',
    })
  },
  'GET instance by name: struck out, 404': async () => {
    const { body } = await create()
    expect((await pcm('GET', `${AT}/${body.name}`)).status).toBe(404)
  },
  'GET console_log: plain text': async () => {
    const id = await active()
    const log = await pcm('GET', `${AT}/${id}/console_log`)
    expect(log.headers.get('content-type')).toMatch(/^text\/plain/)
    expect(log.text).toContain('login:')
  },
  'PUT /locations/…/instances: status reboot': async () => {
    const id = await active()
    const answer = await pcm('PUT', `/v2/locations/lab/instances/${id}`, { status: 'reboot' })
    expect(answer).toMatchObject({ status: 202, body: { status: 'reboot' } })
    expect(await untilActed(api, id)).toMatchObject([{ action: 'reboot', state: 'done' }])
  },
  'use case: list clouds': async () => {
    expect((await pcm('GET', '/v2/clouds')).body).toContain('lab')
  },
  'use case: status of all locations': async () => {
    expect((await pcm('GET', '/v2/clouds?view=status')).body).toContainEqual(
      expect.objectContaining({ name: 'lab', status: 'ok', provider: 'openstack' }),
    )
  },
  'use case: status of a location, GET /cloud/_cloud_': async () => {
    expect((await pcm('GET', '/v2/cloud/lab')).body).toMatchObject({ name: 'lab', status: 'ok' })
  },
  'use case: available sizes': async () => {
    expect((await pcm('GET', '/v2/sizes')).body).toContainEqual(expect.objectContaining({ ram: 2_048 }))
  },
  'use case: available sizes of a location': async () => {
    const { body } = await pcm('GET', '/v2/clouds/lab/sizes')
    expect((body as { id: string }[]).map(({ id }) => id)).toEqual(['large', 'small'])
  },
  'use case: available images': async () => {
    expect((await pcm('GET', '/v2/images')).body).toContainEqual(expect.objectContaining({ osfamily: 'Debian' }))
  },
  'use case: available images of a location': async () => {
    const { body } = await pcm('GET', '/v2/clouds/lab/images')
    expect((body as { id: string }[]).map(({ id }) => id)).toEqual(['debian'])
  },
  'statuses: an instance never has another than the twelve': async () => {
    expect(PCM_STATUSES).toHaveLength(12)
    const { body } = await create()
    const seen = new Set<string>()
    await waitFor(
      async () => {
        seen.add((await read(body.id)).status)
        return seen.has('active')
      },
      { what: 'it to be active', timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 10 },
    )
    await actOn(api, body.id, { action: 'stop' })
    await until(body.id, 'suspend')
    for (const status of seen) expect(PCM_STATUSES).toContain(status)
  },
  'errors: 404 names instance and cloud': async () => {
    const id = 'a50eb0d4-64bf-11e2-a2be-57c6bf471819'
    const { status, headers, body } = await pcm('GET', `${AT}/${id}`)
    expect(status).toBe(404)
    expect(headers.get('content-type')).toMatch(/^application\/json/)
    expect(body).toMatchObject({ error: '404', message: `Instance ${id} does not exist in cloud lab` })
  },
  'errors: 507 where it exceeds the limits of the cloud': async () => {
    await folder.put('clouds/full', {
      provider: 'openstack',
      simulated: { endpoint: `${world.h.simulated_url}/clouds/lab` },
      allocation: 0,
    })
    const answer = await pcm('POST', '/v2/clouds/full/instances', {})
    expect(answer).toMatchObject({ status: 507, body: { error: '507', status: '507 Insufficient Storage' } })
    await folder.drop('clouds/full')
  },
  'errors: details on request': async () => {
    const made = await world.h.operator.post<{ token: { text: string } }>('/api/tokens', {
      project: 'default',
      role: 'operator',
    })
    const operator = openPcmClient(world.h.service.url!, made.body.token.text)
    expect((await operator('GET', '/v2/clouds/nowhere?details')).body).toHaveProperty('details')
    expect((await pcm('GET', '/v2/clouds/nowhere?details')).body).not.toHaveProperty('details')
  },
  'configuration: re-read on demand, clouds come and go': async () => {
    const lab_2 = { provider: 'openstack', simulated: { endpoint: `${world.h.simulated_url}/clouds/lab` } }
    await folder.put('clouds/lab-2', lab_2)
    expect((await pcm('GET', '/v2/clouds')).body).toContain('lab-2')
    await folder.put('clouds/lab-2', '{ broken')
    expect((await pcm('GET', '/v2/clouds/lab-2')).status).toBe(200)
    await folder.drop('clouds/lab-2')
    expect((await pcm('POST', '/v2/clouds/lab-2/instances', { size: 'small', image: 'debian' })).status).toBe(503)
  },
  'request flow: name from the inventory, id from the cloud, recorded, 201 to who waits': async () => {
    const { status, body } = await pcm('POST', AT, {}, { prefer: 'wait=30' })
    expect(status).toBe(201)
    const { body: record } = await api.get<{ inventory: { serial_number: string } }>(`/api/inventory/${body.name}`)
    expect(record.inventory).toMatchObject({ name: body.name, cloud: 'lab' })
    expect((await control.machines()).map(({ id }) => id)).toContain(record.inventory.serial_number)
  },
}

/** The page, from top to bottom. */
const ROWS = [
  'POST instances: size, mapped by configuration',
  'POST instances: role, checks allowed sizes',
  'POST instances: environment',
  'POST instances: image, mapped by configuration',
  'POST instances: subnet, promised for later',
  'POST instances: extra, for the provider type it names',
  'POST instances: 202 with name, id, role, size, image, environment, status',
  'POST instances: 503 where it cannot be created or scheduled',
  'DELETE instance: 202, and it ends',
  'DELETE instance: 404',
  'DELETE instance: a cloud that cannot be reached holds it up, and loses nothing',
  'GET instance by id: name, id, size, subnet, image, status',
  'GET instance by name: struck out, 404',
  'GET console_log: plain text',
  'PUT /locations/…/instances: status reboot',
  'use case: list clouds',
  'use case: status of all locations',
  'use case: status of a location, GET /cloud/_cloud_',
  'use case: available sizes',
  'use case: available sizes of a location',
  'use case: available images',
  'use case: available images of a location',
  'statuses: an instance never has another than the twelve',
  'errors: 404 names instance and cloud',
  'errors: 507 where it exceeds the limits of the cloud',
  'errors: details on request',
  'configuration: re-read on demand, clouds come and go',
  'request flow: name from the inventory, id from the cloud, recorded, 201 to who waits',
] as const

describe('PCM API v2', () => everyRow(ROWS, TESTS))
