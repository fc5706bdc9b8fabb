import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Verdict } from '../../domain/hook-schedule.ts'
import { SCHEDULE_MS } from '../../domain/hook-schedule.ts'
import { write } from '../../store/database.ts'
import { cancelDelivery, deliveryAttempts, getDelivery, listDeliveries, retryDelivery } from '../../store/deliveries.ts'
import {
  beginShard,
  claimForLane,
  claimHeads,
  type Head,
  storeShardOutcomes,
  tidyShard,
} from '../../store/delivery-claims.ts'
import { type Outcome, storeOutcomes } from '../../store/delivery-outcomes.ts'
import { planLane, wakeLanes } from '../../store/hook-lanes.ts'
import { deleteHook, disableHook, enableHook, findHook, type Hook, updateHook } from '../../store/hooks.ts'
import { blockedStatements } from '../support/database.ts'
import { CAUSE, type HookWorld, hookWorld } from '../support/hook-world.ts'
import { waitFor } from '../support/wait-for.ts'

let world: HookWorld
let hook: Hook
let epoch: number
beforeEach(async () => {
  world = await hookWorld()
  hook = (await world.addHook('https://receiver.example/')).hook
  epoch = await beginShard(world.store, hook.shard)
})
afterEach(() => world.close())

const claim = (room = 200, by = epoch): Promise<Head[]> => claimHeads(world.store.db, hook.shard, by, room)
const outcomeOf = (
  claimed: Head,
  verdict: Verdict,
  status: number | null = null,
  retry_after_ms?: number,
): Outcome => ({
  claimed,
  result: {
    verdict,
    outcome: verdict === 'success' ? 'delivered' : `http_${status}`,
    status,
    retry_after_ms,
    started_at: new Date(),
    ended_at: new Date(),
    response_headers: { server: 'x' },
    response_body: 'no',
  },
  random: 0,
})
const store = (outcomes: Outcome[], by = epoch): Promise<boolean> =>
  storeShardOutcomes(world.store, hook.shard, by, outcomes)
const laneAttempt = (delivery_id: number) => write(world.store, (trx) => claimForLane(trx, hook.id, delivery_id))
const request = () => ({ project_id: world.project_id, id: hook.id, cause: CAUSE })
const current = async () => (await findHook(world.store.db, world.project_id, hook.id))!
const states = async () => (await world.deliveries()).toReversed().map((delivery) => delivery.state)
const wakes = async () =>
  (await world.store.db.selectFrom('outbox').select('target').execute()).map((row) => row.target)

describe('claiming', () => {
  test('takes the lowest open sequence of each resource, and the next only after it ended', async () => {
    const [a, b] = [newId(), newId()]
    await world.emit(a, 3)
    await world.emit(b, 2)
    const heads = await claim()
    expect(heads.map((head) => [head.resource_id, head.sequence, head.number])).toEqual([
      [a, 1, 1],
      [b, 1, 1],
    ])
    expect(JSON.parse(heads[0]!.body!)).toMatchObject({ id: heads[0]!.event_id, data: { resource_id: a, sequence: 1 } })
    expect(world.envelope.open(heads[0]!.sealed_secrets[0]!, hook.id)).toMatch(/^whsec_/)
    expect(await claim()).toEqual([])
    expect(await store([outcomeOf(heads[1]!, 'success', 200)])).toBe(true)
    expect((await claim()).map((head) => [head.resource_id, head.sequence])).toEqual([[b, 2]])
  })
  test('keeps the caps of hook and shard', async () => {
    for (let index = 0; index < 12; index++) await world.emit(newId())
    expect(await claim(5)).toHaveLength(5)
    expect(await claim()).toHaveLength(3)
    expect(await claim()).toHaveLength(0)
  })
  test('leaves alone hooks that are disabled, deleted or in a lane', async () => {
    await world.emit(newId())
    await write(world.store, (trx) => disableHook(trx, { ...request(), reason: 'by_person' }))
    expect(await claim()).toEqual([])
    await write(world.store, (trx) => enableHook(trx, request()))
    await world.store.db.updateTable('hooks').set({ owner: 'lane' }).execute()
    expect(await claim()).toEqual([])
    await world.store.db.updateTable('hooks').set({ owner: 'sender' }).execute()
    expect(await claim()).toHaveLength(1)
  })
  test('by several at once gives each delivery to one of them', async () => {
    await world.store.db.updateTable('hooks').set({ in_flight_max: 64 }).execute()
    for (let index = 0; index < 30; index++) await world.emit(newId())
    const all = (await Promise.all(Array.from({ length: 6 }, () => claim()))).flat()
    expect(all).toHaveLength(30)
    expect(new Set(all.map((head) => head.delivery_id)).size).toBe(30)
  })
})

describe('a newer epoch', () => {
  test('makes the older one lose: neither claims nor outcomes of it count', async () => {
    await world.emit(newId(), 1)
    const [head] = await claim()
    const newer = await beginShard(world.store, hook.shard)
    await world.emit(newId(), 1)
    expect(await claim(200, epoch)).toEqual([])
    expect(await store([outcomeOf(head!, 'success', 200)], epoch)).toBe(false)
    expect(await states()).toEqual(['pending', 'pending'])
    const again = await claim(200, newer)
    expect(again[0]).toMatchObject({
      delivery_id: head!.delivery_id,
      event_id: head!.event_id,
      number: 2,
      attempts: 0,
      unknown_in_row: 1,
    })
    expect(await deliveryAttempts(world.store.db, world.project_id, head!.delivery_id)).toMatchObject([
      { number: 1, outcome: 'unknown' },
    ])
  })
  test('resends what was in flight three times in a row, then by the schedule', async () => {
    await world.emit(newId(), 1)
    for (let round = 1; round <= 4; round++) {
      expect(await claim()).toMatchObject([{ number: round, attempts: 0 }])
      epoch = await beginShard(world.store, hook.shard)
    }
    expect(await claim()).toEqual([])
    expect(await world.deliveries()).toMatchObject([{ state: 'waiting', attempts: 1, reason: 'schedule' }])
    expect(await current()).toMatchObject({ owner: 'lane' })
    expect(await wakes()).toContain(`hook/${hook.id}`)
  })
})

describe('outcomes', () => {
  test('a failure waits by the schedule and hands the hook to its lane, which is woken', async () => {
    await world.emit(newId(), 2)
    const [head] = await claim()
    await store([outcomeOf(head!, 'failure', 500)])
    expect(await states()).toEqual(['waiting', 'pending'])
    expect(await current()).toMatchObject({ owner: 'lane', failures_in_row: 1 })
    expect(await wakes()).toEqual([`hook/${hook.id}`])
    const [log] = await deliveryAttempts(world.store.db, world.project_id, head!.delivery_id)
    expect(log).toMatchObject({
      number: 1,
      outcome: 'http_500',
      status: 500,
      response_headers: { server: 'x' },
      response_body: 'no',
    })
    const { rows } = await sql<{
      ms: number
    }>`select extract(epoch from next_attempt_at - record_now())::float * 1000 as ms from deliveries where state = 'waiting'`.execute(
      world.store.db,
    )
    expect(rows[0]!.ms).toBeGreaterThan(4_000)
    expect(rows[0]!.ms).toBeLessThanOrEqual(5_000)
    expect(await claim()).toEqual([])
  })
  test('stored twice count once', async () => {
    await world.emit(newId(), 1)
    const [head] = await claim()
    await store([outcomeOf(head!, 'success', 200)])
    await store([outcomeOf(head!, 'failure', 500)])
    expect(await world.deliveries()).toMatchObject([{ state: 'delivered', attempts: 1 }])
    expect(await current()).toMatchObject({ owner: 'sender', failures_in_row: 0 })
  })
  test('410 disables the hook and parks what is open; enabled, it goes on in order', async () => {
    const resource = newId()
    await world.emit(resource, 3)
    const [head] = await claim()
    await store([outcomeOf(head!, 'disable', 410)])
    await world.emit(resource, 1)
    expect(await current()).toMatchObject({ state: 'disabled', state_reason: 'receiver_asked' })
    expect(await states()).toEqual(['parked', 'parked', 'parked', 'parked'])
    const { rows } = await sql<{
      cause: { rule: string }
    }>`select cause from events where type = 'hook.state_changed'`.execute(world.store.db)
    expect(rows).toMatchObject([{ cause: { rule: 'receiver_asked' } }])
    await write(world.store, (trx) => enableHook(trx, request()))
    for (const sequence of [1, 2, 3, 4]) {
      const heads = await claim()
      expect(heads).toMatchObject([{ sequence }])
      await store([outcomeOf(heads[0]!, 'success', 200)])
    }
  })
  test('come late for a hook that was disabled or deleted meanwhile', async () => {
    await world.emit(newId(), 1)
    await world.emit(newId(), 1)
    const [first, second] = await claim()
    await write(world.store, (trx) => disableHook(trx, { ...request(), reason: 'by_person' }))
    await store([outcomeOf(first!, 'failure', 500)])
    expect(await states()).toEqual(['parked', 'in_flight'])
    await write(world.store, (trx) => deleteHook(trx, request()))
    await store([outcomeOf(second!, 'failure', 500)])
    expect(await states()).toEqual(['cancelled', 'cancelled'])
  })
  test('an own fault is charged to nobody', async () => {
    await world.emit(newId(), 1)
    const [head] = await claim()
    await store([outcomeOf(head!, 'own_fault')])
    expect(await world.deliveries()).toMatchObject([{ state: 'waiting', attempts: 0, reason: 'own_fault' }])
    expect(await current()).toMatchObject({ owner: 'sender', failures_in_row: 0 })
    await world.pass(5_000)
    expect(await claim()).toMatchObject([{ number: 2 }])
  })
})

describe('the lane', () => {
  const plan = () => planLane(world.store, hook.id, [])
  const attempt = async (verdict: Verdict, status: number): Promise<void> => {
    const { steps } = await plan()
    const claimed = await laneAttempt(steps[0]!.delivery_id)
    if (!('head' in claimed)) throw new Error(claimed.skipped)
    await write(world.store, (trx) => storeOutcomes(trx, [outcomeOf(claimed.head, verdict, status)]))
  }
  beforeEach(async () => {
    await world.emit(newId(), 2)
    const [head] = await claim()
    await store([outcomeOf(head!, 'failure', 500)])
  })

  test('answers its wakes, sleeps until the retry is due, tries again, hands back', async () => {
    const first = await plan()
    expect(first).toMatchObject({ steps: [], done: false })
    expect(first.sleep_ms).toBeGreaterThan(4_000)
    expect(first.sleep_ms).toBeLessThanOrEqual(5_000)
    expect(first.details).toMatch(
      /^\S+: 2 open \(1 waiting, 0 in flight\), next at \S+Z: retry by schedule; last answer \S+$/,
    )
    expect(await wakes()).toEqual([])
    expect(await laneAttempt((await world.deliveries())[1]!.id)).toMatchObject({ skipped: 'not yet due' })
    await world.pass(5_000)
    expect((await plan()).steps).toMatchObject([{ attempt: 2, why: 'retry by schedule' }])
    await attempt('success', 200)
    expect(await plan()).toMatchObject({ done: true, steps: [] })
    expect(await current()).toMatchObject({ owner: 'sender', failures_in_row: 0 })
    expect(await claim()).toMatchObject([{ sequence: 2 }])
  })
  test('sends what is healthy meanwhile, and is woken for it by the sender', async () => {
    await plan()
    await wakeLanes(world.store, hook.shard)
    expect(await wakes()).toEqual([])
    await world.emit(newId(), 1)
    await wakeLanes(world.store, hook.shard)
    await wakeLanes(world.store, hook.shard)
    expect(await wakes()).toEqual([`hook/${hook.id}`])
    expect((await plan()).steps).toMatchObject([{ attempt: 1, why: 'first attempt' }])
    expect(await wakes()).toEqual([])
  })
  test('an attempt that ends the last place of the schedule is exhausted; the next event goes on', async () => {
    for (const gap of SCHEDULE_MS) {
      await world.pass(gap * 1.2)
      await attempt('failure', 500)
    }
    expect(await states()).toEqual(['exhausted', 'pending'])
    expect(await world.deliveries()).toMatchObject([{}, { attempts: 15, sends: 15 }])
    expect(await plan()).toMatchObject({ done: true })
    expect(await claim()).toMatchObject([{ sequence: 2, attempts: 0 }])
  })
  test("an attempt goes by the hook's own schedule, as it is then", async () => {
    await write(world.store, (trx) => updateHook(trx, request(), { schedule_ms: [1_000, 60_000] }))
    await world.pass(5_000)
    await attempt('failure', 500)
    expect((await plan()).sleep_ms).toBeGreaterThan(50_000)
    await world.pass(60_000)
    await attempt('failure', 500)
    expect(await states()).toEqual(['exhausted', 'pending'])
  })
  test('Retry-After on 429 pauses the whole hook', async () => {
    await world.pass(5_000)
    const { steps } = await plan()
    const claimed = await laneAttempt(steps[0]!.delivery_id)
    if (!('head' in claimed)) throw new Error(claimed.skipped)
    await write(world.store, (trx) => storeOutcomes(trx, [outcomeOf(claimed.head, 'failure', 429, 60_000)]))
    await world.emit(newId(), 1)
    const paused = await plan()
    expect(paused.steps).toEqual([])
    expect(paused.sleep_ms).toBeGreaterThan(58_000)
    expect(paused.details).toContain('the receiver asked for a pause')
    await world.pass(60_000)
    expect((await plan()).steps).toHaveLength(2)
  })
  test('an attempt that was lost is unknown and repeated at once', async () => {
    await world.pass(5_000)
    const { steps } = await plan()
    const id = steps[0]!.delivery_id
    expect(await laneAttempt(id)).toMatchObject({ head: { number: 2 } })
    expect((await planLane(world.store, hook.id, [id])).steps).toEqual([])
    // The engine runs the attempt again on another worker …
    expect(await laneAttempt(id)).toMatchObject({ head: { number: 3, unknown_in_row: 1, attempts: 1 } })
    // … or a fresh run of the lane finds it.
    expect((await plan()).steps).toMatchObject([{ delivery_id: id, why: 'the last attempt was lost' }])
    expect((await deliveryAttempts(world.store.db, world.project_id, id)).map((entry) => entry.outcome)).toEqual([
      'http_500',
      'unknown',
      'unknown',
    ])
  })
  test('claims while another attempt of its hook is being stored', async () => {
    await world.pass(5_000)
    await world.emit(newId(), 1)
    const { steps } = await plan()
    expect(steps).toHaveLength(2)
    const claimed = await laneAttempt(steps[0]!.delivery_id)
    if (!('head' in claimed)) throw new Error(claimed.skipped)
    await write(world.store, async (trx) => {
      await storeOutcomes(trx, [outcomeOf(claimed.head, 'failure', 500)]) // and holds the hook's row from here on
      expect(await laneAttempt(steps[1]!.delivery_id)).toMatchObject({ head: { number: 1 } })
    })
  })
  test('does not give its hook back while an attempt of it fails', async () => {
    await world.pass(5_000)
    await world.emit(newId(), 1)
    const { steps } = await plan()
    const first = steps.find((step) => step.attempt === 1)!
    const late = await laneAttempt(first.delivery_id)
    if (!('head' in late)) throw new Error(late.skipped)
    const running = [first.delivery_id]
    const retried = await laneAttempt(steps.find((step) => step.attempt === 2)!.delivery_id)
    if (!('head' in retried)) throw new Error(retried.skipped)
    await write(world.store, (trx) => storeOutcomes(trx, [outcomeOf(retried.head, 'success', 200)]))
    let planned: ReturnType<typeof planLane> | undefined
    await write(world.store, async (trx) => {
      await storeOutcomes(trx, [outcomeOf(late.head, 'failure', 500)])
      planned = planLane(world.store, hook.id, running)
      await waitFor(async () => (await blockedStatements(world.store)) > 0, {
        what: 'the plan to wait for the hook',
        timeout_ms: 2_500,
      })
    })
    expect(await planned).toMatchObject({ done: false })
    expect(await current()).toMatchObject({ owner: 'lane', failures_in_row: 1 })
  })
  test('has its hook again when an attempt fails that was under way as it gave it back', async () => {
    await world.pass(5_000)
    await world.emit(newId(), 1)
    const { steps } = await plan()
    const late = await laneAttempt(steps.find((step) => step.attempt === 1)!.delivery_id)
    if (!('head' in late)) throw new Error(late.skipped)
    const retried = await laneAttempt(steps.find((step) => step.attempt === 2)!.delivery_id)
    if (!('head' in retried)) throw new Error(retried.skipped)
    await write(world.store, (trx) => storeOutcomes(trx, [outcomeOf(retried.head, 'success', 200)]))
    expect(await planLane(world.store, hook.id, [late.head.delivery_id])).toMatchObject({ done: true })
    expect(await current()).toMatchObject({ owner: 'sender' })
    await write(world.store, (trx) => storeOutcomes(trx, [outcomeOf(late.head, 'failure', 500)]))
    expect(await current()).toMatchObject({ owner: 'lane' })
    expect(await plan()).toMatchObject({ done: false })
  })
  test('ends when its hook is disabled or deleted', async () => {
    await write(world.store, (trx) => disableHook(trx, { ...request(), reason: 'by_person' }))
    expect(await plan()).toMatchObject({ done: true, details: 'the hook is disabled' })
    await write(world.store, (trx) => enableHook(trx, request()))
    expect(await wakes()).toEqual([`hook/${hook.id}`])
    expect((await plan()).steps).toHaveLength(1)
    await write(world.store, (trx) => deleteHook(trx, request()))
    expect(await plan()).toMatchObject({ done: true, details: 'the hook is deleted' })
  })
})

describe('what people do', () => {
  const ids = async () => (await world.deliveries()).toReversed().map((delivery) => delivery.id)
  test('retry: now, from a finished one anew, not while it is sent', async () => {
    await world.emit(newId(), 1)
    const [id] = await ids()
    const retry = () => write(world.store, (trx) => retryDelivery(trx, world.project_id, id!))
    const [head] = await claim()
    await expect(retry()).rejects.toMatchObject({ code: 'conflict' })
    await store([outcomeOf(head!, 'failure', 500)])
    expect(await retry()).toMatchObject({ state: 'pending', attempts: 1 })
    expect((await planLane(world.store, hook.id, [])).steps).toMatchObject([{ why: 'asked for by a person' }])
    const claimed = await laneAttempt(id!)
    if (!('head' in claimed)) throw new Error(claimed.skipped)
    expect(claimed.head.trigger).toBe('manual')
    await write(world.store, (trx) => storeOutcomes(trx, [outcomeOf(claimed.head, 'success', 200)]))
    expect(await retry()).toMatchObject({ state: 'pending', attempts: 0, sends: 2, settled_at: null })
    await expect(write(world.store, (trx) => retryDelivery(trx, newId(), id!))).rejects.toMatchObject({
      code: 'not_found',
    })
  })
  test('cancel: the next event of the resource goes on; a repeat changes nothing', async () => {
    await world.emit(newId(), 2)
    const [first] = await ids()
    const cancel = () => write(world.store, (trx) => cancelDelivery(trx, world.project_id, first!))
    expect(await listDeliveries(world.store.db, world.project_id, { limit: 1 })).toMatchObject([
      { sequence: 2, reason: 'order' },
    ])
    const cancelled = await cancel()
    expect(cancelled).toMatchObject({ state: 'cancelled', next_attempt_at: null })
    expect(await cancel()).toEqual(cancelled)
    expect(await claim()).toMatchObject([{ sequence: 2 }])
  })
  test('lists by hook, event, state and resource, page by page', async () => {
    const resource = newId()
    await world.emit(resource, 3)
    const { db } = world.store
    const list = (query: Omit<Parameters<typeof listDeliveries>[2], 'limit'>) =>
      listDeliveries(db, world.project_id, { limit: 2, ...query })
    const page = await list({ hook_id: hook.id })
    expect(page.map((delivery) => delivery.sequence)).toEqual([3, 2])
    expect((await list({ before: page[1]!.id })).map((delivery) => delivery.sequence)).toEqual([1])
    expect(await list({ event_id: page[0]!.event_id })).toHaveLength(1)
    expect(await list({ resource_id: newId() })).toEqual([])
    expect(await list({ state: 'delivered' })).toEqual([])
    expect(await getDelivery(db, newId(), page[0]!.id)).toBeUndefined()
  })
  test('what was made while a hook was being deleted is cancelled by the next pass', async () => {
    await world.emit(newId(), 1)
    await write(world.store, (trx) => deleteHook(trx, request()))
    await sql`update deliveries set state = 'pending', settled_at = null`.execute(world.store.db)
    await tidyShard(world.store, hook.shard, epoch)
    expect(await states()).toEqual(['cancelled'])
  })
  test('what was made while a hook was being disabled is parked by the next pass', async () => {
    await world.emit(newId(), 1)
    await write(world.store, (trx) => disableHook(trx, { ...request(), reason: 'by_person' }))
    await sql`update deliveries set state = 'pending', reason = null`.execute(world.store.db)
    await tidyShard(world.store, hook.shard, epoch)
    expect(await world.deliveries()).toMatchObject([{ state: 'parked', reason: 'endpoint_disabled' }])
  })
})
