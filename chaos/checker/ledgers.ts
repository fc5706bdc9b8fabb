/**
 * What is judged: four ledgers that were kept apart. What clients were promised, what clouds saw, what receivers got,
 * and what the record says of itself.
 *
 * Times are milliseconds since 1970. Those of clients, clouds and receivers are real time; those of the record (its
 * moments and events) and the moments promised to clients are the record's time.
 */

export interface Ledgers {
  /** Real time at which reading them began: the record may not show what came about since. */
  readonly read_since_ms: number
  /** Real time at which the last ledger was read. */
  readonly collected_at_ms: number
  /** Only machines with this installation tag are ours; absent: all that carry one. */
  readonly installation_id?: string
  readonly client: readonly ClientEntry[]
  readonly clouds: readonly CloudLedger[]
  readonly receivers: readonly ReceiverLedger[]
  readonly record: RecordLedger
}

export type ClientKind = 'order' | 'lease' | 'hook' | 'extend' | 'cancel' | 'withdraw' | 'terminate' | 'action' | 'end'

/**
 * A request a client made. 2xx: it was promised. Null or 5xx: nobody knows, so it excuses what it may have brought
 * about and obliges to nothing. Other answers are of no account.
 *
 * `order`, `lease`, `hook`: made one. `extend`: moved moments of a lease, to either side. `cancel`: of an order or a
 * delivery. `withdraw`: of what does not run yet of an order. `terminate`: of an order, an instance or a deployment.
 * `action`: any other of an instance or a deployment. `end`: of a lease or a hook.
 */
export interface ClientEntry {
  readonly kind: ClientKind
  /** Id of the resource; `''` where the answer that would have named it never came. */
  readonly resource_id: string
  readonly sent_at_ms: number
  readonly at_ms: number
  readonly status: number | null
  readonly promised?: Promised
  /** Of an action: its id, as the answer named it. */
  readonly action_id?: string
}

/** What was asked for and promised by the answer; left out: left to the service. */
export interface Promised {
  readonly count?: number
  readonly policy?: 'all' | 'at_least' | 'any'
  readonly at_least?: number
  readonly start_at_ms?: number
  readonly end_at_ms?: number
  readonly before_end_at_ms?: number | null
  /** Of a lease: so many for itself. */
  readonly hosts?: number
  readonly action?: string
  readonly reboot?: string
  readonly wave_size?: number
}

export interface CloudLedger {
  readonly name: string
  /** The cloud really honours idempotency tokens. */
  readonly idempotency_tokens: boolean
  readonly requests: readonly CloudRequest[]
  /** Every machine there ever was. */
  readonly machines: readonly MachineLife[]
}

export interface CloudRequest {
  readonly at_ms: number
  readonly verb: string
  readonly machine_id: string | null
  readonly attempt_id: string | null
  /** How a reboot was asked for. */
  readonly reboot?: string
}

export interface MachineLife {
  readonly provider_id: string
  readonly attempt_id: string | null
  readonly installation_id: string | null
  /** In plain words: pending, running, stopped, failed, terminating, terminated … */
  readonly state: string
  /** What it runs on; null: its cloud does not say. */
  readonly host: string | null
  readonly created_at_ms: number
  readonly running_at_ms: number | null
  /** When it failed for good. */
  readonly failed_at_ms: number | null
  readonly delete_requested_at_ms: number | null
  readonly gone_at_ms: number | null
  /** Every state it went into, in order. */
  readonly states: readonly { readonly at_ms: number; readonly state: string }[]
}

export interface ReceiverLedger {
  readonly hook_id: string
  /** In the order of their arrival. */
  readonly deliveries: readonly Received[]
}

export interface Received {
  readonly at_ms: number
  readonly webhook_id: string
  /** The header `hook-attempt`. */
  readonly attempt: number
  /** The header `hook-trigger`; null: the schedule. */
  readonly trigger?: string | null
  readonly body: string
  /** Null: it was left without an answer. */
  readonly answered_status: number | null
}

export interface RecordLedger {
  readonly orders: readonly OrderRow[]
  readonly instances: readonly InstanceRow[]
  readonly attempts: readonly AttemptRow[]
  readonly leases: readonly LeaseRow[]
  readonly hooks: readonly HookRow[]
  /** Oldest first in each project. */
  readonly events: readonly EventRow[]
  readonly deliveries: readonly DeliveryRow[]
  readonly clouds: readonly CloudRow[]
  /** Of instances of which anything was asked. */
  readonly actions: readonly ActionRow[]
  /** Of deployments of which anything was asked. */
  readonly deployment_actions: readonly DeploymentActionRow[]
  readonly receipts: readonly ReceiptRow[]
  /** Parts that could not be read; what rests on them is not judged, and the verdict says so. */
  readonly unseen: readonly RecordPart[]
}

export type RecordPart = Exclude<keyof RecordLedger, 'unseen'>

export interface BlockerRow {
  readonly code: string
  readonly reason: string
  readonly next_try_at_ms: number | null
}

export interface OrderRow {
  readonly id: string
  readonly project: string
  readonly state: string
  readonly partial: boolean
  readonly policy: string
  readonly at_least: number | null
  readonly count: number
  readonly lease_id: string | null
  readonly deployment_id: string | null
  readonly created_at_ms: number
  /** It waits where all clouds refuse. */
  readonly hold: boolean
  readonly healing: string
  readonly blocker: BlockerRow | null
}

export interface InstanceRow {
  readonly id: string
  readonly project: string
  readonly order_id: string | null
  readonly state: string
  readonly wish: string
  readonly created_at_ms: number
  /** Name of the cloud of the machine bound to it. */
  readonly cloud: string | null
  readonly provider_id: string | null
  readonly blocker: BlockerRow | null
}

export interface AttemptRow {
  readonly id: string
  readonly order_id: string
  /** Whatever tells the items of an installation apart. */
  readonly item: string
  readonly instance_id: string | null
  readonly cloud: string | null
  readonly state: string
}

export interface LeaseRow {
  readonly id: string
  readonly project: string
  readonly state: string
  readonly start_at_ms: number
  readonly end_at_ms: number
  readonly before_end_at_ms: number | null
  readonly order_id: string | null
  readonly blocker: BlockerRow | null
}

export interface HookRow {
  readonly id: string
  readonly project: string
  readonly state: string
  readonly format: string
  readonly filter: HookFilter
}

export interface HookFilter {
  readonly types?: readonly string[]
  readonly resource_type?: string
  readonly resource_id?: string
  readonly deployment_id?: string
}

export interface EventRow {
  readonly id: string
  /** Null: the installation's own. */
  readonly project: string | null
  readonly resource_type: string
  readonly resource_id: string
  readonly sequence: number
  readonly type: string
  readonly from: string | null
  readonly to: string | null
  readonly at_ms: number
  readonly cause: Cause
  readonly snapshot?: Readonly<Record<string, unknown>>
}

export interface Cause {
  readonly actor?: unknown
  readonly rule?: unknown
  readonly evidence?: unknown
  readonly event?: unknown
  readonly [field: string]: unknown
}

export interface DeliveryRow {
  readonly id: string
  readonly hook_id: string
  readonly event_id: string
  readonly state: string
  readonly reason: string | null
}

export interface CloudRow {
  readonly name: string
  /** Places claimed at it now; null: not told. */
  readonly claimed: number | null
}

export interface ActionRow {
  readonly id: string
  readonly instance_id: string
  readonly number: number
  readonly action: string
  /** How, of a reboot. */
  readonly reboot: string | null
  /** The action of its deployment it is part of. */
  readonly deployment_action_id: string | null
  readonly state: string
  /** Why it failed. */
  readonly error: string | null
  readonly created_at_ms: number
  readonly finished_at_ms: number | null
}

export interface DeploymentActionRow extends Omit<ActionRow, 'instance_id' | 'reboot' | 'deployment_action_id'> {
  readonly deployment_id: string
  readonly wave_size: number | null
  /** Instances by what it came to. */
  readonly counts: Readonly<Record<string, number>>
}

/** The receipt of an order. */
export interface ReceiptRow {
  readonly order_id: string
  readonly complete: boolean
  readonly made: number
  readonly undone: number
  readonly remaining: number
  readonly released: number
  /** Creates of which nobody knows what they came to. */
  readonly unknown: number
  readonly unknown_until_ms: number | null
  readonly machines: readonly ReceiptMachine[]
}

export interface ReceiptMachine {
  readonly cloud: string
  readonly provider_id: string
  /** remains, deleted, vanished or released */
  readonly fate: string
  readonly confirmed_at_ms: number | null
}
