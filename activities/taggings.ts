/** Telling the machine of an instance whose it is. May run twice at any point: tags that are there stay there. */
import { cancellationSignal } from '@temporalio/activity'
import { ProviderError } from '../providers/provider.ts'
import { storeTagged, type TaggingToSend, taggingToSend } from '../store/taggings.ts'
import { attemptError } from './clouds.ts'
import { beat, type InstanceActivitiesNeeds, patiently } from './instances.ts'

export function createTaggingActivities({ store, clouds, installation_id }: InstanceActivitiesNeeds) {
  /** Null: the machine is told, or there is nobody to be told. */
  const tell = async ({ wish, cloud_id, credential_id, provider_id, attempt_id }: TaggingToSend) => {
    try {
      const { provider } = await clouds.byId(cloud_id, credential_id)
      // What cannot be taken off stays on: the record knows that it was released.
      if (!provider.capabilities.adoption) return null
      const signal = AbortSignal.timeout(provider.capabilities.call_timeout_ms)
      if (wish === 'adopt') await provider.adopt(provider_id, { attempt_id, installation_id }, signal)
      else await provider.release(provider_id, signal)
      return null
    } catch (error) {
      if (error instanceof ProviderError && error.class === 'not_found') return null
      return attemptError(error, new Date())
    }
  }

  return {
    /** Tags the machine of an adopted instance as ours, or takes our tags off that of a released one. Returns whether that is done. */
    async tagInstance(instance_id: string): Promise<boolean> {
      const cancelled = cancellationSignal()
      const stop = beat()
      try {
        const todo = await taggingToSend(store, instance_id)
        if (!todo) return true
        const error = await tell(todo)
        await patiently(() => storeTagged(store, instance_id, todo, error), cancelled)
        return error === null
      } finally {
        stop()
      }
    },
  }
}
