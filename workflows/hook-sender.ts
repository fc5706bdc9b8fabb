import { continueAsNew, proxyActivities, setHandler, workflowInfo } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import { stay } from './failing.ts'
import { wake } from './loop.ts'
import { STAYING } from './options.ts'

/** Each round is one activity of ten minutes: some 20 rounds a history. */
const HISTORY_MAX = 120

/**
 * Sends the first attempts of a quarter of all hooks, for ever. Id `hook-sender/<shard>`. A wake does nothing by
 * itself: the activity hears of news from the record; it only makes sure that the sender is on.
 */
export async function hookSender(shard: string): Promise<void> {
  setHandler(wake, () => {})
  const { sendShard } = proxyActivities<Activities>({
    ...STAYING,
    summary: `send for the healthy hooks of shard ${shard}`,
  })
  const task = `Sending first attempts for the healthy hooks of shard **${shard}**`
  let details = task
  while (workflowInfo().historyLength <= HISTORY_MAX) {
    const report = await stay(details, () => sendShard(Number(shard)))
    if (!report) continue
    const { sends, failures, hooks } = report
    details = `${task}. Last round: ${sends} sends to ${hooks} hooks, ${failures} failed and went to the hooks' lanes`
  }
  await continueAsNew<typeof hookSender>(shard)
}
