/** Cloud State, its page: what it is for, its two models, their methods, and its open questions. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { SETTLE_TIMEOUT_MS } from '../support/flow.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'
import { everyRow, type Row } from './rows.ts'

let world: World
let place: Place
let api: ApiClient
let receiver: Receiver
beforeAll(async () => {
  world = await startWorld()
  place = await world.place({ configuration: { presents_as: 'openstack' } })
  api = place.project.api
  receiver = await startReceiver()
})
afterAll(async () => {
  await world.close()
  await receiver.close()
})

interface Instance {
  readonly id: string
  readonly uuid: string
  readonly href: string
  readonly name: string
  readonly state: string
  readonly public_address: string | null
  readonly private_address: string | null
  readonly external_key: string | null
  readonly ssh_key: { readonly href: string } | null
  readonly callbacks: readonly { readonly id: string; readonly href: string; readonly action: string }[]
}
type Told = Pick<Instance, 'id' | 'uuid' | 'state' | 'public_address' | 'ssh_key'>

const BASE = '/api/cloud_state'
const one = (more: Record<string, unknown> = {}) => ({ name: 'web', image_id: 'debian', hwp_id: 'small', ...more })

async function launch(more: Record<string, unknown> = {}): Promise<Instance> {
  return (await api.post<{ instance: Instance }>(`${BASE}/instances`, one(more))).body.instance
}
const read = async (id: string) => (await api.get<{ instance: Instance }>(`${BASE}/instances/${id}`)).body.instance

const until = (id: string, state: string) =>
  waitFor(
    async () => {
      const instance = await read(id)
      return instance.state === state && instance
    },
    { what: `${id} to be ${state}`, timeout_ms: SETTLE_TIMEOUT_MS },
  ) as Promise<Instance>

const running = async (more: Record<string, unknown> = {}) => until((await launch(more)).id, 'running')

const toldOf = (id: string): Told[] =>
  receiver.ledger
    .map(({ body }) => (JSON.parse(body.toString('utf8')) as { event: { instance: Told } }).event.instance)
    .filter((told) => told.id === id)

const untilTold = (id: string, state: string) =>
  waitFor(() => toldOf(id).some((told) => told.state === state), {
    what: `the callback to be told that ${id} is ${state}`,
    timeout_ms: SETTLE_TIMEOUT_MS,
  })

/** What reached the cloud for the machine of this name. */
async function sent(name: string): Promise<Record<string, unknown>> {
  return (await waitFor(
    async () => {
      const lines = (await place.cloud.control.ledger()) as { kind: string; verb?: string; body?: string }[]
      const bodies = lines
        .filter(({ kind, verb }) => kind === 'request' && verb === 'create')
        .map(({ body }) => JSON.parse(body!) as Record<string, unknown>)
      return bodies.find((body) => body.name === name)
    },
    { what: `the create of ${name}`, timeout_ms: SETTLE_TIMEOUT_MS },
  )) as Record<string, unknown>
}

let serial = 0
const fresh = (): string => `seed-${++serial}`

const reaches =
  (given: Record<string, unknown>, expected: Record<string, unknown>): Row =>
  async () => {
    const name = fresh()
    await launch({ name, ...given })
    expect(await sent(name)).toMatchObject(expected)
  }

const act =
  (before: readonly string[], action: string, after: string): Row =>
  async () => {
    const { id, href } = await running()
    for (const step of [...before, action]) await api.post(`${href}/actions`, { action: step }, { expect: 202 })
    await until(id, after)
  }

const TESTS: Readonly<Record<string, Row>> = {
  'a launch order with the uuids of things to launch and user-data for each': async () => {
    const names = [fresh(), fresh()]
    const uuids = [randomUUID(), randomUUID()]
    const instances = names.map((name, i) => one({ name, uuid: uuids[i], user_data: `#!/bin/sh ${name}` }))
    await api.post(`${BASE}/launch_orders`, { instances }, { expect: 202 })
    for (const name of names) expect(await sent(name)).toMatchObject({ user_data: `#!/bin/sh ${name}` })
    expect((await read(uuids[1]!)).name).toBe(names[1])
  },
  'several instances in a single call': async () => {
    const { body } = await api.post<{ launch_order: { instances: Instance[] } }>(`${BASE}/launch_orders`, {
      count: 3,
      instances: [one()],
    })
    expect(body.launch_order.instances).toHaveLength(3)
  },
  'notification of the state changes of each instance it launches': async () => {
    const { body } = await api.post<{ launch_order: { instances: Instance[] } }>(`${BASE}/launch_orders`, {
      callback: receiver.uri,
      instances: [one(), one()],
    })
    for (const { id } of body.launch_order.instances) await untilTold(id, 'running')
  },
  'credentials for each provider account, perhaps more than one': async () => {
    const other = await world.place({ configuration: { api_keys: ['open-sesame'] } })
    await world.h.operator.put(`/api/clouds/${other.cloud.name}/grants/${place.project.name}`, undefined)
    const credentials = [
      { cloud: other.cloud.name, secret: 'open-sesame' },
      { cloud: place.cloud.name, secret: 'any' },
    ]
    const instances = [one({ cloud: other.cloud.name }), one({ cloud: place.cloud.name })]
    const { body } = await api.post<{ launch_order: { instances: Instance[] } }>(`${BASE}/launch_orders`, {
      credentials,
      instances,
    })
    for (const { id } of body.launch_order.instances) await until(id, 'running')
  },
  'as each instance is launched: status, address and ssh key': async () => {
    const { id } = await launch({ callback: receiver.uri })
    await untilTold(id, 'running')
    const told = toldOf(id).findLast(({ state }) => state === 'running')!
    expect(told.public_address).not.toBeNull()
    expect(told.ssh_key).toMatchObject({ href: `${BASE}/instances/${id}/ssh_key` })
    const { body } = await api.get<string>(told.ssh_key!.href)
    expect(body).toContain('PRIVATE KEY')
  },
  'it monitors running instances and tells listeners of their changes': async () => {
    const { id, external_key } = await running({ callback: receiver.uri })
    await place.cloud.control.fate(external_key!, 'die')
    await untilTold(id, 'failed')
  },
  'CloudStateInstance: id, uuid, state, public_address, private_address, external_key': async () => {
    const uuid = randomUUID()
    expect(await running({ uuid })).toMatchObject({
      id: expect.any(String),
      uuid,
      state: 'running',
      public_address: expect.any(String),
      private_address: expect.any(String),
      external_key: expect.any(String),
    })
  },
  'launch: uuid, the caller pairs by it': async () => {
    const uuid = randomUUID()
    const { id } = await launch({ uuid })
    expect((await read(uuid)).id).toBe(id)
    expect((await launch({ uuid })).id).toBe(id)
  },
  'launch: image_id': reaches({ image_id: 'debian' }, { image: 'debian-13' }),
  'launch: name': async () => {
    const name = fresh()
    await launch({ name: `${name}/a` })
    expect(await sent(`${name}-a`)).toBeDefined()
  },
  'launch: hwp_id': reaches({ hwp_id: 'small' }, { size: 'm1.small' }),
  'launch: hwp_memory': reaches({ hwp_memory: 3_000 }, { memory_mib: 3_000 }),
  'launch: hwp_cpu': reaches({ hwp_cpu: 3 }, { vcpus: 3 }),
  'launch: hwp_storage': reaches({ hwp_storage: 30 }, { disk_gib: 30 }),
  'launch: keyname': reaches({ keyname: 'mine' }, { key_name: 'mine' }),
  'launch: callback, created with it': async () => {
    const { callbacks } = await launch({ callback: receiver.uri })
    expect(callbacks).toMatchObject([{ action: receiver.uri }])
  },
  'CloudStateCallback: id, instance_id, action': async () => {
    const { id, callbacks } = await launch({ callback: receiver.uri })
    const { body } = await api.get<{ callback: unknown }>(callbacks[0]!.href)
    expect(body.callback).toMatchObject({ id: callbacks[0]!.id, instance_id: id, action: receiver.uri })
  },
  'an instance has many callbacks, all of them are triggered, and they go with it': async () => {
    const second = await startReceiver()
    const { id, href } = await launch({ callback: receiver.uri })
    const { body } = await api.post<{ callback: { href: string } }>(`${BASE}/callbacks`, {
      instance_id: id,
      action: second.uri,
    })
    await untilTold(id, 'running')
    await waitFor(() => second.ledger.length > 0, { what: 'the second to be told', timeout_ms: SETTLE_TIMEOUT_MS })
    await api.delete(`${href}?terminate=true`, { expect: 202 })
    await until(id, 'terminated')
    await api.delete(href, { expect: 204 })
    await api.get(body.callback.href, { expect: 404 })
    await second.close()
  },
  'do_action: stop': act([], 'stop', 'stopped'),
  'do_action: start': act(['stop'], 'start', 'running'),
  'do_action: reboot': act([], 'reboot', 'running'),
  'do_action: an action that does not fit is refused, naming state and what does': async () => {
    const { href } = await running()
    const { body } = await api.post<ErrorAnswer>(`${href}/actions`, { action: 'start' }, { expect: 409 })
    expect(body.error.message).toContain('running')
    expect(body.error.problems![0]!.accepted).toContain('stop')
  },
  'do_action: asynchronous; a provider that cannot be reached is told on the action, and it goes on': async () => {
    const { href, id } = await running()
    await place.cloud.control.fault({ id: 'away', match: { verb: 'stop' }, effect: { kind: 'down' } })
    await api.post(`${href}/actions`, { action: 'stop' }, { expect: 202 })
    await waitFor(
      async () =>
        (await api.get<{ instance: { blocker: unknown } }>(`/api/instances/${id}`)).body.instance.blocker !== null,
      { what: 'it to say what blocks it', timeout_ms: SETTLE_TIMEOUT_MS },
    )
    await place.cloud.control.send('DELETE', '/faults/away')
    await until(id, 'stopped')
  },
  'register: by instance_id': async () => {
    const { id } = await launch()
    await api.post(`${BASE}/callbacks`, { instance_id: id, action: receiver.uri }, { expect: 201 })
  },
  'register: by instance_uuid': async () => {
    const uuid = randomUUID()
    await launch({ uuid })
    await api.post(`${BASE}/callbacks`, { instance_uuid: uuid, action: receiver.uri }, { expect: 201 })
  },
  'register: action, an address and never a method': async () => {
    const { id } = await launch()
    await api.post(`${BASE}/callbacks`, { instance_id: id, action: 'instance_changed' }, { expect: 400 })
  },
  'instances that are stopped are checked as well': async () => {
    const { id, href, external_key } = await running()
    await api.post(`${href}/actions`, { action: 'stop' })
    await until(id, 'stopped')
    await place.cloud.control.fate(external_key!, 'vanish')
    await until(id, 'vanished')
  },
  'CRUD of instances': async () => {
    const { href, id } = await launch()
    const { body: changed } = await api.put<{ instance: Instance }>(href, { name: 'other' })
    expect(changed.instance.name).toBe('other')
    const { body } = await api.get<{ instances: Instance[] }>(`${BASE}/instances`)
    expect(body.instances.map((instance) => instance.id)).toContain(id)
    await api.delete(`${href}?terminate=true`, { expect: 202 })
    await until(id, 'terminated')
    await api.delete(href, { expect: 204 })
  },
  'CRUD of callbacks': async () => {
    const { id } = await launch()
    const made = await api.post<{ callback: { href: string; id: string } }>(`${BASE}/callbacks`, {
      instance_id: id,
      action: receiver.uri,
    })
    const { href } = made.body.callback
    const { body } = await api.get<{ callbacks: { id: string }[] }>(`${BASE}/callbacks?instance_id=${id}`)
    expect(body.callbacks.map((callback) => callback.id)).toEqual([made.body.callback.id])
    await api.put(href, { action: `${receiver.uri}/2` })
    await api.delete(href, { expect: 204 })
    await api.get(href, { expect: 404 })
  },
  'realms: their availability is known': async () => {
    const path = `/api/clouds/${place.cloud.name}/realms`
    const { body } = await api.get<{ realms: { name: string; available: boolean }[] }>(path)
    expect(body.realms).toContainEqual(expect.objectContaining({ name: 'nova', available: true }))
  },
}

/** The page, from top to bottom. */
const ROWS = [
  'a launch order with the uuids of things to launch and user-data for each',
  'several instances in a single call',
  'notification of the state changes of each instance it launches',
  'credentials for each provider account, perhaps more than one',
  'as each instance is launched: status, address and ssh key',
  'it monitors running instances and tells listeners of their changes',
  'CloudStateInstance: id, uuid, state, public_address, private_address, external_key',
  'launch: uuid, the caller pairs by it',
  'launch: image_id',
  'launch: name',
  'launch: hwp_id',
  'launch: hwp_memory',
  'launch: hwp_cpu',
  'launch: hwp_storage',
  'launch: keyname',
  'launch: callback, created with it',
  'CloudStateCallback: id, instance_id, action',
  'an instance has many callbacks, all of them are triggered, and they go with it',
  'do_action: stop',
  'do_action: start',
  'do_action: reboot',
  'do_action: an action that does not fit is refused, naming state and what does',
  'do_action: asynchronous; a provider that cannot be reached is told on the action, and it goes on',
  'register: by instance_id',
  'register: by instance_uuid',
  'register: action, an address and never a method',
  'instances that are stopped are checked as well',
  'CRUD of instances',
  'CRUD of callbacks',
  'realms: their availability is known',
] as const

describe('Cloud State', () => everyRow(ROWS, TESTS))
