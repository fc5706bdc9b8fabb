import { proxyActivities, proxyLocalActivities } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import { lookAfter } from './loop.ts'
import { PLAN_LOCALLY, PLAN_PATIENTLY } from './options.ts'

const local = proxyLocalActivities<Activities>({ ...PLAN_LOCALLY, summary: 'plan the deployment' })
const patient = proxyActivities<Activities>({ ...PLAN_PATIENTLY, summary: 'plan the deployment (the record was away)' })

/**
 * Goes through a deployment with an action, wave by wave. Id `deployment/<id>`. The plan opens actions of its instances,
 * or ends its orders; the flows of those do the work and wake this one.
 */
export async function deployment(deployment_id: string): Promise<void> {
  await lookAfter(deployment_id, {
    plan: (id) => local.planDeployment(id),
    planPatiently: (id) => patient.planDeployment(id),
    run: async () => {},
  })
}
