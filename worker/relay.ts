/**
 * The relay: turns the outbox into `start`, for what is new, and `signalWithStart(wake)`. Few calls in flight, fewer when
 * the engine gets slow: above its rate more calls only make everything late. Losing a hand-over costs time, never an
 * order: the row stays.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Client, WorkflowStartOptions } from '@temporalio/client'
import { defineSearchAttributeKey } from '@temporalio/common'
import { sql } from 'kysely'
import type { Logger } from 'pino'
import { inTraceOf } from '../domain/tracing.ts'
import { orderWorkflowId, parseWorkflowId, WAKE, type WorkflowId } from '../domain/workflow-ids.ts'
import type { Store } from '../store/database.ts'
import type { Hints } from '../store/hints.ts'
import { type ClaimedWake, claimWakes, forgetWakes } from '../store/outbox.ts'

const PROJECT = defineSearchAttributeKey('HoldfastProject', 'KEYWORD')
const STATE = defineSearchAttributeKey('HoldfastState', 'KEYWORD')

const IN_FLIGHT_MAX = 12
const OFFERED_MAX = 16
const CLAIM_ROWS = 64
/** A claimed row that was not handed over becomes visible to all relays again after this. */
const CLAIM_MS = 10_000
const CALL_TIMEOUT_MS = 5_000
/** Calls slower than this mean the engine has enough to do. */
const SLOW_MS = 150
const FAST_MS = 50
/**
 * A flow that was started keeps its place until its first plan, here, for so long at most: the engine takes starts faster
 * than flows get on, and every one too many makes all of them, and the API, slower.
 */
const FIRST_PLAN_MS = 1_000
const IDLE_MS = 500
/** Rows that were handed over within this time are deleted together. */
const FORGET_MS = 10
const FAILED_PAUSE_MS = 500
/** A noun whose first moment is at least so far away begins with a start delay: one transition until then. */
const START_DELAY_MIN_MS = 2_000
/** The engine refuses a summary beyond 400 bytes; a character has up to four. */
const SUMMARY_MAX = 100

export interface Relay {
  /** Hands over a new order at once, eagerly where this process has a worker; its outbox row goes when that succeeds. */
  offer(accepted: { order_id: string; outbox_id: number | null; project_id: string }): void
  /** Told that an activity of a flow has ended in this process: its first plan, if it was started here. */
  planned(workflow_id: string): void
  /** Works until the signal fires, then finishes the calls in flight. */
  run(signal: AbortSignal): Promise<void>
  /** For metrics: calls in flight, the present limit, failures. */
  readonly state: { in_flight: number; limit: number; failed: number; handed_over: number }
}

/** A lease that has not started. */
interface Sleeper {
  readonly target: string
  readonly delay_ms: number
  readonly name: string
  readonly state: string
  readonly start_at: Date
  readonly end_at: Date
}

type FlowOptions = WorkflowStartOptions & { args: [string] }

export interface RelayNeeds {
  readonly store: Store
  readonly hints: Hints
  readonly client: Client
  readonly task_queue: string
  readonly log: Logger
  readonly eager: boolean
}

export function createRelay({ store, hints, client, task_queue, log, eager }: RelayNeeds): Relay {
  const state = { in_flight: 0, limit: IN_FLIGHT_MAX, failed: 0, handed_over: 0 }
  const offered: { order_id: string; outbox_id: number; project_id: string }[] = []
  const own = new Set<WorkflowId>()
  let done_ids: number[] = []
  let forgetting: NodeJS.Timeout | undefined
  const slot_waiters: (() => void)[] = []
  /** More waits in the outbox than one round takes. */
  let backlog = false

  const base = (target: WorkflowId, project_id: string | null): FlowOptions => ({
    workflowId: target,
    taskQueue: task_queue,
    args: [parseWorkflowId(target).id],
    typedSearchAttributes: [
      { key: PROJECT, value: project_id ?? 'installation' },
      { key: STATE, value: 'open' },
    ],
    ...(project_id ? { priority: { fairnessKey: project_id } } : {}),
  })

  const first_plans = new Map<string, () => void>()
  const firstPlan = (target: WorkflowId): Promise<void> =>
    new Promise((resolve) => {
      const planned = (): void => {
        clearTimeout(timer)
        first_plans.delete(target)
        resolve()
      }
      const timer = setTimeout(planned, FIRST_PLAN_MS)
      first_plans.set(target, planned)
    })

  /** One call to the engine; its place is free again after it, or after `then`. */
  const call = async (target: WorkflowId, job: () => Promise<unknown>, then?: Promise<void>): Promise<boolean> => {
    state.in_flight++
    const begun_at = performance.now()
    try {
      await inTraceOf(parseWorkflowId(target).id, 'hand over to Temporal', { 'holdfast.workflow_id': target }, () =>
        client.withDeadline(Date.now() + CALL_TIMEOUT_MS, job),
      )
      state.handed_over++
      const took_ms = performance.now() - begun_at
      if (took_ms > SLOW_MS) state.limit = Math.max(1, Math.floor(state.limit / 2))
      else if (took_ms < FAST_MS) state.limit = Math.min(IN_FLIGHT_MAX, state.limit + 1)
      return true
    } catch (error) {
      state.failed++
      state.limit = Math.max(1, Math.floor(state.limit / 2))
      log.warn(
        { workflow_id: target, err: error instanceof Error ? error.message : String(error) },
        'a hand-over to Temporal failed; the outbox keeps it',
      )
      return false
    } finally {
      void (then ?? Promise.resolve()).then(() => {
        state.in_flight--
        // Those of the outbox first: new ones that always came first would keep them waiting for ever.
        const waiter = slot_waiters.shift()
        if (waiter) waiter()
        else pump()
      })
    }
  }

  const slot = async (): Promise<void> => {
    while (state.in_flight >= state.limit) await new Promise<void>((resolve) => slot_waiters.push(resolve))
  }

  /** New orders of this process, before they go the way of the outbox. */
  const pump = (): void => {
    while (offered.length && state.in_flight < state.limit) {
      const order = offered.shift()!
      const target = orderWorkflowId(order.order_id)
      void begin(target, base(target, order.project_id)).then((ok) => {
        own.delete(target)
        if (ok) done([order.outbox_id])
      })
    }
  }

  /** A new noun: one that has its flow already needs nothing. Eagerly, so that the first task comes back with the answer. */
  const begin = (target: WorkflowId, options: FlowOptions): Promise<boolean> => {
    const at_once = options.startDelay === undefined
    const start = () =>
      client.workflow.start(parseWorkflowId(target).type, {
        ...options,
        workflowIdConflictPolicy: 'USE_EXISTING',
        requestEagerStart: eager && at_once,
      })
    return call(target, start, eager && at_once ? firstPlan(target) : undefined)
  }
  const signal = (target: WorkflowId, options: FlowOptions): Promise<boolean> =>
    call(target, () =>
      client.workflow.signalWithStart(parseWorkflowId(target).type, { ...options, signal: WAKE, signalArgs: [] }),
    )

  const handOver = async (wake: ClaimedWake, lease: Sleeper | undefined): Promise<boolean> => {
    const options = base(wake.target, wake.project_id)
    if (lease && lease.delay_ms >= START_DELAY_MIN_MS) {
      // Nothing of it runs until then: what it would say of itself is said for it.
      const { name, state, start_at, end_at } = lease
      Object.assign(options, {
        startDelay: lease.delay_ms,
        staticSummary: `waits for its start at ${start_at.toISOString()}: ${name}`.slice(0, SUMMARY_MAX).toWellFormed(),
        staticDetails: `**${name}**: ${state}, ${start_at.toISOString()} to ${end_at.toISOString()}; times as they were when it began to wait`,
      })
    }
    const ok = await (wake.kind === 'start' ? begin : signal)(wake.target, options)
    if (ok) done(wake.ids)
    return ok
  }

  /** Leases whose first moment may be far away; everything else is due. */
  const sleepersOf = async (wakes: readonly ClaimedWake[]): Promise<Map<string, Sleeper>> => {
    const ids = wakes.flatMap((wake) => (wake.target.startsWith('lease/') ? [parseWorkflowId(wake.target).id] : []))
    if (!ids.length) return new Map()
    const { rows } = await sql<Sleeper>`
      select 'lease/' || id as target, floor(extract(epoch from due_at - record_now()) * 1000)::float8 as delay_ms,
        name, state, start_at, end_at
      from leases where id = any(${ids}::uuid[]) and due_at is not null and state = 'PENDING'`.execute(store.db)
    return new Map(rows.map((row) => [row.target, row]))
  }

  const forget = async (): Promise<void> => {
    clearTimeout(forgetting)
    forgetting = undefined
    const ids = done_ids
    done_ids = []
    await forgetWakes(store.db, ids)
  }
  /** Those of one moment together. */
  const done = (ids: readonly number[]): void => {
    done_ids.push(...ids)
    // What cannot be deleted now is handed over once more later.
    forgetting ??= setTimeout(() => void forget().catch(() => {}), FORGET_MS)
  }

  /** Failures that a pause has answered. */
  let failures_seen = 0
  const failing = (): boolean => state.failed > failures_seen

  /** One claim, handed over as places become free; returns how many targets it had, the last ones still under way. */
  const round = async (): Promise<number> => {
    const claimed = await claimWakes(store.db, CLAIM_ROWS, CLAIM_MS)
    backlog = claimed.length >= CLAIM_ROWS / 2
    // Oldest first: what has not begun goes the way of the outbox, behind those that wait there.
    if (backlog) for (const { order_id } of offered.splice(0)) own.delete(orderWorkflowId(order_id))
    const wakes = claimed.filter((wake) => !own.has(wake.target))
    const sleepers = await sleepersOf(wakes)
    for (const wake of wakes) {
      await slot()
      if (failing()) break // the rest is claimed again in a while
      void handOver(wake, sleepers.get(wake.target))
    }
    return claimed.length
  }

  return {
    state,
    planned: (workflow_id) => first_plans.get(workflow_id)?.(),
    offer(accepted) {
      // Beyond the engine's rate they go the way of the outbox, oldest first: none overtakes those that wait there.
      if (accepted.outbox_id === null || backlog || offered.length >= OFFERED_MAX) return
      own.add(orderWorkflowId(accepted.order_id))
      offered.push({ ...accepted, outbox_id: accepted.outbox_id })
      pump()
    },
    async run(signal) {
      while (!signal.aborted) {
        try {
          const hint = hints.wait(['outbox'], IDLE_MS, signal) // begins before the look
          if (failing()) {
            await delay(FAILED_PAUSE_MS, undefined, { signal }).catch(() => {})
            failures_seen = state.failed
          } else if (!(await round())) await hint
        } catch (error) {
          log.warn(
            { err: error instanceof Error ? error.message : String(error) },
            'the outbox cannot be read; trying again',
          )
          await delay(FAILED_PAUSE_MS, undefined, { signal }).catch(() => {})
        }
        pump()
      }
      for (const planned of first_plans.values()) planned()
      while (state.in_flight) await new Promise<void>((resolve) => slot_waiters.push(resolve))
      await forget().catch(() => {})
    },
  }
}
