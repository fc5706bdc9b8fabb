/** What happens in a step and cannot be seen by looking at the world afterwards. */
import type { InstanceDecision, InstanceView } from '../../domain/instance.ts'
import type { LeaseAct } from '../../domain/lease.ts'
import type { OrderDecision, OrderView } from '../../domain/order/view.ts'
import type { AttemptRow, InstanceRow, ItemRow, LeaseRow, OrderRow } from '../record/rows.ts'

export type Act =
  | {
      readonly act: 'planned'
      readonly order: OrderRow
      readonly view: OrderView
      readonly decision: OrderDecision
      /** What is decided at the same moment, once the decision was written down. */
      readonly again: OrderDecision
    }
  | {
      readonly act: 'planned_instance'
      readonly instance: InstanceRow
      readonly view: InstanceView
      readonly decision: InstanceDecision
      readonly again: InstanceDecision
    }
  | { readonly act: 'looked'; readonly noun: string }
  | { readonly act: 'lease_acted'; readonly lease: LeaseRow; readonly what: LeaseAct }
  | {
      readonly act: 'opened'
      readonly item: ItemRow
      /** What the item was told to wait for. */
      readonly due_at: number | null
      readonly attempt: AttemptRow
    }
  | {
      readonly act: 'sent'
      readonly attempt: AttemptRow
      readonly was: AttemptRow['state']
      readonly due_at: number | null
    }
  /** `again`: to follow up what was asked for before, in the same step. */
  | { readonly act: 'asked_to_delete'; readonly attempt: AttemptRow; readonly again: boolean }
  | { readonly act: 'claimed'; readonly attempt: AttemptRow; readonly claimed: number }
  | { readonly act: 'released'; readonly attempt: AttemptRow }
  | {
      readonly act: 'changed'
      readonly kind: 'order' | 'item' | 'attempt' | 'instance' | 'lease'
      readonly noun: string
      readonly from: string
      readonly to: string
    }
