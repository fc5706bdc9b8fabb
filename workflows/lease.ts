import { proxyActivities, proxyLocalActivities } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import { lookAfter } from './loop.ts'
import { PLAN_LOCALLY, PLAN_PATIENTLY } from './options.ts'

const local = proxyLocalActivities<Activities>({ ...PLAN_LOCALLY, summary: 'plan the lease' })
const patient = proxyActivities<Activities>({ ...PLAN_PATIENTLY, summary: 'plan the lease (the record was away)' })

/**
 * A lease's whole life: start, before-end, end, each done by the plan that finds it due. Id `lease/<id>`; begins with a
 * start delay where its first moment is far away.
 */
export async function lease(lease_id: string): Promise<void> {
  await lookAfter(lease_id, {
    plan: (id) => local.planLease(id),
    planPatiently: (id) => patient.planLease(id),
    run: async () => {},
  })
}
