/**
 * The drill: the record of a while ago is put back while clouds, receivers and the engine went on. Nothing is deleted by
 * itself, what is too much is listed and told, everything settles or says what it waits for, and goes on when a person
 * turns automatic removal on again.
 */
import { sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { shiftClock } from '../../store/housekeeping.ts'
import { markRestored } from '../../store/installation.ts'
import { machineToDelete } from '../../store/instance-plan.ts'
import {
  getInstance,
  getOrder,
  instancesOf,
  type ShownOrder,
  submitLease,
  submitOrder,
  untilInstance,
  untilLease,
  untilOrder,
} from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { firstAttempts, type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

/** A calm cloud is looked at every 30 s. */
const PATIENT_MS = 60_000
const HOUR_MS = 3_600_000
const wait = (what: string) => ({ what, timeout_ms: PATIENT_MS, interval_ms: 50 })

type Cloud = Awaited<ReturnType<Harness['cloud']>>
interface ShownEvent {
  readonly id: string
  readonly cursor: string
  readonly type: string
  readonly resource_type: string
  readonly snapshot: Readonly<Record<string, unknown>>
}
interface Page {
  readonly events: readonly ShownEvent[]
  readonly next: string
}

let h: Harness
let project: Project
let receiver: Receiver
beforeAll(async () => {
  h = await startHarness()
  project = await h.project()
  receiver = await startReceiver()
  await project.api.post('/api/hooks', { uri: receiver.uri })
})
afterAll(async () => {
  await h?.close()
  await receiver?.close()
})

/** Makes one database a copy of another, whoever is connected to them. */
async function copyDatabase(from: string, to: string): Promise<void> {
  const admin = new pg.Client({ connectionString: inject('database_url') })
  await admin.connect()
  try {
    await admin.query(`drop database if exists ${to} with (force)`)
    await admin.query(`alter database ${from} allow_connections false`)
    await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [from])
    await waitFor(async () => {
      await admin.query(`create database ${to} template ${from}`)
      return true
    }, wait('the last connection to be gone'))
    await admin.query(`alter database ${from} allow_connections true`)
  } finally {
    await admin.end()
  }
}

async function dropDatabase(name: string): Promise<void> {
  const admin = new pg.Client({ connectionString: inject('database_url') })
  await admin.connect()
  await admin.query(`drop database if exists ${name} with (force)`).finally(() => admin.end())
}

const alive = async ({ control }: Cloud) =>
  (await control.machines()).filter(({ gone_at }) => gone_at === null).map(({ id }) => id)

/** Machines that the cloud was asked to delete so far. */
const deleted = async ({ control }: Cloud): Promise<string[]> =>
  (await control.ledger())
    .filter((line) => line.kind === 'request' && line.verb === 'delete')
    .map((line) => String(line.path).split('/').at(-1)!)

const orphans = async ({ name }: Cloud) =>
  (await h.operator.get<{ orphans: { provider_id: string }[] }>(`/api/clouds/${name}/orphans`)).body.orphans.map(
    ({ provider_id }) => provider_id,
  )

const machinesOf = async ({ id }: { id: string }): Promise<string[]> =>
  (await instancesOf(project.api, id)).flatMap(({ provider_id }) => provider_id ?? [])

const untilBlocked = ({ id }: { id: string }, code: string): Promise<ShownOrder> =>
  waitFor(
    async () => {
      const order = await getOrder(project.api, id)
      return order.blocker?.code === code && order
    },
    wait(`order ${id} to be blocked by ${code}`),
  )

const attemptsOf = ({ id }: { id: string }) =>
  h.store.db.selectFrom('launch_attempts').selectAll().where('order_id', '=', id).orderBy('number').execute()

/** Events of a type, oldest first. */
async function eventsOf(types: string, api = project.api): Promise<readonly ShownEvent[]> {
  return (await api.get<Page>(`/api/events?type=${types}&limit=100`)).body.events.toReversed()
}

test('the record of a while ago is put back: nothing is deleted by itself, and everything is told', async () => {
  const cloud = await h.cloud(project, { name: 'drill', settings: { settle_ms: 60_000 } })
  const full = await h.cloud(project, { name: 'full' })
  const order = (name: string, more: Record<string, unknown> = {}) =>
    submitOrder(project, { name, count: 1, clouds: ['drill'], ...more })
  const untilRunning = ({ id }: { id: string }) => untilOrder(project.api, id, ['running'])

  // Before the backup.
  const [kept, ended, dying] = [await order('kept', { count: 2 }), await order('ended'), await order('dying')]
  const spared = await order('spared')
  await Promise.all([kept, ended, dying, spared].map(untilRunning))
  const kept_machines = await machinesOf(kept)
  await full.control.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'error', class: 'capacity' } })
  const refused = await order('refused', { clouds: ['full', 'drill'] })
  await untilRunning(refused)
  await h.operator.patch('/api/clouds/full', { allocation: 0 })
  const queued = await order('queued', { clouds: ['full'] })
  await untilBlocked(queued, 'allocation_exhausted')
  const leased = { clouds: ['drill'], count: 1 }
  const extended = await submitLease(project, { name: 'extended', end_in_ms: HOUR_MS, order: leased })
  const later = await submitLease(project, { name: 'later', end_in_ms: 24 * HOUR_MS, order: leased })
  await Promise.all([extended, later].map(({ id }) => untilLease(project.api, id, ['ACTIVE'])))
  const extended_order = { id: (await untilLease(project.api, extended.id, ['ACTIVE'])).order_id! }
  await untilRunning(extended_order)
  await untilRunning({ id: (await untilLease(project.api, later.id, ['ACTIVE'])).order_id! })
  await cloud.control.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'late', after_ms: 5_000 } })
  const unanswered = await order('unanswered')
  await waitFor(async () => (await attemptsOf(unanswered))[0]?.state === 'unknown', wait('an unanswered create'))

  const known_cursor = (await project.api.get<Page>('/api/events?limit=1')).body.events[0]!.cursor
  await h.stopService()
  const database = new URL(h.database_url).pathname.slice(1)
  const backup = `${database}_backup`
  await copyDatabase(database, backup)
  expect((await attemptsOf(unanswered)).map(({ state }) => state)).toEqual(['unknown'])
  const epochs = await h.store.db.selectFrom('clouds').select(['id', 'watch_epoch']).execute()
  await h.startService()

  // After it: the time that will be lost.
  await untilRunning(unanswered)
  const unanswered_machines = await machinesOf(unanswered)
  await project.api.delete(`/api/launch-orders/${ended.id}`)
  await untilOrder(project.api, ended.id, ['terminated'])
  const [dying_machine] = await machinesOf(dying)
  await cloud.control.fate(dying_machine!, 'vanish')
  // A person ends an instance, and the cloud does not get round to it before the record is put back.
  const [spared_instance] = await instancesOf(project.api, spared.id)
  const machine_id = spared_instance!.provider_id!
  const refusing = { match: { verb: 'delete', machine_id }, effect: { kind: 'error', class: 'unavailable' } } as const
  await cloud.control.fault(refusing)
  await project.api.post(`/api/instances/${spared_instance!.id}/actions`, { action: 'terminate' })
  await waitFor(async () => (await deleted(cloud)).includes(machine_id), wait('the deletion to be asked for'))
  await h.operator.patch('/api/clouds/full', { allocation: 5 })
  await untilRunning(queued)
  const queued_machines = await machinesOf(queued)
  const fresh = await order('fresh', { count: 2 })
  await untilRunning(fresh)
  const fresh_machines = await machinesOf(fresh)
  const until = new Date(Date.now() + 12 * HOUR_MS).toISOString()
  await project.api.patch(`/api/leases/${extended.id}`, { end_at: until })
  const extended_machines = await machinesOf(extended_order)
  await waitFor(
    async () => receiver.ledger.some(({ resource }) => resource === `order/${fresh.id}`),
    wait('the receiver to hear of it'),
  )
  const lost_cursor = (await project.api.get<Page>('/api/events?limit=1')).body.events[0]!.cursor
  const lost_delivery = (await project.api.get<{ deliveries: { id: number }[] }>('/api/deliveries?limit=1')).body
    .deliveries[0]!.id

  // A create that was refused has made a machine all the same; nobody has looked since.
  await h.stopService()
  const [given_up] = await attemptsOf(refused)
  expect(given_up).toMatchObject({ state: 'lost', provider_id: null })
  const machine = { name: 'late', size: 'm1.small', image: 'debian-13', extra: {} }
  const surplus = await full.control
    .provider()
    .create(
      { ...machine, attempt_id: given_up!.id, installation_id: h.service.installation_id },
      AbortSignal.timeout(5_000),
    )
  const deleted_before = await deleted(cloud)
  await cloud.control.noFaults()

  // Put back, and started as documented.
  await copyDatabase(backup, database)
  const { woken } = await waitFor(() => markRestored(h.store), wait('the record to be there again'))
  expect(woken).toBeGreaterThan(0)
  await shiftClock(h.store, 2 * HOUR_MS) // meanwhile the lease's end passed, as the backup knows it
  await h.startService()

  // What the record knew and what is found again belong together, without a twin.
  await untilRunning(unanswered)
  expect(await machinesOf(unanswered)).toEqual(unanswered_machines)
  expect(await machinesOf(kept)).toEqual(kept_machines)
  // What is gone meanwhile is missing.
  for (const lost of [ended, dying]) {
    const [instance] = await instancesOf(project.api, lost.id)
    await untilInstance(project.api, instance!.id, ['missing'])
  }
  // What the record never heard of is listed and told, not deleted.
  await waitFor(async () => (await orphans(cloud)).length === 2, wait('the orphans to be listed'))
  expect((await orphans(cloud)).toSorted()).toEqual(fresh_machines.toSorted())
  await waitFor(async () => (await orphans(full)).length === 1, wait('the orphan to be listed'))
  expect(await orphans(full)).toEqual(queued_machines)
  const told = await waitFor(async () => {
    const events = await eventsOf('cloud.orphan_found', h.operator)
    return events.length >= 3 && events
  }, wait('the orphans to be told'))
  expect(told.map(({ snapshot }) => snapshot.provider_id).toSorted()).toEqual(
    [...fresh_machines, ...queued_machines].toSorted(),
  )
  // What is surplus, or whose lease ended by the old record, waits for a person.
  expect(await untilBlocked(refused, 'removal_off')).toMatchObject({ state: 'running' })
  await untilLease(project.api, extended.id, ['TERMINATING'])
  expect(await untilBlocked(extended_order, 'removal_off')).toMatchObject({ state: 'terminating' })
  expect(await untilLease(project.api, extended.id, ['TERMINATING'])).toMatchObject({
    events: expect.arrayContaining([expect.objectContaining({ type: 'end_lease', late_ms: expect.any(Number) })]),
  })
  // A waiting order goes on, and is launched again: the orphan beside it is the one from before.
  expect(await getOrder(project.api, queued.id)).toMatchObject({ blocker: { code: 'allocation_exhausted' } })
  await h.operator.patch('/api/clouds/full', { allocation: 5 })
  await untilRunning(queued)
  expect(await machinesOf(queued)).not.toEqual(queued_machines)

  // Readers and receivers hear that time was lost.
  await project.api.get(`/api/events?after=${lost_cursor}`, { expect: 410 })
  const since = (await project.api.get<Page>(`/api/events?after=${known_cursor}&limit=100`)).body.events
  expect(since.map(({ type }) => type)).toContain('project.restored')
  await waitFor(() => receiver.ledger.some(({ type }) => type === 'project.restored'), wait('the hook to be told'))
  await project.api.get(`/api/deliveries/${lost_delivery}`, { expect: 404 })
  // Without what the record does not know any more, what was received is whole and in order.
  const known = new Set((await h.store.db.selectFrom('events').select('id').execute()).map(({ id }) => id))
  expect(receiver.ledger.some(({ event_id }) => !known.has(event_id))).toBe(true)
  const received = firstAttempts(receiver.ledger.filter(({ event_id }) => known.has(event_id)))
  for (const [resource, sequences] of received)
    expect({ resource, sequences }).toEqual({ resource, sequences: sequences.map((_, place) => place + 1) })
  const epochs_now = await h.store.db.selectFrom('clouds').select(['id', 'watch_epoch']).execute()
  for (const { id, watch_epoch } of epochs)
    expect(epochs_now.find((row) => row.id === id)!.watch_epoch).toBeGreaterThan(watch_epoch + 1_000_000)

  // A person's wish counts at once.
  await project.api.delete(`/api/launch-orders/${kept.id}`)
  await untilOrder(project.api, kept.id, ['terminated'])
  expect((await deleted(cloud)).filter((id) => !deleted_before.includes(id)).toSorted()).toEqual(
    expect.arrayContaining(kept_machines),
  )
  const by_rule = new Set([...(await deleted(cloud)), ...(await deleted(full))])
  for (const id of [...deleted_before, ...kept_machines]) by_rule.delete(id)
  expect([...by_rule]).toEqual([])
  expect(await alive(cloud)).toEqual(expect.arrayContaining([...extended_machines, ...fresh_machines]))
  // A wish of the lost time is none, though the engine had a flow for it.
  expect(await alive(cloud)).toContain(machine_id)
  expect(await machineToDelete(h.store, spared_instance!.id)).toBeUndefined() // what the step of that flow would delete
  expect((await getInstance(project.api, spared_instance!.id)).state).toBe('running')
  expect(await alive(full)).toEqual(expect.arrayContaining([surplus.provider_id, ...queued_machines]))

  // Turned on again, what the record owns and does not need goes; what it does not know stays.
  const { body } = await h.operator.patch<{ installation: Record<string, unknown> }>('/api/installation', {
    automatic_removal: true,
  })
  expect(body.installation).toMatchObject({ automatic_removal: true, restored_at: expect.any(String) })
  await untilLease(project.api, extended.id, ['TERMINATED'])
  await waitFor(async () => !(await alive(full)).includes(surplus.provider_id), wait('the surplus machine to go'))
  await waitFor(async () => (await getOrder(project.api, refused.id)).blocker === null, wait('the order to be free'))
  expect(await alive(cloud)).toEqual(expect.arrayContaining(fresh_machines))
  for (const id of extended_machines) expect(await alive(cloud)).not.toContain(id)
  expect(await alive(full)).toEqual(expect.arrayContaining(queued_machines))
  expect((await getInstance(project.api, (await instancesOf(project.api, refused.id))[0]!.id)).state).toBe('running')
  await dropDatabase(backup)
}, 240_000)

test('turning automatic removal is told, and is a change of a version', async () => {
  const turn = (automatic_removal: boolean, more = {}) =>
    h.operator.patch<{ installation: { sequence: number } }>('/api/installation', { automatic_removal }, more)
  const { sequence } = (await turn(true)).body.installation
  expect((await turn(false, { if_match: `"${sequence}"` })).body.installation.sequence).toBe(sequence + 1)
  await turn(true, { if_match: `"${sequence}"`, expect: 412 })
  expect((await turn(true)).body.installation.sequence).toBe(sequence + 2)
  const { rows } = await sql<{ type: string }>`
    select type from events where resource_type = 'installation' order by sequence`.execute(h.store.db)
  expect(rows.map(({ type }) => type).slice(-2)).toEqual(['installation.updated', 'installation.updated'])
})
