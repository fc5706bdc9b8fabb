/** A caller of Cloud State from launch to end: what reaches the cloud, and what reaches its callbacks. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ORDERS, one } from '../support/cloud-state.ts'
import { SETTLE_TIMEOUT_MS, untilOrder } from '../support/flow.ts'
import { lifeOf, lookAgain } from '../support/found-machines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
let place: Place
let other: Place
let receiver: Receiver
beforeAll(async () => {
  world = await startWorld()
  place = await world.place({ configuration: { presents_as: 'openstack' } })
  other = await world.place({ configuration: { presents_as: 'aws' } })
  await world.h.operator.put(`/api/clouds/${other.cloud.name}/grants/${place.project.name}`, undefined)
  receiver = await startReceiver()
})
afterAll(async () => {
  await world.close()
  await receiver.close()
})

interface Shown {
  readonly id: string
  readonly uuid: string
  readonly href: string
  readonly name: string
  readonly state: string
  readonly cloud: string
  readonly public_address: string | null
  readonly external_key: string | null
  readonly ssh_key: { readonly name: string; readonly fingerprint: string; readonly href: string } | null
}
interface Told {
  readonly event: {
    readonly id: string
    readonly instance: Pick<Shown, 'id' | 'uuid' | 'state' | 'public_address' | 'ssh_key'>
  }
}

const told = (): Told[] => receiver.ledger.map(({ body }) => JSON.parse(body.toString('utf8')) as Told)
const statesOf = (uuid: string): string[] =>
  told().flatMap(({ event }) => (event.instance.uuid === uuid ? event.instance.state : []))

async function launch(instances: unknown[], more: Record<string, unknown> = {}) {
  const input = { callback: receiver.uri, instances, ...more }
  const { body } = await place.project.api.post<{ launch_order: { id: string; href: string; instances: Shown[] } }>(
    ORDERS,
    input,
  )
  return body.launch_order
}

const read = async (uuid: string) =>
  (await place.project.api.get<{ instance: Shown }>(`/api/cloud_state/instances/${uuid}`)).body.instance

const until = (uuid: string, state: string) =>
  waitFor(
    async () => {
      const instance = await read(uuid)
      return instance.state === state && instance
    },
    { what: `${uuid} to be ${state}`, timeout_ms: SETTLE_TIMEOUT_MS },
  ) as Promise<Shown>

const untilTold = (uuid: string, state: string) =>
  waitFor(() => statesOf(uuid).at(-1) === state, {
    what: `the callback of ${uuid} to be told ${state}`,
    timeout_ms: SETTLE_TIMEOUT_MS,
  })

test('user data, keys and profiles reach the cloud; states, addresses and keys reach the callback', async () => {
  const [a, b, c] = [randomUUID(), randomUUID(), randomUUID()]
  await launch([
    one({ uuid: a, name: 'front/1', user_data: '#!/bin/sh a', keyname: 'mine', cloud: place.cloud.name }),
    one({ uuid: b, name: 'back', hwp_memory: 4_096, hwp_cpu: 3, hwp_storage: 9, cloud: other.cloud.name }),
    one({ uuid: c, name: 'third', user_data: '#!/bin/sh c', realm_id: 'nova', cloud: place.cloud.name }),
  ])
  const shown = await Promise.all([a, b, c].map((uuid) => until(uuid, 'running')))
  expect(shown.map(({ cloud }) => cloud)).toEqual([place.cloud.name, other.cloud.name, place.cloud.name])
  for (const uuid of [a, b, c]) await untilTold(uuid, 'running')

  const creates = await Promise.all([place, other].map((at) => createsAt(at)))
  const sent = Object.fromEntries(creates.flat().map((body) => [body.name, body]))
  expect(sent['front-1']).toMatchObject({ user_data: '#!/bin/sh a', key_name: 'mine' })
  expect(sent['front-1']).not.toHaveProperty('public_key')
  expect(sent.back).toMatchObject({ memory_mib: 4_096, vcpus: 3, disk_gib: 9 })
  expect(sent.back).not.toHaveProperty('user_data')
  expect(sent.third).toMatchObject({ user_data: '#!/bin/sh c', realm: 'nova' })
  expect(sent.third!.public_key).toMatch(/^ssh-ed25519 /)

  expect(statesOf(a).at(0)).toBe('pending')
  const last = told().findLast(({ event }) => event.instance.uuid === b)!.event.instance
  expect(last).toEqual({
    id: shown[1]!.id,
    uuid: b,
    href: shown[1]!.href,
    state: 'running',
    public_address: shown[1]!.public_address,
    private_address: expect.any(String),
    ssh_key: shown[1]!.ssh_key,
  })
  expect(last.public_address).not.toBeNull()
  expect(receiver.judge()).toMatchObject({ inversions: 0, duplicates: 0 })
})

async function createsAt(at: Place): Promise<Record<string, unknown>[]> {
  const lines = (await at.cloud.control.ledger()) as { kind: string; verb?: string; body?: string }[]
  return lines.flatMap(({ kind, verb, body }) =>
    kind === 'request' && verb === 'create' ? [JSON.parse(body!) as Record<string, unknown>] : [],
  )
}

test('one machine, all dialects: made here, seen and stopped elsewhere, ended here', async () => {
  const uuid = randomUUID()
  await launch([one({ uuid, cloud: place.cloud.name })])
  const { id, href } = await until(uuid, 'running')
  const { api } = place.project
  expect(
    (await api.get<{ instance: { state: string; external_id: string } }>(`/api/instances/${id}`)).body,
  ).toMatchObject({
    instance: { state: 'running', external_id: uuid },
  })
  await api.post(`/api/instances/${id}/actions`, { action: 'stop' })
  await untilTold(uuid, 'stopped')
  await api.post(`${href}/actions`, { action: 'start' })
  await untilTold(uuid, 'running')
  await world.change(place.project, 'terminate', id, 'DELETE', `${href}?terminate=true`)
  await untilTold(uuid, 'terminated')
  expect(statesOf(uuid)).toEqual(expect.arrayContaining(['running', 'stopped', 'stopping', 'terminated']))
  await api.delete(href, { expect: 204 })
})

test('what vanishes is told as vanished, and an unreachable cloud as stale', async () => {
  const uuid = randomUUID()
  await launch([one({ uuid, cloud: place.cloud.name })])
  const { external_key } = await until(uuid, 'running')
  await place.cloud.control.fate(external_key!, 'vanish')
  await untilTold(uuid, 'vanished')
  expect((await read(uuid)).state).toBe('vanished')
})

test('one that died is ended with its machine', async () => {
  const uuid = randomUUID()
  await launch([one({ uuid, cloud: place.cloud.name })])
  const { id, href, external_key } = await until(uuid, 'running')
  await place.cloud.control.fate(external_key!, 'die')
  await lookAgain(world, place)
  await until(uuid, 'failed')
  await place.project.api.delete(href, { expect: 409 })
  await world.change(place.project, 'terminate', id, 'DELETE', `${href}?terminate=true`)
  await until(uuid, 'terminated')
  expect((await lifeOf(place, external_key!)).gone_at).not.toBeNull()
})

test('an order that is cancelled keeps what runs and gives up what does not', async () => {
  const [up, never] = [randomUUID(), randomUUID()]
  await place.cloud.control.fault({
    id: 'stuck',
    match: { verb: 'create', name: 'never' },
    effect: { kind: 'boot', outcome: 'stuck' },
  })
  const order = await launch([
    one({ uuid: up, cloud: place.cloud.name }),
    one({ uuid: never, name: 'never', cloud: place.cloud.name }),
  ])
  await until(up, 'running')
  await place.project.api.delete(order.href, { expect: 202 })
  await until(never, 'terminated')
  expect((await read(up)).state).toBe('running')
  expect(await untilOrder(place.project.api, order.id, ['running'])).toMatchObject({ partial: true })
  await place.project.api.delete(order.href, { expect: 409 })
  await world.change(place.project, 'terminate', order.id, 'DELETE', `${order.href}?terminate=true`)
  await until(up, 'terminated')
})

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
