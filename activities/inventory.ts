/** Naming instances by the inventory outside, and telling it of them. Each may run twice at any point: a repeat is harmless. */
import { cancellationSignal } from '@temporalio/activity'
import { beginCall, findInventory, storeNamed, storeRecorded } from '../store/outside-inventory.ts'
import { beat, type InstanceActivitiesNeeds, patiently } from './instances.ts'
import { askName, tellRecord } from './inventory-client.ts'

export function createInventoryActivities({ store, envelope }: InstanceActivitiesNeeds) {
  return {
    /** Asks the inventory for the name of an instance. Returns whether it gave one. */
    async nameInstance(instance_id: string): Promise<boolean> {
      const cancelled = cancellationSignal()
      const stop = beat()
      try {
        const inventory = await findInventory(store, envelope)
        const call = inventory && (await beginCall(store, instance_id, 'name'))
        if (!call) return false
        const answer = await askName(inventory, call)
        await patiently(() => storeNamed(store, instance_id, call, answer), cancelled)
        return 'name' in answer
      } finally {
        stop()
      }
    },

    /** Tells the inventory what became of an instance. Returns whether it took it. */
    async recordInstance(instance_id: string): Promise<boolean> {
      const cancelled = cancellationSignal()
      const stop = beat()
      try {
        const inventory = await findInventory(store, envelope)
        const call = inventory && (await beginCall(store, instance_id, 'record'))
        if (!call) return false
        const error = await tellRecord(inventory, call)
        await patiently(() => storeRecorded(store, instance_id, call, error), cancelled)
        return error === null
      } finally {
        stop()
      }
    },
  }
}
