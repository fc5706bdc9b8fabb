/**
 * Creating and deleting machines, in batches. Each function may run twice at any point: what was sent and what came of
 * it stands with the attempts.
 */

import { setTimeout as delay } from 'node:timers/promises'
import { cancellationSignal, heartbeat } from '@temporalio/activity'
import { mergeExtra } from '../domain/pcm/extra.ts'
import { providerTypeOf } from '../domain/pcm/provider-type.ts'
import type { Failing, Plan } from '../domain/plan.ts'
import { type Provider, ProviderError } from '../providers/provider.ts'
import { type AttemptToSend, findBatchCloud, markSent, type SendOutcome, storeOutcomes } from '../store/attempts.ts'
import { isAway, realNow, type Store } from '../store/database.ts'
import type { Envelope } from '../store/envelope.ts'
import type { Hints } from '../store/hints.ts'
import { machineToDelete } from '../store/instance-plan.ts'
import { type CloudRow, planOrder } from '../store/order-plan.ts'
import { type DeleteOutcome, machinesToDelete, storeGone } from '../store/removals.ts'
import { attemptError, type Clouds } from './clouds.ts'
import { createWaitingRoom } from './waiting-room.ts'

export interface InstanceActivitiesNeeds {
  readonly store: Store
  readonly hints: Hints
  readonly clouds: Clouds
  readonly envelope: Envelope
  readonly installation_id: string
}

/** Answers that come within this time of each other are stored together. */
const STORE_COALESCE_MS = 10
/**
 * After its answers a create step stays for the watcher to see its machines: one plan instead of two. Not for long where
 * some were refused: their item waits for another cloud.
 */
const STAY_MS = 3_000
const STAY_REFUSED_MS = 500
/** A deletion is followed up for this long before its flow takes it up again later. */
const DELETE_FOLLOW_MS = 10_000
const DELETE_POLL_MS_MAX = 1_000
const HEARTBEAT_MS = 1_000
/** Outcomes are kept in hand this long while the record is away. */
const RECORD_PATIENCE_MS = 30_000

export function createInstanceActivities({ store, hints, clouds, envelope, installation_id }: InstanceActivitiesNeeds) {
  const untilSeen = createWaitingRoom(store, hints)
  const send = async (cloud: CloudRow, provider: Provider, attempt: AttemptToSend): Promise<SendOutcome> => {
    const type = providerTypeOf(cloud)
    const signal = AbortSignal.timeout(provider.capabilities.call_timeout_ms)
    const sent = { attempt_id: attempt.attempt_id, send: attempt.send }
    try {
      const machine = await provider.create(
        {
          attempt_id: attempt.attempt_id,
          installation_id,
          name: attempt.name.replaceAll('/', '-'),
          size: cloud.sizes[attempt.size] ?? attempt.size,
          image: cloud.images[attempt.image] ?? attempt.image,
          ...attempt.spec,
          ...(attempt.public_key ? { public_key: attempt.public_key } : {}),
          extra: mergeExtra(attempt.extra.map((extra) => extra[type])),
          ...(attempt.sealed_user_data ? { user_data: envelope.open(attempt.sealed_user_data, 'user_data') } : {}),
        },
        signal,
      )
      return { ...sent, machine }
    } catch (error) {
      return { ...sent, error: attemptError(error, new Date()) }
    }
  }

  const remove = async (
    provider: Provider,
    machine: { attempt_id: string; provider_id: string },
    cancelled: AbortSignal,
  ): Promise<DeleteOutcome> => {
    const give_up_at = performance.now() + DELETE_FOLLOW_MS
    for (let pause_ms = 50; ; pause_ms = Math.min(DELETE_POLL_MS_MAX, pause_ms * 2)) {
      try {
        await provider.delete(machine.provider_id, AbortSignal.timeout(provider.capabilities.call_timeout_ms))
      } catch (error) {
        if (error instanceof ProviderError && error.class === 'not_found')
          return { attempt_id: machine.attempt_id, gone_at: await realNow(store.db) }
        const kept = attemptError(error, new Date())
        return { attempt_id: machine.attempt_id, gone_at: null, error: kept }
      }
      if (performance.now() > give_up_at || cancelled.aborted) return { attempt_id: machine.attempt_id, gone_at: null }
      await delay(pause_ms, undefined, { signal: cancelled }).catch(() => {})
    }
  }

  return {
    /** Plans a launch order, see store/order-plan.ts. */
    planOrder(order_id: string, failing: Failing | null): Promise<Plan> {
      return planOrder(store, order_id, clouds.traits, failing)
    },

    /**
     * Sends the due creates of a batch and stores what they are answered. Returns how many were sent. `stays`: until the
     * watcher has seen the machines, for some seconds at most; not where other batches wait for the place.
     */
    async createInstances(order_id: string, batch: number, stays: boolean): Promise<number> {
      const cancelled = cancellationSignal()
      const stop = beat()
      try {
        const asked = await findBatchCloud(store.db, { order_id, batch })
        if (!asked) return 0
        const { account, ...cloud } = asked
        const provider = await clouds.provider(cloud, account)
        const sent = await markSent(store, order_id, batch, provider.capabilities)
        let refused = 0
        await each(
          sent.map((attempt) => send(cloud, provider, attempt)),
          (outcomes) => {
            refused += outcomes.filter(({ error }) => error).length
            return patiently(() => storeOutcomes(store, order_id, outcomes), cancelled)
          },
        )
        if (sent.length && stays)
          await untilSeen(
            { order_id, batch },
            AbortSignal.any([cancelled, AbortSignal.timeout(refused ? STAY_REFUSED_MS : STAY_MS)]),
          )
        return sent.length
      } finally {
        stop()
      }
    },

    /** Deletes the machines of an undo batch and follows them until the cloud has none of them. Returns how many are gone. */
    async deleteInstances(order_id: string, undo_batch: number): Promise<number> {
      const cancelled = cancellationSignal()
      const stop = beat()
      try {
        const machines = await machinesToDelete(store, order_id, undo_batch)
        if (!machines.length) return 0
        const { provider } = await clouds.byId(machines[0]!.cloud_id, machines[0]!.credential_id)
        let gone = 0
        await each(
          machines.map((machine) => remove(provider, { ...machine, provider_id: machine.provider_id! }, cancelled)),
          (outcomes) => {
            gone += outcomes.filter((outcome) => outcome.gone_at !== null).length
            return patiently(() => storeGone(store, order_id, outcomes, true), cancelled)
          },
        )
        return gone
      } finally {
        stop()
      }
    },

    /** Deletes the machine bound to one instance. Returns whether it is confirmed gone. */
    async terminateInstance(instance_id: string): Promise<boolean> {
      const cancelled = cancellationSignal()
      const stop = beat()
      try {
        const machine = await machineToDelete(store, instance_id)
        if (!machine) return true
        const { provider } = await clouds.byId(machine.cloud_id, machine.credential_id)
        const outcome = await remove(
          provider,
          { attempt_id: machine.attempt_id, provider_id: machine.provider_id! },
          cancelled,
        )
        await patiently(() => storeGone(store, machine.order_id, [outcome], false), cancelled)
        return outcome.gone_at !== null
      } finally {
        stop()
      }
    },
  }
}

/** Stores results as they come, those of one moment together, and one store at a time. */
async function each<T>(running: readonly Promise<T>[], store: (results: T[]) => Promise<void>): Promise<void> {
  let ready: T[] = []
  let storing: Promise<void> | undefined
  let failure: unknown
  const flush = async (): Promise<void> => {
    await delay(STORE_COALESCE_MS)
    while (ready.length) {
      const results = ready
      ready = []
      await store(results)
    }
    storing = undefined
  }
  await Promise.all(
    running.map(async (promise) => {
      const result = await promise // before `ready` is looked at: it is another one each time some were stored
      ready.push(result)
      storing ??= flush().catch((error) => {
        failure ??= error
      })
    }),
  )
  await storing
  if (failure) throw failure
}

/** What a cloud answered must not be lost because the record is away for a moment. */
export async function patiently(job: () => Promise<void>, cancelled: AbortSignal): Promise<void> {
  const until = performance.now() + RECORD_PATIENCE_MS
  for (let pause_ms = 100; ; pause_ms = Math.min(2_000, pause_ms * 2)) {
    try {
      await job()
      return
    } catch (error) {
      if (!isAway(error) || performance.now() > until || cancelled.aborted) throw error
      await delay(pause_ms)
    }
  }
}

/** Heartbeats until called; the activity's context is taken now, timers have none. */
export function beat(): () => void {
  heartbeat()
  const timer = setInterval(heartbeat, HEARTBEAT_MS)
  return () => clearInterval(timer)
}
