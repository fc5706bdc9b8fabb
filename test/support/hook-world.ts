/** A record with one project, its hooks and its events: what the tests of hook delivery start from. */
import { setTimeout as delay } from 'node:timers/promises'
import { MockActivityEnvironment } from '@temporalio/testing'
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { createDeliveryActivities } from '../../activities/deliveries.ts'
import type { SenderLimits, SenderReport } from '../../activities/send-shard.ts'
import { parseAllowList } from '../../domain/hook-address.ts'
import { write } from '../../store/database.ts'
import { type Delivery, listDeliveries } from '../../store/deliveries.ts'
import { createEnvelope, type Envelope } from '../../store/envelope.ts'
import { recordEvents } from '../../store/events.ts'
import { type Hook, insertHook, type NewHook } from '../../store/hooks.ts'
import { type FreshStore, freshStore } from './database.ts'

export const CAUSE = { rule: 'test', reason: 'a test wants it so' }

export interface HookWorld extends FreshStore {
  readonly project_id: string
  readonly user_id: string
  readonly envelope: Envelope
  readonly activities: ReturnType<typeof createDeliveryActivities>
  addHook(uri: string, extra?: Partial<NewHook>): Promise<{ hook: Hook; secret: string }>
  /** Writes `count` further events of an instance, each in a transaction of its own. */
  emit(resource_id: string, count?: number): Promise<void>
  deliveries(): Promise<Delivery[]>
  /** Moves the record's clock forward. */
  pass(ms: number): Promise<void>
  /** Starts a sender for each shard; `stop` ends them as a leaving worker would. */
  startSenders(limits?: Partial<SenderLimits>): { stop: () => Promise<SenderReport[]> }
  /** Runs a lane as its workflow does, attempt by attempt, until it would return or has nothing due. */
  runLane(hook_id: string): Promise<{ done: boolean; sleep_ms: number | null; attempts: string[] }>
}

/** Opens one; loopback is opened for hooks. */
export async function hookWorld(): Promise<HookWorld> {
  const fresh = await freshStore()
  const { store, hints } = fresh
  const project_id = newId()
  const user_id = newId()
  await store.db.insertInto('projects').values({ id: project_id, name: 'tests' }).execute()
  await store.db.insertInto('users').values({ id: user_id, project_id, name: 'tester' }).execute()
  const envelope = createEnvelope({ current: { id: 'test', key: Buffer.alloc(32, 9) } })
  const needs = { store, hints, envelope, allow: parseAllowList('127.0.0.0/8,::1/128'), user_agent: 'holdfast/test' }
  const activities = createDeliveryActivities(needs)
  const sequences = new Map<string, number>()
  const stops: (() => Promise<unknown>)[] = []

  const world: HookWorld = {
    ...fresh,
    project_id,
    user_id,
    envelope,
    activities,
    async addHook(uri, extra = {}) {
      const made = await write(store, (trx) =>
        insertHook(
          trx,
          { project_id, user_id, uri, cause: CAUSE, filter: { resource_type: 'instance' }, ...extra },
          envelope,
        ),
      )
      return { hook: made.hook, secret: made.secret ?? '' }
    },
    async emit(resource_id, count = 1) {
      for (let index = 0; index < count; index++) {
        const sequence = (sequences.get(resource_id) ?? 0) + 1
        sequences.set(resource_id, sequence)
        const event = {
          project_id,
          resource_type: 'instance',
          resource_id,
          sequence,
          type: 'instance.state_changed',
        } as const
        await write(store, (trx) =>
          recordEvents(trx, [
            { ...event, from: 'starting', to: 'running', snapshot: { note: 'żółć ✓' }, cause: CAUSE },
          ]),
        )
      }
    },
    deliveries: () => listDeliveries(store.db, project_id, { limit: 10_000 }),
    async pass(ms) {
      await sql`update installation set clock_offset = clock_offset + ${ms} * interval '1 ms'`.execute(store.db)
      hints.give(['events', 'deliveries'])
    },
    startSenders(limits) {
      const with_limits = createDeliveryActivities({
        ...needs,
        sender_limits: { duration_ms: 60_000, sends_max: 50_000, drain_ms: 500, ...limits },
      })
      const environments = [0, 1, 2, 3].map(() => new MockActivityEnvironment())
      const running = environments.map((environment, shard) => environment.run(with_limits.sendShard, shard))
      for (const promise of running) (promise as Promise<SenderReport>).catch(() => {})
      const stop = async (): Promise<SenderReport[]> => {
        for (const environment of environments) environment.cancel()
        return (await Promise.all(running)) as SenderReport[]
      }
      stops.push(stop)
      return { stop }
    },
    async runLane(hook_id) {
      const attempts: string[] = []
      for (;;) {
        const plan = await activities.planLane(hook_id, [])
        if (!plan.steps.length) return { done: plan.done, sleep_ms: plan.sleep_ms, attempts }
        const reports = await Promise.all(
          plan.steps.map((step) =>
            new MockActivityEnvironment().run(activities.attemptDelivery, hook_id, step.delivery_id),
          ),
        )
        attempts.push(...(reports as { outcome: string }[]).map((report) => report.outcome))
        await delay(1)
      }
    },
    async close() {
      await Promise.allSettled(stops.map((stop) => stop()))
      await fresh.close()
    },
  }
  return world
}
