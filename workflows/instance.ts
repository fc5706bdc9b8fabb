import { ActivityCancellationType, proxyActivities, proxyLocalActivities } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import type { Step } from '../domain/plan.ts'
import { lookAfter } from './loop.ts'
import { PLAN_LOCALLY, PLAN_PATIENTLY, STEP } from './options.ts'

const local = proxyLocalActivities<Activities>({ ...PLAN_LOCALLY, summary: 'plan the instance' })
const patient = proxyActivities<Activities>({ ...PLAN_PATIENTLY, summary: 'plan the instance (the record was away)' })

/** Works off the actions of one instance, in order, tells its machine whose it is, and the inventory outside what it is. Id `instance/<id>`. */
export async function instance(instance_id: string): Promise<void> {
  await lookAfter(instance_id, {
    plan: (id, now) => local.planInstance(id, now.failing),
    planPatiently: (id, now) => patient.planInstance(id, now.failing),
    run,
  })
}

function run(step: Step): Promise<unknown> {
  const steps = proxyActivities<Activities>({
    ...STEP,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    summary: step.summary,
  })
  const [instance_id, action_id] = step.args as [string, string?]
  if (step.activity === 'tagInstance') return steps.tagInstance(instance_id)
  if (step.activity === 'nameInstance') return steps.nameInstance(instance_id)
  if (step.activity === 'recordInstance') return steps.recordInstance(instance_id)
  // In older plans a deletion goes by the other name, without an action: there was no other step.
  if (step.activity === 'terminateInstance' || action_id === undefined) return steps.terminateInstance(instance_id)
  return steps.actOnInstance(instance_id, action_id)
}
