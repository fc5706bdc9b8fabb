import { continueAsNew, proxyActivities, setCurrentDetails, setHandler } from '@temporalio/workflow'
import type { Activities } from '../activities/index.ts'
import { wake } from './loop.ts'
import { STAYING } from './options.ts'

/** Each round is one activity of ten minutes. */
const ROUNDS_MAX = 20

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
  setCurrentDetails(`Sending first attempts for the healthy hooks of shard **${shard}**`)
  for (let round = 1; round <= ROUNDS_MAX; round++) {
    const { sends, failures, hooks } = await sendShard(Number(shard))
    setCurrentDetails(
      `Sending first attempts for the healthy hooks of shard **${shard}**. Last round: ${sends} sends to ${hooks} hooks, ${failures} failed and went to the hooks' lanes`,
    )
  }
  await continueAsNew<typeof hookSender>(shard)
}
