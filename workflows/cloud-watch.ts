import { continueAsNew, proxyActivities, setHandler, workflowInfo } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import { stay } from './failing.ts'
import { wake } from './loop.ts'
import { STAYING } from './options.ts'

/** Each run is one activity of ten minutes: some 20 runs a history. */
const HISTORY_MAX = 200

/**
 * Watches one cloud for as long as the record knows it. Id `cloud/<name>`. A wake does nothing by itself: the activity
 * hears of news from the record; it only makes sure that the watch is on.
 */
export async function cloudWatch(cloud_name: string): Promise<void> {
  let wakes = 0
  setHandler(wake, () => {
    wakes++
  })
  const { watchCloud } = proxyActivities<Activities>({ ...STAYING, summary: `watch ${cloud_name}` })
  const details = `Watching cloud **${cloud_name}**: its list of our machines, compared with the record`
  for (;;) {
    const seen = wakes
    const goes_on = await stay(details, () => watchCloud(cloud_name))
    if (workflowInfo().historyLength > HISTORY_MAX) await continueAsNew(cloud_name)
    if (goes_on === false && wakes === seen) return
  }
}
