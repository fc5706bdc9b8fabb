/** A caller of PCM from create to delete, on a real cloud as far as it goes. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { actOn, getInstance, SETTLE_TIMEOUT_MS, untilActed } from '../support/flow.ts'
import { openPcmClient, type PcmClient } from '../support/pcm-client.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

let world: World
let place: Place
let pcm: PcmClient
let at: string
beforeAll(async () => {
  world = await startWorld()
  place = await world.place({ configuration: { presents_as: 'openstack' } })
  pcm = openPcmClient(world.h.service.url!, place.project.token)
  at = `/v2/clouds/${place.cloud.name}/instances`
})
afterAll(() => world.close())

const NEW = { size: 'small', image: 'debian' }

/** A promise that the judge hears of. */
async function create(headers: Record<string, string> = {}, more: Record<string, unknown> = {}) {
  const answer = await pcm('POST', at, { ...NEW, ...more }, headers)
  const { order_id } = await world.h.store.db
    .selectFrom('instances')
    .select('order_id')
    .where('id', '=', answer.body.id)
    .executeTakeFirstOrThrow()
  world.note('order', order_id, Date.now(), 202)
  return answer
}

const until = (id: string, status: string) =>
  waitFor(async () => (await pcm('GET', `${at}/${id}`)).body.status === status, {
    what: `${id} to be ${status}`,
    timeout_ms: SETTLE_TIMEOUT_MS,
  })

const remove = async (id: string, headers: Record<string, string> = {}) => {
  const answer = await pcm('DELETE', `${at}/${id}`, undefined, headers)
  world.note('terminate', id, Date.now(), answer.status)
  return answer
}

test('created, rebooted, suspended, resumed, deleted', async () => {
  const { status, body } = await create({ prefer: 'wait=30' })
  expect(status).toBe(201)
  const { id } = body
  await until(id, 'active')
  const shown = (await pcm('GET', `${at}/${id}`)).body
  expect(shown).toMatchObject({ name: body.name, ip_address: expect.any(String) })

  expect(await pcm('PUT', `${at}/${id}`, { status: 'reboot' })).toMatchObject({
    status: 202,
    body: { status: 'reboot' },
  })
  await untilActed(place.project.api, id)
  await pcm('PUT', `${at}/${id}`, { status: 'hard-reboot' })
  await untilActed(place.project.api, id)
  await pcm('PUT', `${at}/${id}`, { status: 'suspend' })
  await until(id, 'suspend')
  await pcm('PUT', `${at}/${id}`, { status: 'active' })
  await until(id, 'active')

  const log = await pcm('GET', `${at}/${id}/console_log`)
  expect(log.headers.get('content-type')).toBe('text/plain; charset=utf-8')
  expect(log.text).toContain(`${body.name} login:`)
  const machines = await place.cloud.control.machines()
  expect(machines.filter(({ gone_at }) => gone_at === null)).toHaveLength(1)

  expect((await remove(id, { prefer: 'wait=30' })).status).toBe(204)
  expect((await pcm('GET', `${at}/${id}`)).body.status).toBe('terminated')
  expect((await pcm('DELETE', `${at}/${id}`)).status).toBe(404)
})

test("a cloud's own word for what it does with a machine is told in PCM's, and passes with it", async () => {
  const statuses = {
    RESIZE: 'provider-operation',
    RESCUE: 'provider-operation',
    VERIFY_RESIZE: 'needs-verify',
    SUSPENDED: 'suspend',
    HALF_THERE: 'unknown',
  }
  const made = await Promise.all(
    Object.entries(statuses).map(async ([word, status]) => {
      const { body } = await create({ prefer: 'wait=30' })
      await until(body.id, 'active')
      const { provider_id } = await getInstance(place.project.api, body.id)
      return { id: body.id as string, path: `/machines/${provider_id}/raw-state`, word, status }
    }),
  )
  const { control } = place.cloud
  for (const { path, word } of made) await control.send('PUT', path, { raw_state: word })
  for (const { id, status } of made) await until(id, status)
  for (const { path } of made) await control.send('PUT', path, { raw_state: null })
  for (const { id } of made) await until(id, 'active')
  for (const { id } of made) await remove(id)
}, 120_000)

test('one machine, all dialects: ordered here, stopped from another, counted once', async () => {
  const { body } = await create()
  await until(body.id, 'active')
  const { api } = place.project
  await actOn(api, body.id, { action: 'stop' })
  await until(body.id, 'suspend')
  const { body: cloud_state } = await api.get<{ instance: { state: string } }>(`/api/cloud_state/instances/${body.id}`)
  expect(cloud_state.instance.state).toBe('stopped')
  const all = (await pcm('GET', at)).body as { id: string; status: string }[]
  expect(all.filter(({ id }) => id === body.id)).toHaveLength(1)
  await remove(body.id)
  await until(body.id, 'terminated')
})

test('what the cloud refuses while its caller waits is told at once: 507 for room', async () => {
  await place.cloud.control.fault({
    id: 'full',
    match: { verb: 'create' },
    effect: { kind: 'error', class: 'capacity' },
  })
  const answer = await pcm('POST', at, NEW, { prefer: 'wait=30' })
  expect(answer).toMatchObject({
    status: 507,
    body: { error: '507', message: 'The cloud has no room for this machine.' },
  })
  await place.cloud.control.send('DELETE', '/faults/full')
})

test('nothing was lost, doubled or left behind', async () => {
  await world.judgeAll()
}, 120_000)
