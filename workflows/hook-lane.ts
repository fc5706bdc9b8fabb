import { proxyActivities, proxyLocalActivities } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import type { Plan, Step } from '../domain/plan.ts'
import { lookAfter, type Present } from './loop.ts'
import { PLAN_LOCALLY, PLAN_PATIENTLY, STEP } from './options.ts'

/** At most so many attempts of one lane at a time. */
const LANE_IN_FLIGHT_MAX = 20
/** A lane adds hundreds of events in seconds; where processes die under load, to replay 450 took longer than a task may. */
const HISTORY_MAX = 200

const local = proxyLocalActivities<Activities>({ ...PLAN_LOCALLY, summary: 'plan the lane' })
const patient = proxyActivities<Activities>({ ...PLAN_PATIENTLY, summary: 'plan the lane (the record was away)' })

/**
 * The lane of a hook in trouble: every attempt is an activity of its own, with a pause until the next is due. Id
 * `hook/<id>`. Which delivery, when, in which order: all of that is the plan's, in the record. Hands the hook back to
 * its sender and returns when nothing of it waits any more.
 */
export async function hookLane(hook_id: string): Promise<void> {
  await lookAfter(hook_id, {
    plan: async (id, now) => toPlan(await local.planLane(id, deliveriesOf(now)), now),
    planPatiently: async (id, now) => toPlan(await patient.planLane(id, deliveriesOf(now)), now),
    run: (step) => attempt(hook_id, step),
    steps_max: LANE_IN_FLIGHT_MAX,
    history_max: HISTORY_MAX,
  })
}

function attempt(hook_id: string, step: Step): Promise<unknown> {
  const attempts = proxyActivities<Activities>({ ...STEP, summary: step.summary })
  return attempts.attemptDelivery(hook_id, Number(step.key))
}

const deliveriesOf = (now: Present): number[] => now.running().map(Number)

/** A lane's plan names what is to be begun; what is still under way goes on. */
function toPlan(lane: Awaited<ReturnType<Activities['planLane']>>, now: Present): Plan {
  const step = (delivery_id: string | number, summary: string): Step => ({
    key: String(delivery_id),
    activity: 'attemptDelivery',
    args: [],
    cloud: '',
    summary,
  })
  return {
    steps: [
      ...now.running().map((key) => step(key, '')),
      ...lane.steps.map(({ delivery_id, attempt, why }) =>
        step(delivery_id, `delivery ${delivery_id}, attempt ${attempt}: ${why}`),
      ),
    ],
    sleep_ms: lane.sleep_ms,
    why: lane.details,
    done: lane.done,
    state: 'open',
    details: lane.details,
  }
}
