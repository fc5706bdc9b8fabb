/** Orphans that a person wants removed: deleted by the watcher of their cloud until it has none of them. */
import { ProviderError } from '../providers/provider.ts'
import { realNow, type Store } from '../store/database.ts'
import type { CloudRow } from '../store/order-plan.ts'
import { type OrphanRow, orphansToRemove, storeRemovals } from '../store/orphans.ts'
import { attemptError, type Clouds } from './clouds.ts'

/** Asks once for the deletion of each that is due, and stores what is known of it then. */
export async function removeOrphans(store: Store, clouds: Clouds, cloud: CloudRow): Promise<void> {
  const remove = async (orphan: OrphanRow) => {
    try {
      const provider = await clouds.provider(cloud, orphan.credential_id)
      await provider.delete(orphan.provider_id, AbortSignal.timeout(provider.capabilities.call_timeout_ms))
      return [] // taken; the next look asks again
    } catch (error) {
      if (error instanceof ProviderError && error.class === 'not_found')
        return [{ orphan, gone_at: await realNow(store.db) }]
      return [{ orphan, error: attemptError(error, new Date()) }]
    }
  }
  const outcomes = await Promise.all((await orphansToRemove(store.db, cloud.id)).map(remove))
  await storeRemovals(store, cloud, outcomes.flat())
}
