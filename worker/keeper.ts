/**
 * Keeps the engine in order: the schedule of housekeeping exists and is this installation's, the flows that stay
 * (watchers, senders) run, and when the engine is new, and knows nothing, every open noun is woken from the record.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Client, ScheduleNotFoundError, ScheduleOverlapPolicy } from '@temporalio/client'
import type { Logger } from 'pino'
import { DomainError } from '../domain/errors.ts'
import {
  cloudWorkflowId,
  HOUSEKEEPING,
  parseWorkflowId,
  SENDER_SHARDS,
  senderWorkflowId,
  type WorkflowId,
} from '../domain/workflow-ids.ts'
import { watchClock } from '../store/clock.ts'
import type { Store } from '../store/database.ts'
import { wakeAll } from '../store/housekeeping.ts'

const ROUND_MS = 10_000
const FAILED_ROUND_MS = 1_000
const CALL_TIMEOUT_MS = 5_000
const HOUSEKEEPING_EVERY = '30s'

export interface KeeperNeeds {
  readonly store: Store
  readonly client: Client
  readonly task_queue: string
  readonly installation_id: string
  readonly log: Logger
}

/** One round. Throws `unavailable` where the namespace belongs to another installation. */
async function keepEngine({ store, client, task_queue, installation_id, log }: KeeperNeeds): Promise<void> {
  await client.withDeadline(Date.now() + CALL_TIMEOUT_MS, async () => {
    const owner = await ownerOfNamespace(client)
    if (owner === null) {
      // Waking comes first: should this process die in between, the next round finds the engine still new.
      const woken = await wakeAll(store)
      await createSchedule(client, task_queue, installation_id)
      log.info({ woken }, 'the engine is new to this installation; every open noun was woken')
    } else if (owner !== installation_id) {
      throw new DomainError(
        'unavailable',
        `this Temporal namespace belongs to installation ${owner}, not to ${installation_id}: use another namespace (TEMPORAL_NAMESPACE) or the database that belongs to it`,
      )
    }
    const clouds = await store.db.selectFrom('clouds').select('name').execute()
    const staying: WorkflowId[] = [
      ...Array.from({ length: SENDER_SHARDS }, (_, shard) => senderWorkflowId(shard)),
      ...clouds.map((cloud) => cloudWorkflowId(cloud.name)),
    ]
    for (const target of staying) {
      const { type, id } = parseWorkflowId(target)
      await client.workflow.start(type, {
        workflowId: target,
        taskQueue: task_queue,
        args: [id],
        workflowIdConflictPolicy: 'USE_EXISTING', // costs nothing where it runs
      })
    }
  })
}

async function ownerOfNamespace(client: Client): Promise<string | null> {
  try {
    const { memo } = await client.schedule.getHandle(HOUSEKEEPING).describe()
    return String(memo?.installation_id ?? '')
  } catch (error) {
    if (error instanceof ScheduleNotFoundError) return null
    throw error
  }
}

async function createSchedule(client: Client, task_queue: string, installation_id: string): Promise<void> {
  await client.schedule
    .create({
      scheduleId: HOUSEKEEPING,
      spec: { intervals: [{ every: HOUSEKEEPING_EVERY }] },
      policies: { overlap: ScheduleOverlapPolicy.SKIP, catchupWindow: '1m' },
      action: {
        type: 'startWorkflow',
        workflowType: HOUSEKEEPING,
        workflowId: HOUSEKEEPING,
        taskQueue: task_queue,
      },
      memo: { installation_id },
    })
    .catch((error: unknown) => {
      if (!(error instanceof Error && error.name === 'ScheduleAlreadyRunning')) throw error
    })
}

/** Rounds until the signal fires; tells after each whether engine and record answered. A foreign namespace ends it by rejecting. */
export async function runKeeper(
  needs: KeeperNeeds,
  signal: AbortSignal,
  onHealth: (healthy: boolean) => void,
): Promise<void> {
  let clock_seen_at_ms = Number.NEGATIVE_INFINITY
  while (!signal.aborted) {
    let pause_ms = ROUND_MS
    try {
      const at_ms = performance.now()
      const set_by_ms = await watchClock(needs.store, at_ms - clock_seen_at_ms)
      clock_seen_at_ms = at_ms
      if (set_by_ms)
        needs.log.warn({ set_by_ms }, "PostgreSQL's clock was set; what was about to happen goes on by the new one")
      await keepEngine(needs)
      onHealth(true)
    } catch (error) {
      if (error instanceof DomainError) throw error
      pause_ms = FAILED_ROUND_MS
      onHealth(false)
      needs.log.warn(
        { err: error instanceof Error ? error.message : String(error) },
        'Temporal or the record cannot be reached; trying again',
      )
    }
    await delay(pause_ms, undefined, { signal }).catch(() => {})
  }
}
