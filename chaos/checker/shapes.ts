/**
 * Where the service's API shows the record, and in which shape: the one place to adapt when that changes. Whatever is
 * absent becomes null or empty, never a guess.
 */
import type {
  ActionRow,
  AttemptRow,
  BlockerRow,
  CloudRow,
  DeliveryRow,
  DeploymentActionRow,
  EventRow,
  HookRow,
  InstanceRow,
  LeaseRow,
  OrderRow,
  ReceiptRow,
} from './ledgers.ts'

export type Json = Readonly<Record<string, unknown>>

/** A list of the API: its address, the field that holds the rows, and the query field that takes `next`; null: it has no pages. */
export interface List {
  readonly path: string
  readonly field: string
  readonly cursor: 'cursor' | 'after' | null
}

export const LISTS = {
  orders: { path: '/api/launch-orders', field: 'launch_orders', cursor: 'cursor' },
  instances: { path: '/api/instances', field: 'instances', cursor: 'cursor' },
  leases: { path: '/api/leases', field: 'leases', cursor: 'cursor' },
  hooks: { path: '/api/hooks', field: 'hooks', cursor: null },
  deliveries: { path: '/api/deliveries', field: 'deliveries', cursor: 'cursor' },
  clouds: { path: '/api/clouds', field: 'clouds', cursor: null },
  events: { path: '/api/events', field: 'events', cursor: 'after' },
} as const satisfies Record<string, List>
export const attemptsOf = (order_id: string): List => ({
  path: `/api/launch-orders/${order_id}/attempts`,
  field: 'attempts',
  cursor: 'cursor',
})
export const actionsOf = (instance_id: string): List => ({
  path: `/api/instances/${instance_id}/actions`,
  field: 'actions',
  cursor: null,
})
export const deploymentActionsOf = (deployment_id: string): List => ({
  path: `/api/deployments/${deployment_id}/actions`,
  field: 'actions',
  cursor: 'cursor',
})
export const receiptOf = (order_id: string): List => ({
  path: `/api/launch-orders/${order_id}/receipt`,
  field: 'receipt',
  cursor: null,
})
/** Rows of a page; every list allows as many. */
export const PAGE_ROWS = 100

export const object = (value: unknown): Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {}
export const textOrNull = (value: unknown): string | null =>
  typeof value === 'string' ? value : typeof value === 'number' ? String(value) : null
const text = (value: unknown): string => textOrNull(value) ?? ''
export const numberOrNull = (value: unknown): number | null => (typeof value === 'number' ? value : null)

/** ISO text, to milliseconds. */
function momentOrNull(value: unknown): number | null {
  const ms = typeof value === 'string' ? Date.parse(value) : Number.NaN
  return Number.isNaN(ms) ? null : ms
}
const moment = (value: unknown): number => momentOrNull(value) ?? Number.NaN

function blocker(value: unknown): BlockerRow | null {
  const { code, reason, next_try_at } = object(value)
  return code === undefined
    ? null
    : { code: text(code), reason: text(reason), next_try_at_ms: momentOrNull(next_try_at) }
}

export const toOrder = (row: Json, project: string): OrderRow => ({
  id: text(row.id),
  project,
  state: text(row.state),
  partial: row.partial === true,
  policy: text(row.policy),
  at_least: numberOrNull(row.at_least),
  count: numberOrNull(row.count) ?? 0,
  lease_id: textOrNull(row.lease_id),
  deployment_id: textOrNull(object(row.deployment).id),
  created_at_ms: moment(row.created_at),
  hold: row.hold === true,
  healing: text(row.healing) || 'none',
  blocker: blocker(row.blocker),
})

export const toInstance = (row: Json, project: string): InstanceRow => ({
  id: text(row.id),
  project,
  order_id: textOrNull(row.order_id),
  state: text(row.state),
  wish: text(row.wish),
  created_at_ms: moment(row.created_at),
  cloud: textOrNull(row.cloud),
  provider_id: textOrNull(row.provider_id),
  blocker: blocker(row.blocker),
})

export const toAttempt = (row: Json, order_id: string): AttemptRow => ({
  id: text(row.id),
  order_id,
  item: `${order_id}#${text(row.item)}`,
  instance_id: textOrNull(row.instance_id),
  cloud: textOrNull(row.cloud),
  state: text(row.state),
})

export const toLease = (row: Json, project: string): LeaseRow => ({
  id: text(row.id),
  project,
  state: text(row.state),
  start_at_ms: moment(row.start_at),
  end_at_ms: moment(row.end_at),
  before_end_at_ms: momentOrNull(row.before_end_at),
  order_id: textOrNull(row.order_id),
  blocker: blocker(row.blocker),
})

export const toHook = (row: Json, project: string): HookRow => ({
  id: text(row.id),
  project,
  state: text(row.state),
  format: text(row.format) || 'json',
  filter: object(row.filter),
})

/** An event, flat or as hooks get it (`timestamp` and `data`). */
export function toEvent(row: Json, project: string): EventRow {
  const data = { ...row, ...object(row.data) } as Json
  const resource_type = text(data.resource_type)
  return {
    id: text(row.id),
    project: resource_type === 'cloud' || row.project === null || row.project_id === null ? null : project,
    resource_type,
    resource_id: text(data.resource_id),
    sequence: numberOrNull(data.sequence) ?? Number.NaN,
    type: text(row.type),
    from: textOrNull(data.from ?? data.from_state),
    to: textOrNull(data.to ?? data.to_state),
    at_ms: moment(row.timestamp ?? row.at),
    cause: object(data.cause),
    ...(data.snapshot === undefined ? {} : { snapshot: object(data.snapshot) }),
  }
}

export const toDelivery = (row: Json): DeliveryRow => ({
  id: text(row.id),
  hook_id: text(row.hook_id ?? object(row.hook).id),
  event_id: text(row.event_id ?? object(row.event).id),
  state: text(row.state),
  reason: textOrNull(row.reason),
})

export const toCloud = (row: Json): CloudRow => ({ name: text(row.name), claimed: numberOrNull(row.allocation_used) })

/** What actions of instances and of deployments have in common. */
const anyAction = (row: Json) => ({
  id: text(row.id),
  number: numberOrNull(row.number) ?? Number.NaN,
  action: text(row.action),
  state: text(row.state),
  error: row.error ? JSON.stringify(row.error) : null,
  created_at_ms: moment(row.created_at),
  finished_at_ms: momentOrNull(row.finished_at),
})

export const toAction = (row: Json): ActionRow => ({
  ...anyAction(row),
  instance_id: text(row.instance_id),
  reboot: textOrNull(row.reboot),
  deployment_action_id: textOrNull(row.deployment_action_id),
})

export const toDeploymentAction = (row: Json): DeploymentActionRow => ({
  ...anyAction(row),
  deployment_id: text(row.deployment_id),
  wave_size: numberOrNull(row.wave_size),
  counts: object(row.counts) as Readonly<Record<string, number>>,
})

export function toReceipt(row: Json): ReceiptRow {
  const count = (name: string): number => numberOrNull(row[name]) ?? Number.NaN
  return {
    order_id: text(row.order_id),
    complete: row.complete === true,
    made: count('made'),
    undone: count('undone'),
    remaining: count('remaining'),
    released: count('released'),
    unknown: count('unknown'),
    unknown_until_ms: momentOrNull(row.unknown_until),
    machines: (Array.isArray(row.machines) ? row.machines : []).map(object).map((machine) => ({
      cloud: text(machine.cloud),
      provider_id: text(machine.provider_id),
      fate: text(machine.fate),
      confirmed_at_ms: momentOrNull(machine.confirmed_at),
    })),
  }
}
