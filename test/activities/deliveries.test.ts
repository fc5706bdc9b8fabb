import { setTimeout as delay } from 'node:timers/promises'
import { MockActivityEnvironment } from '@temporalio/testing'
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { write } from '../../store/database.ts'
import { deliveryAttempts } from '../../store/deliveries.ts'
import { claimHeads } from '../../store/delivery-claims.ts'
import { enableHook, findHook } from '../../store/hooks.ts'
import { blockedStatements } from '../support/database.ts'
import { CAUSE, type HookWorld, hookWorld } from '../support/hook-world.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

const CLEAN = { inversions: 0, gaps: 0, duplicates: 0, bad_signatures: 0 }

let world: HookWorld
const receivers: Receiver[] = []
beforeEach(async () => {
  world = await hookWorld()
})
afterEach(async () => {
  await world.close()
  await Promise.all(receivers.splice(0).map((receiver) => receiver.close()))
})

async function addReceiver(): Promise<{ receiver: Receiver; hook_id: string }> {
  const receiver = await startReceiver()
  receivers.push(receiver)
  const { hook, secret } = await world.addHook(receiver.uri)
  receiver.secrets = [secret]
  return { receiver, hook_id: hook.id }
}
const counts = async (): Promise<Record<string, number>> => {
  const { rows } = await sql<{
    state: string
    count: number
  }>`select state, count(*) from deliveries group by state`.execute(world.store.db)
  return Object.fromEntries(rows.map((row) => [row.state, row.count]))
}
const allDelivered = (count: number, timeout_ms = 10_000) =>
  waitFor(async () => (await counts()).delivered === count, { what: `${count} deliveries`, timeout_ms })
const ownerOf = async (hook_id: string) => (await findHook(world.store.db, world.project_id, hook_id))?.owner
const isWoken = (hook_id: string) =>
  waitFor(
    async () => (await sql`select from outbox where target = ${`hook/${hook_id}`}`.execute(world.store.db)).rows.length,
    { what: 'a wake of the lane' },
  )

describe('senders', () => {
  test('one that is overtaken while it has nothing to send ends by itself', async () => {
    const epoch = async () =>
      (await sql<{ epoch: number }>`select epoch from sender_shards where shard = 0`.execute(world.store.db)).rows[0]!
        .epoch
    const before = await epoch()
    const running = new MockActivityEnvironment().run(world.activities.sendShard, 0)
    await waitFor(async () => (await epoch()) > before, { what: 'the sender to take its shard' })
    await sql`update sender_shards set epoch = epoch + 1 where shard = 0`.execute(world.store.db)
    expect(await running).toMatchObject({ sends: 0 })
  })

  test('deliver all events of many resources to many hooks: in order, once, signed', async () => {
    const targets = await Promise.all(Array.from({ length: 6 }, addReceiver))
    const resources = Array.from({ length: 10 }, () => newId())
    await Promise.all(resources.slice(0, 5).map((resource) => world.emit(resource, 4))) // made while nobody sends
    const senders = world.startSenders()
    await Promise.all(resources.map((resource) => world.emit(resource, 6)))
    await allDelivered(6 * 80)
    for (const { receiver } of targets) {
      expect(receiver.judge()).toEqual(CLEAN)
      expect(receiver.accepted().size).toBe(80)
      expect(receiver.ledger.every((entry) => entry.attempt === 1)).toBe(true)
    }
    const reports = await senders.stop()
    expect(reports.reduce((sum, report) => sum + report.sends, 0)).toBe(480)
  })

  test('hear of an event at once, not at their next look', async () => {
    const { receiver } = await addReceiver()
    world.startSenders()
    await world.emit(newId())
    await allDelivered(1)
    const latencies: number[] = []
    for (let index = 1; index <= 20; index++) {
      const before = performance.now()
      await world.emit(newId())
      await waitFor(() => receiver.ledger.length > index, { what: 'the request', interval_ms: 1 })
      latencies.push(performance.now() - before)
    }
    expect(latencies.toSorted((a, b) => a - b)[10]).toBeLessThan(200)
  })

  test('a hanging receiver holds up nobody else', async () => {
    const hanging = await addReceiver()
    const healthy = await addReceiver()
    hanging.receiver.answer = () => ({ hang: true })
    world.startSenders()
    for (let index = 0; index < 30; index++) await world.emit(newId())
    await waitFor(() => healthy.receiver.accepted().size === 30, { what: '30 events', timeout_ms: 5_000 })
    expect(hanging.receiver.ledger).toHaveLength(8) // its cap
  })

  test('hand what is in flight back when they have to go, as unknown, within seconds', async () => {
    const { receiver } = await addReceiver()
    receiver.answer = () => ({ hang: true })
    const leaving = world.startSenders({ drain_ms: 300 })
    await world.emit(newId(), 2)
    await waitFor(() => receiver.ledger.length === 1, { what: 'the request' })
    const before = performance.now()
    await leaving.stop()
    expect(performance.now() - before).toBeLessThan(2_000)
    expect(await counts()).toEqual({ pending: 2 })
    receiver.answer = () => ({ status: 200 })
    world.startSenders()
    await allDelivered(2)
    expect(receiver.ledger.map((entry) => [entry.sequence, entry.attempt])).toEqual([
      [1, 1],
      [1, 2],
      [2, 1],
    ])
    const first = (await world.deliveries()).at(-1)!
    expect((await deliveryAttempts(world.store.db, world.project_id, first.id)).map((entry) => entry.outcome)).toEqual([
      'unknown',
      'delivered',
    ])
  })

  test('a second sender of a shard takes over; the first stops and nothing is lost', async () => {
    const { receiver } = await addReceiver()
    receiver.answer = () => ({ status: 200, delay_ms: 5 })
    world.startSenders()
    const emitting = Promise.all(Array.from({ length: 5 }, () => world.emit(newId(), 10)))
    await delay(60)
    world.startSenders()
    await emitting
    await allDelivered(50)
    expect(receiver.accepted().size).toBe(50)
    expect(receiver.judge()).toMatchObject({ inversions: 0, gaps: 0, bad_signatures: 0 })
  })

  test('lose nothing when their connections to the record break', async () => {
    const { receiver } = await addReceiver()
    receiver.answer = () => ({ status: 200, delay_ms: 20 })
    world.startSenders()
    await world.emit(newId(), 15)
    for (let round = 0; round < 5; round++) {
      await sql`select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()`
        .execute(world.store.db)
        .catch(() => {})
      await delay(30)
    }
    await allDelivered(15)
    expect(receiver.accepted().size).toBe(15)
    expect(receiver.judge()).toEqual(CLEAN)
  })

  test('send what was claimed for them when the answer to the claim was lost', async () => {
    const { receiver, hook_id } = await addReceiver()
    world.startSenders()
    await world.emit(newId(), 1)
    await allDelivered(1)
    const { rows } = await sql<{ shard: number; epoch: number }>`
      select shard, epoch from sender_shards join hooks using (shard) where hooks.id = ${hook_id}`.execute(
      world.store.db,
    )
    const { shard, epoch } = rows[0]!
    await world.store.db.transaction().execute(async (trx) => {
      await sql`select from sender_shards where shard = ${shard} for update`.execute(trx)
      await world.emit(newId(), 1)
      await waitFor(async () => (await blockedStatements(world.store)) > 0, { what: 'the claim to stand' })
      // What the sender's own claim would have stored before its connection broke.
      expect(await claimHeads(trx, shard, epoch, 1)).toHaveLength(1)
      await sql`select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`.execute(world.store.db)
    })
    await allDelivered(2)
    expect(receiver.judge()).toEqual(CLEAN)
    const [last] = await world.deliveries()
    expect(await deliveryAttempts(world.store.db, world.project_id, last!.id)).toMatchObject([
      { number: 1, outcome: 'unknown' },
      { number: 2, outcome: 'delivered' },
    ])
  })

  test('end by themselves after their time or number of sends', async () => {
    await addReceiver()
    await world.emit(newId(), 1)
    const reports = await Promise.all([world.startSenders({ duration_ms: 200 }).stop()])
    expect(reports.flat()).toHaveLength(4)
  })
})

describe('a hook in trouble', () => {
  test('goes to its lane at the first failure and comes back when nothing waits', async () => {
    const { receiver, hook_id } = await addReceiver()
    const resource = newId()
    receiver.answer = () => ({ status: 500 })
    world.startSenders()
    await world.emit(resource, 2)
    await isWoken(hook_id)
    expect(await ownerOf(hook_id)).toBe('lane')
    expect(await world.runLane(hook_id)).toMatchObject({ done: false, attempts: [] })
    await world.pass(6_000)
    expect(await world.runLane(hook_id)).toMatchObject({ attempts: ['http_500'] })
    receiver.answer = () => ({ status: 200 })
    await world.emit(newId(), 1) // another resource is not held up
    expect(await world.runLane(hook_id)).toMatchObject({ attempts: ['delivered'], done: false })
    await world.pass(18_000)
    expect(await world.runLane(hook_id)).toMatchObject({ attempts: ['delivered'], done: true })
    expect(await ownerOf(hook_id)).toBe('sender')
    await allDelivered(3) // the last one by the sender again
    expect(receiver.judge()).toEqual(CLEAN)
    const log = receiver.ledger.filter((entry) => entry.resource === `instance/${resource}`)
    expect(log.map((entry) => [entry.sequence, entry.attempt, entry.status])).toEqual([
      [1, 1, 500],
      [1, 2, 500],
      [1, 3, 200],
      [2, 1, 200],
    ])
    expect(new Set(log.slice(0, 3).map((entry) => entry.body.toString())).size).toBe(1)
    expect(new Set(log.slice(0, 3).map((entry) => entry.headers['webhook-id'])).size).toBe(1)
  })

  test('is disabled by 410, keeps its events, and gets them in order when enabled', async () => {
    const { receiver, hook_id } = await addReceiver()
    const resource = newId()
    receiver.answer = () => ({ status: 410 })
    world.startSenders()
    await world.emit(resource, 3)
    await waitFor(async () => (await counts()).parked === 3, { what: 'parked deliveries' })
    await world.emit(resource, 2)
    expect(await counts()).toEqual({ parked: 5 })
    expect(receiver.ledger).toHaveLength(1)
    receiver.answer = () => ({ status: 200 })
    await write(world.store, (trx) => enableHook(trx, { project_id: world.project_id, id: hook_id, cause: CAUSE }))
    await allDelivered(5)
    expect(receiver.judge()).toEqual(CLEAN)
  })

  test('is sent its new events by the lane, which a sender wakes', async () => {
    const { receiver, hook_id } = await addReceiver()
    const broken = newId()
    receiver.answer = (received) => ({ status: received.resource === `instance/${broken}` ? 500 : 200 })
    world.startSenders()
    await world.emit(broken, 1)
    await isWoken(hook_id)
    await world.runLane(hook_id)
    await world.emit(newId(), 3)
    await isWoken(hook_id)
    expect(await world.runLane(hook_id)).toMatchObject({
      done: false,
      attempts: ['delivered', 'delivered', 'delivered'],
    })
  })

  test('without a secret that opens is not sent to, and not blamed', async () => {
    const { receiver, hook_id } = await addReceiver()
    await sql`update hook_secrets set sealed = 'nonsense'`.execute(world.store.db)
    world.startSenders()
    await world.emit(newId(), 1)
    await waitFor(async () => (await world.deliveries())[0]?.reason === 'own_fault', { what: 'an own fault' })
    expect(receiver.connections()).toBe(0)
    expect(await ownerOf(hook_id)).toBe('sender')
  })
})
