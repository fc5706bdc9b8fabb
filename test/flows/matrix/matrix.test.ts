/** The fault matrix: every activity of every flow, with every kind of fault; one judge over all of it. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createActivities } from '../../../activities/index.ts'
import { type ConfigFolder, openConfigFolder } from '../../support/config-folder.ts'
import { createFaults, FAULT_KINDS } from '../../support/faults.ts'
import { type InventoryServer, startInventory } from '../../support/inventory-server.ts'
import { startWorld, type World } from '../../support/world.ts'
import { SCENARIOS } from './scenarios.ts'

/** Activities whose flows cannot be told apart by a project; they have a file of their own (shared.test.ts). */
const SHARED = ['sendShard', 'keepHouse']

const faults = createFaults()
let world: World
let inventory: InventoryServer
let folder: ConfigFolder
beforeAll(async () => {
  inventory = await startInventory()
  folder = await openConfigFolder({ inventory: inventory.file() })
  const worker_options = { interceptors: { activity: [faults.interceptor] } }
  world = await startWorld({ config_dir: folder.path, worker_options })
})
afterAll(async () => {
  await world?.close()
  await inventory?.close()
  await folder?.close()
})

test('every activity has its cases', () => {
  const { store, hints, envelope } = world.h
  const needs = {
    store,
    hints,
    envelope,
    installation_id: '',
    clouds: undefined as never,
    allow: undefined as never,
    user_agent: '',
    onBug: () => {},
  }
  expect(Object.keys(createActivities(needs)).toSorted()).toEqual([...Object.keys(SCENARIOS), ...SHARED].toSorted())
})

describe.each(Object.entries(SCENARIOS))('%s', (_activity, scenario) => {
  test.concurrent.each(FAULT_KINDS)('%s', async (kind) => scenario({ world, inventory, faults, kind }), 120_000)
})

test('afterwards record, clouds and receivers agree', async () => {
  await world.judgeAll()
}, 120_000)
