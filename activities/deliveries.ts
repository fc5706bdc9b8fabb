/**
 * Deliveries to hooks: the sender of a shard, and the plan and attempts of a lane. Whatever a receiver does is an
 * outcome in the record; an error leaves here only when the record cannot be reached.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { SpanKind } from '@opentelemetry/api'
import { activityInfo, cancellationSignal, heartbeat } from '@temporalio/activity'
import type { AllowList } from '../domain/hook-address.ts'
import { inTraceOf, traceOf } from '../domain/tracing.ts'
import { isAway, type Store, write } from '../store/database.ts'
import { claimForLane, type Head } from '../store/delivery-claims.ts'
import { type AttemptResult, storeOutcomes } from '../store/delivery-outcomes.ts'
import type { Envelope } from '../store/envelope.ts'
import type { Hints } from '../store/hints.ts'
import { type LanePlan, planLane } from '../store/hook-lanes.ts'
import { createHookClient } from './hook-client.ts'
import type { Resolve } from './hook-connector.ts'
import { SENDER_LIMITS, type SenderLimits, type SenderReport, sendShard } from './send-shard.ts'

export interface DeliveryActivitiesNeeds {
  readonly store: Store
  readonly hints: Hints
  readonly envelope: Envelope
  /** What the operator opened (`HOOK_ALLOW`). */
  readonly allow: AllowList
  readonly user_agent: string
  readonly sender_limits?: SenderLimits
  /** Names to addresses; the system's resolver unless a test says otherwise. */
  readonly resolve?: Resolve
  /** Told of every attempt that ended: `delivered` or the class of its error. */
  readonly onAttempt?: (outcome: string, seconds: number) => void
}

/** One line of the engine's history about an attempt. */
export interface AttemptReport {
  readonly delivery_id: number
  readonly outcome: string
  readonly state: string
}

const HEARTBEAT_MS = 1_000
const ORDER_ID = /"order_id":\s*"([0-9a-f-]{36})"/
const AWAY_PAUSE_MS = 250
/** An outcome is kept in hand this long while the record is away; then the attempt counts as unknown. */
const RECORD_PATIENCE_MS = 20_000

export function createDeliveryActivities(needs: DeliveryActivitiesNeeds) {
  const { store, hints, envelope } = needs
  const client = createHookClient(needs)

  /** One attempt, a span in the trace of what the event is about; an instance's is linked to its order's. */
  const send = (head: Head, signal: AbortSignal): Promise<AttemptResult> => {
    const attributes = {
      'holdfast.hook_id': head.hook_id,
      'holdfast.delivery_id': head.delivery_id,
      'holdfast.attempt': head.number,
    }
    return inTraceOf(
      head.resource_id,
      `deliver ${head.event_type}`,
      attributes,
      async (span) => {
        const order = span.isRecording() ? traceOf(ORDER_ID.exec(head.body)?.[1]) : undefined
        if (order) span.addLink({ context: order })
        const result = await client.send(head, openSecrets(head), signal)
        span.setAttribute('holdfast.outcome', result.outcome)
        needs.onAttempt?.(result.outcome, (result.ended_at.getTime() - result.started_at.getTime()) / 1_000)
        return result
      },
      SpanKind.CLIENT,
    )
  }

  /** A secret that does not open is our fault, never the receiver's: without any the attempt is not made. */
  function openSecrets(head: Head): string[] {
    try {
      return head.sealed_secrets.map((sealed) => envelope.open(sealed, head.hook_id))
    } catch {
      return []
    }
  }

  return {
    /** First attempts of all healthy hooks of a shard, for some ten minutes. */
    async sendShard(shard: number): Promise<SenderReport> {
      const signal = cancellationSignal()
      return beating(() => sendShard({ store, hints, send }, shard, signal, needs.sender_limits ?? SENDER_LIMITS))
    },

    /** What is to be done for a hook in trouble. `running`: deliveries whose attempt its lane has under way. */
    planLane: (hook_id: string, running: readonly number[] = []): Promise<LanePlan> =>
      planLane(store, hook_id, running),

    /** One attempt of a lane. Safe to run again: an attempt whose worker was lost is first settled as unknown. */
    async attemptDelivery(hook_id: string, delivery_id: number): Promise<AttemptReport> {
      const signal = cancellationSignal()
      return beating(async () => {
        const claim = await write(store, (trx) => claimForLane(trx, hook_id, delivery_id))
        if ('skipped' in claim) return { delivery_id, outcome: 'not_sent', state: claim.skipped }
        const result = await send(claim.head, signal)
        const outcome = { claimed: claim.head, result, random: Math.random() }
        const patience_until = performance.now() + RECORD_PATIENCE_MS
        for (;;) {
          try {
            const stored = await write(store, (trx) => storeOutcomes(trx, [outcome]))
            return { delivery_id, outcome: result.outcome, state: stored.get(delivery_id) ?? 'overtaken' }
          } catch (error) {
            if (!isAway(error) || signal.aborted || performance.now() > patience_until) throw error
            await delay(AWAY_PAUSE_MS)
          }
        }
      })
    },
  }
}

/** Runs a job with heartbeats, so that a lost worker is noticed in seconds. */
async function beating<T>(job: () => Promise<T>): Promise<T> {
  activityInfo() // throws outside of an activity, where nobody would hear the heart
  const timer = setInterval(() => heartbeat(), HEARTBEAT_MS)
  try {
    return await job()
  } finally {
    clearInterval(timer)
  }
}
