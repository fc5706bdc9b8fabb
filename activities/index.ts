/** All activities of a worker, each wrapped so that only failures of ours come out. */
import { planDeployment } from '../store/deployment-plan.ts'
import { dropOld, wakeOverdue } from '../store/housekeeping.ts'
import { planLease } from '../store/lease-plan.ts'
import { resealOld } from '../store/reseal.ts'
import { createActionActivities } from './actions.ts'
import { createDeliveryActivities, type DeliveryActivitiesNeeds } from './deliveries.ts'
import { guarded, type Watchers } from './failures.ts'
import { createInstanceActivities, type InstanceActivitiesNeeds } from './instances.ts'
import { createInventoryActivities } from './inventory.ts'
import { createTaggingActivities } from './taggings.ts'
import { createWatchActivities } from './watch.ts'

export type ActivitiesNeeds = InstanceActivitiesNeeds & DeliveryActivitiesNeeds & Watchers

/** Makes the activities of one worker process. */
export function createActivities(needs: ActivitiesNeeds) {
  const { store } = needs
  const activities = {
    ...createInstanceActivities(needs),
    ...createActionActivities(needs),
    ...createTaggingActivities(needs),
    ...createInventoryActivities(needs),
    ...createWatchActivities(needs),
    ...createDeliveryActivities(needs),

    /** Plans the action of a deployment, see store/deployment-plan.ts. */
    planDeployment: (deployment_id: string) => planDeployment(store, deployment_id),

    /** Plans a lease, see store/lease-plan.ts. */
    planLease: (lease_id: string) => planLease(store, lease_id),

    /** One round of housekeeping. Returns how many overdue nouns were woken. */
    async keepHouse(): Promise<number> {
      const woken = await wakeOverdue(store)
      await dropOld(store)
      await resealOld(store, needs.envelope)
      return woken
    },
  }
  return guarded(activities, needs)
}

export type Activities = ReturnType<typeof createActivities>
