import { proxyActivities, setCurrentDetails } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import { blockedDetails, reasonOf } from './failing.ts'

const WHAT = 'wake what is overdue, drop what is past its retention'
const { keepHouse } = proxyActivities<Activities>({
  startToCloseTimeout: '1m',
  retry: { initialInterval: '1s', maximumInterval: '10s', maximumAttempts: 3 },
  summary: WHAT,
})

/** One round of housekeeping, started by the schedule of the same name; one that fails says why, the next one follows. */
export async function housekeeping(): Promise<void> {
  try {
    await keepHouse()
  } catch (error) {
    setCurrentDetails(
      blockedDetails(`Housekeeping: ${WHAT}`, `it fails: ${reasonOf(error)}; the next round tries again`),
    )
    throw error
  }
}
