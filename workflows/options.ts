/**
 * Time-outs and retries of all activities, in one place. Retried by the engine is only what surely had no effect: a
 * record that is away, a worker that was lost; every answer of a cloud is a value in the record instead.
 */
import type { ActivityOptions, LocalActivityOptions } from '@temporalio/workflow'

/**
 * Planning as a local activity: one transaction. Bounded by attempts: the time over all attempts is counted anew at each
 * heartbeat of the workflow task, so that `scheduleToCloseTimeout` alone never ends one that keeps failing.
 */
export const PLAN_LOCALLY: LocalActivityOptions = {
  startToCloseTimeout: '4s',
  scheduleToCloseTimeout: '5s',
  retry: { initialInterval: '100ms', maximumInterval: '1s', maximumAttempts: 3 },
}

/** The same function while the record is away: for as long as it takes. */
export const PLAN_PATIENTLY: ActivityOptions = {
  startToCloseTimeout: '10s',
  retry: { initialInterval: '200ms', maximumInterval: '5s' },
}

/**
 * One step at a cloud: heartbeats every second, so that a lost worker is noticed in five. A step that fails over and
 * over comes back to its flow, which says so, in the record and in its details, and tries it again.
 */
export const STEP: ActivityOptions = {
  startToCloseTimeout: '2m',
  heartbeatTimeout: '5s',
  retry: { initialInterval: '200ms', maximumInterval: '2s', maximumAttempts: 4 },
}

/** An activity that stays: watcher of a cloud, sender of hooks. If it keeps failing, its flow says so. */
export const STAYING: ActivityOptions = {
  startToCloseTimeout: '15m',
  heartbeatTimeout: '5s',
  retry: { initialInterval: '100ms', maximumInterval: '5s', maximumAttempts: 4 },
}
