/**
 * The part of a process that talks to Temporal: worker, relay, keeper. Comes up when the engine can be reached, goes on
 * by itself after it was away, and never keeps the API from answering.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { Client } from '@temporalio/client'
import { NativeConnection, Worker, type WorkflowBundleOption } from '@temporalio/worker'
import type { Logger } from 'pino'
import type { Activities } from '../activities/index.ts'
import { DomainError } from '../domain/errors.ts'
import { TASK_QUEUE } from '../domain/workflow-ids.ts'
import { isAway, type Store } from '../store/database.ts'
import { stampEvents } from '../store/events.ts'
import type { Hints } from '../store/hints.ts'
import { runKeeper } from './keeper.ts'
import { createRelay, type Relay } from './relay.ts'

const RECONNECT_MS = 500
const STAMP_IDLE_MS = 500
const STAMP_SPACING_MS = 40
/** How every worker of ours is set up; the bench measures the engine's floor with the same. */
export const WORKER_SETTINGS = {
  /**
   * After a loss all flows come at once and have to be replayed, each within the ten seconds of its task: of a hundred
   * that are taken side by side on a busy machine none would be done in time, and all would be given out again, for
   * minutes. It has a price: with thirty or fewer some starts are not eager, with twelve none.
   */
  maxConcurrentWorkflowTaskExecutions: 20,
  maxConcurrentActivityTaskExecutions: 200,
  maxCachedWorkflows: 2_000,
  stickyQueueScheduleToStartTimeout: '3s',
  shutdownGraceTime: '1s',
  shutdownForceTime: '8s',
} as const

export interface EngineSideNeeds {
  readonly store: Store
  readonly hints: Hints
  readonly log: Logger
  readonly temporal_address: string
  readonly namespace: string
  readonly installation_id: string
  readonly activities: Activities
  readonly workflow_bundle: WorkflowBundleOption | Promise<WorkflowBundleOption>
  /** Extra worker settings; tests use them to inject faults and to run without a cache. */
  readonly worker_options?: Partial<Parameters<typeof Worker.create>[0]>
}

export interface EngineSide {
  /** The engine answered a moment ago and the worker polls. */
  healthy(): boolean
  /** When the engine and the record were last found well. */
  well_at(): Date | undefined
  relay(): Relay | undefined
  client(): Client | undefined
  /** Resolves once the worker polls and every open noun has its flow or its wake. */
  readonly ready: Promise<void>
  /** Rejects on what no retry can mend, such as a namespace that belongs to another installation. */
  readonly failed: Promise<never>
  stop(): Promise<void>
}

export function startEngineSide(needs: EngineSideNeeds): EngineSide {
  const { log, store, hints } = needs
  const stopping = new AbortController()
  const ready = Promise.withResolvers<void>()
  const failed = Promise.withResolvers<never>()
  failed.promise.catch(() => {})
  let relay: Relay | undefined
  let client: Client | undefined
  let healthy = false
  let well_at: Date | undefined

  const once = async (): Promise<void> => {
    const connection = await NativeConnection.connect({
      address: needs.temporal_address,
      grpcCompression: { codec: 'none' },
    })
    const session = new AbortController()
    const signal = AbortSignal.any([stopping.signal, session.signal])
    try {
      const worker = await Worker.create({
        connection,
        namespace: needs.namespace,
        taskQueue: TASK_QUEUE,
        activities: needs.activities,
        workflowBundle: await needs.workflow_bundle,
        ...WORKER_SETTINGS,
        // A run that another release began and this one cannot follow ends; the record starts it afresh.
        workflowFailureErrorTypes: { '*': ['NondeterminismError'] },
        ...needs.worker_options,
      })
      const own = new Client({ connection, namespace: needs.namespace })
      client = own
      const here = { store, hints, client: own, task_queue: TASK_QUEUE, log, installation_id: needs.installation_id }
      const current = createRelay({ ...here, eager: true })
      relay = current
      const running = worker.run()
      const relaying = current.run(signal)
      const keeping = runKeeper(here, signal, (up) => {
        healthy = up
        if (up) well_at = new Date()
        if (up) ready.resolve()
      })
      const stop = (): void => {
        if (worker.getState() === 'RUNNING') worker.shutdown()
      }
      stopping.signal.addEventListener('abort', stop, { once: true })
      if (stopping.signal.aborted) stop()
      keeping.catch((error: unknown) => {
        failed.reject(error)
        stop()
      })
      await running.finally(() => session.abort())
      await Promise.allSettled([relaying, keeping])
    } finally {
      session.abort()
      healthy = false
      relay = undefined
      client = undefined
      await connection.close().catch(() => {})
    }
  }

  const main = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      try {
        await once()
      } catch (error) {
        if (error instanceof DomainError) failed.reject(error)
        log.warn(
          { err: error instanceof Error ? error.message : String(error) },
          'Temporal cannot be reached; trying again',
        )
      }
      if (!stopping.signal.aborted) await delay(RECONNECT_MS, undefined, { signal: stopping.signal }).catch(() => {})
    }
  }
  const running = main()
  const stamping = stampUntil(store, hints, log, stopping.signal)

  return {
    healthy: () => healthy,
    well_at: () => well_at,
    relay: () => relay,
    client: () => client,
    ready: ready.promise,
    failed: failed.promise,
    async stop() {
      stopping.abort()
      await Promise.allSettled([running, stamping])
    },
  }
}

/** Stamps events with their position soon after their commit, one process at a time. */
async function stampUntil(store: Store, hints: Hints, log: Logger, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    let stamped = 0
    const hint = hints.wait(['events'], STAMP_IDLE_MS, signal) // begins before the look
    try {
      stamped = await stampEvents(store)
      if (stamped) hints.give(['stamped'])
    } catch (error) {
      if (!isAway(error)) log.error({ err: error }, 'stamping events failed')
    }
    // Those of one moment together: each pass is a commit.
    if (stamped) await delay(STAMP_SPACING_MS)
    else await hint
  }
}
