import { ActivityCancellationType, proxyActivities, proxyLocalActivities } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import type { Step } from '../domain/plan.ts'
import { lookAfter } from './loop.ts'
import { PLAN_LOCALLY, PLAN_PATIENTLY, STEP } from './options.ts'

const local = proxyLocalActivities<Activities>({ ...PLAN_LOCALLY, summary: 'plan the order' })
const patient = proxyActivities<Activities>({ ...PLAN_PATIENTLY, summary: 'plan the order (the record was away)' })

/**
 * Looks after a launch order until it is settled or undone: create, observe, fail over, compensate, end. Id
 * `order/<id>`; may be started afresh at any time and goes on from the record.
 */
export async function launchOrder(order_id: string): Promise<void> {
  await lookAfter(order_id, {
    plan: (id, now) => local.planOrder(id, now.failing),
    planPatiently: (id, now) => patient.planOrder(id, now.failing),
    run,
  })
}

function run(step: Step, others_wait: boolean): Promise<unknown> {
  const steps = proxyActivities<Activities>({
    ...STEP,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    summary: step.summary,
  })
  const [order_id, batch] = step.args as [string, number]
  return step.activity === 'deleteInstances'
    ? steps.deleteInstances(order_id, batch)
    : steps.createInstances(order_id, batch, !others_wait)
}
