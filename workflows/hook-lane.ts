import {
  ActivityFailure,
  condition,
  continueAsNew,
  isCancellation,
  proxyActivities,
  proxyLocalActivities,
  setCurrentDetails,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import { wake } from './loop.ts'
import { PLAN_LOCALLY, PLAN_PATIENTLY, STEP } from './options.ts'

const HISTORY_MAX = 2_000
/** After an attempt that ended by a bug of ours. */
const FAILED_STEP_PAUSE_MS = 1_000

const local = proxyLocalActivities<Activities>({ ...PLAN_LOCALLY, summary: 'plan the lane' })
const patient = proxyActivities<Activities>({ ...PLAN_PATIENTLY, summary: 'plan the lane (the record was away)' })
const attempts = proxyActivities<Activities>(STEP)

/**
 * The lane of a hook in trouble: every attempt is an activity of its own, with a pause until the next is due. Id
 * `hook/<id>`. Which delivery, when, in which order: all of that is the plan's, in the record. Hands the hook back to
 * its sender and returns when nothing of it waits any more.
 */
export async function hookLane(hook_id: string): Promise<void> {
  let wakes = 0
  let ended = 0
  let pause = false
  const running = new Set<number>()
  setHandler(wake, () => {
    wakes++
  })

  const attempt = (delivery_id: number, summary: string): void => {
    running.add(delivery_id)
    attempts.attemptDelivery
      .executeWithOptions({ summary }, [hook_id, delivery_id])
      .catch((error: unknown) => {
        if (!isCancellation(error)) pause = true
      })
      .finally(() => {
        running.delete(delivery_id)
        ended++
      })
  }

  for (;;) {
    const wakes_seen = wakes
    const ended_seen = ended
    const plan = await planNow(hook_id, [...running])
    setCurrentDetails(`Lane of hook \`${hook_id}\`: ${plan.details}`)
    if (plan.done && running.size === 0) {
      if (wakes === wakes_seen) return
      continue
    }
    const renew = workflowInfo().historyLength > HISTORY_MAX
    if (renew && running.size === 0) await continueAsNew<typeof hookLane>(hook_id)
    if (!renew) {
      for (const step of plan.steps) {
        if (running.has(step.delivery_id)) continue
        attempt(step.delivery_id, `delivery ${step.delivery_id}, attempt ${step.attempt}: ${step.why}`)
      }
    }
    const moved = () => wakes !== wakes_seen || ended !== ended_seen
    const sleep_ms = pause ? FAILED_STEP_PAUSE_MS : plan.sleep_ms
    if (sleep_ms === null) await condition(moved)
    else await condition(pause ? () => false : moved, Math.max(1, sleep_ms), { summary: plan.details.slice(0, 300) })
    pause = false
  }
}

async function planNow(hook_id: string, running: number[]) {
  try {
    return await local.planLane(hook_id, running)
  } catch (error) {
    if (!(error instanceof ActivityFailure) || isCancellation(error)) throw error
    setCurrentDetails('Blocked: `record_away`, the record cannot be read or written; tried again until it can')
    return patient.planLane(hook_id, running)
  }
}
