/**
 * Naming by an inventory outside, killed at every point of it: before and after each of its commits and calls. Each life
 * of the service dies at another one, with a machine ordered in it; the last one goes on from there. In the end each order
 * has one name, one machine and one record.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'
import { SETTLE_TIMEOUT_MS, untilInstance, untilOrder } from '../support/flow.ts'
import { type InventoryServer, startInventory } from '../support/inventory-server.ts'
import { openPcmClient } from '../support/pcm-client.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'
import { type Lives, openLives, untilTrue } from './lives.ts'

/** What a machine's name passes on its way. */
const OURS = /outside-inventory|acceptPcmInstance|askForName|\/inventory\//
const POINT_TIMEOUT_MS = 60_000

let world: World
let place: Place
let inventory: InventoryServer
let folder: ConfigFolder
let lives: Lives
beforeAll(async () => {
  lives = await openLives()
  inventory = await startInventory()
  folder = await openConfigFolder({ inventory: inventory.file() })
  world = await startWorld({ config_dir: folder.path })
  place = await world.place({ configuration: { presents_as: 'openstack' } })
})
afterAll(async () => {
  await lives?.close()
  await world?.close()
  await inventory?.close()
  await folder?.close()
})

const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS })

/** Orders a machine and deletes it again, as far as the life that is asked lasts. */
async function submit(): Promise<void> {
  const pcm = openPcmClient(world.h.service.url!, place.project.token)
  const at = `/v2/clouds/${place.cloud.name}/instances`
  const { body } = await pcm('POST', at, { size: 'small', image: 'debian' })
  const statusOf = async () => (await pcm('GET', `${at}/${body.id}`)).body.status
  const isRecorded = () =>
    [...inventory.records.values()].some(({ serial_number, status }) => serial_number && status === 'active')
  await untilTrue(async () => (await statusOf()) === 'active' && isRecorded())
  const sent_at_ms = Date.now()
  let status: number | null = null
  try {
    ;({ status } = await pcm('DELETE', `${at}/${body.id}`))
  } finally {
    world.note('terminate', body.id, sent_at_ms, status)
  }
  await untilTrue(async () => (await statusOf()) === 'terminated')
}

/** Ordered machines, with what the inventory has of them. */
const entries = () =>
  world.h.store.db
    .selectFrom('inventory')
    .innerJoin('instances', 'instances.id', 'instance_id')
    .select(['instances.id', 'order_id', 'request_id', 'inventory.name', 'instances.name as instance_name', 'state'])
    .select('provider_id')
    .execute()

test('killed at every point of its naming, each machine has one name and one record', async () => {
  const port = Number(new URL(world.h.service.url!).port)
  await world.h.stopService()
  const base = {
    database_url: world.h.database_url,
    namespace: world.h.namespace,
    master_key: world.h.master_key.toString('base64'),
    config_dir: folder.path,
    port,
  }
  const first = await lives.begin({ ...base, die_at: [] })
  await submit()
  await world.untilQuiet()
  first.process.kill('SIGTERM')
  await first.ended
  const found = new Set((await lives.points()).filter((point) => OURS.test(point)))
  for (const name of ['beginCall', 'storeNamed', 'storeRecorded', 'acceptPcmInstance', 'call PUT'])
    expect([...found].filter((point) => point.includes(name)).length, name).toBeGreaterThanOrEqual(2)

  for (const point of found) {
    const life = await lives.begin({ ...base, die_at: [point] })
    const submitted = submit().catch((error: unknown) => {
      if (!(error instanceof TypeError)) throw error // the connection broke
    })
    const died = await Promise.race([life.ended.then(() => true), delay(POINT_TIMEOUT_MS, false)])
    expect(died, `to die at: ${point}`).toBe(true)
    await submitted
  }
  process.stdout.write(`killed at ${found.size} points\n`)

  await world.h.startService(port)
  const { api } = place.project
  const ordered = await entries()
  for (const { order_id, state } of ordered) {
    world.note('order', order_id, Date.now(), 202)
    if (state !== 'terminated') await untilOrder(api, order_id, ['running', 'terminated', 'cancelled'])
  }
  await world.untilQuiet()

  const made = await place.cloud.control.machines()
  const after = await entries()
  expect(after.length).toBeGreaterThan(1)
  for (const { request_id, name, instance_name, state, provider_id } of after) {
    expect(name).toBe(inventory.names.get(request_id!))
    expect(instance_name).toBe(name)
    const machines = made.filter((machine) => machine.name === name)
    expect(machines).toMatchObject([{ id: provider_id, gone_at: state === 'terminated' ? expect.any(Number) : null }])
    const status = state === 'terminated' ? 'decommissioned' : 'active'
    await waitFor(
      () => {
        const record = inventory.records.get(name!)
        return record?.serial_number === provider_id && record?.status === status
      },
      wait(`the record of ${name}`),
    )
  }
  expect([...inventory.names.keys()].toSorted()).toEqual(after.map(({ request_id }) => request_id).toSorted())
  expect(new Set(inventory.names.values()).size).toBe(after.length)

  for (const { id, state } of after) {
    if (state === 'terminated') continue
    const path = `/api/instances/${id}/actions`
    await world.change(place.project, 'terminate', id, 'POST', path, { action: 'terminate' })
    await untilInstance(api, id, ['terminated'])
  }
  await world.untilQuiet()
  await waitFor(
    () => [...inventory.records.values()].every(({ status }) => status === 'decommissioned'),
    wait('all names to be decommissioned'),
  )
  await world.judgeAll()
}, 900_000)
