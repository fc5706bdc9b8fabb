import { proxyActivities } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'

const { keepHouse } = proxyActivities<Activities>({
  startToCloseTimeout: '1m',
  retry: { initialInterval: '1s', maximumInterval: '10s', maximumAttempts: 3 },
  summary: 'wake what is overdue, drop what is past its retention',
})

/** One round of housekeeping, started by the schedule of the same name. */
export async function housekeeping(): Promise<void> {
  await keepHouse()
}
