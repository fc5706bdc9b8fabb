/** What tests of flows say over and over: submit, wait for a state, look at the machines. */
import type { ApiClient } from './api-client.ts'
import type { Project } from './harness.ts'
import { waitFor } from './wait-for.ts'

export interface ShownOrder {
  readonly id: string
  readonly name: string
  readonly state: string
  readonly partial: boolean
  readonly counts: Readonly<Record<string, number>>
  readonly blocker: { readonly code: string; readonly reason: string } | null
  readonly deployment: { readonly id: string }
  readonly sequence: number
}
export interface ShownInstance {
  readonly id: string
  readonly state: string
  readonly cloud: string | null
  readonly provider_id: string | null
}
export interface ShownLease {
  readonly id: string
  readonly state: string
  readonly order_id: string | null
  readonly blocker: { readonly code: string; readonly reason: string } | null
  readonly overstayed_ms: number | null
  readonly hosts: { readonly cloud: string; readonly count: number; readonly names: readonly string[] } | null
  readonly events: readonly { readonly type: string; readonly status: string; readonly late_ms: number | null }[]
}

/** Generous: settled within this, or the test fails. */
export const SETTLE_TIMEOUT_MS = 45_000
const INTERVAL_MS = 50

export async function submitOrder(project: Project, order: Record<string, unknown>): Promise<ShownOrder> {
  const body = { name: 'web', count: 2, size: 'small', image: 'debian', ...order }
  return (await project.api.post<{ launch_order: ShownOrder }>('/api/launch-orders', body)).body.launch_order
}

export async function getOrder(api: ApiClient, id: string): Promise<ShownOrder> {
  return (await api.get<{ launch_order: ShownOrder }>(`/api/launch-orders/${id}`)).body.launch_order
}

/** Waits until the order is in one of these states. */
export function untilOrder(api: ApiClient, id: string, states: readonly string[]): Promise<ShownOrder> {
  return waitFor(
    async () => {
      const order = await getOrder(api, id)
      return states.includes(order.state) ? order : null
    },
    { what: `order ${id} to be ${states.join(' or ')}`, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: INTERVAL_MS },
  ) as Promise<ShownOrder>
}

export async function instancesOf(api: ApiClient, order_id: string): Promise<ShownInstance[]> {
  const path = `/api/launch-orders/${order_id}/instances?limit=100`
  return (await api.get<{ instances: ShownInstance[] }>(path)).body.instances
}

export async function getInstance(api: ApiClient, id: string): Promise<ShownInstance> {
  return (await api.get<{ instance: ShownInstance }>(`/api/instances/${id}`)).body.instance
}

export function untilInstance(api: ApiClient, id: string, states: readonly string[]): Promise<ShownInstance> {
  return waitFor(
    async () => {
      const instance = await getInstance(api, id)
      return states.includes(instance.state) ? instance : null
    },
    { what: `instance ${id} to be ${states.join(' or ')}`, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: INTERVAL_MS },
  ) as Promise<ShownInstance>
}

/** A lease whose moments are given in ms from now. */
export async function submitLease(
  project: Project,
  lease: {
    start_in_ms?: number
    end_in_ms: number
    before_end_in_ms?: number
    order?: Record<string, unknown>
    hosts?: { cloud: string; count: number }
    name?: string
  },
): Promise<ShownLease> {
  const at = (ms: number) => new Date(Date.now() + ms).toISOString()
  const { body } = await project.api.post<{ lease: ShownLease }>('/api/leases', {
    name: lease.name ?? 'night',
    start_at: lease.start_in_ms === undefined ? 'now' : at(lease.start_in_ms),
    end_at: at(lease.end_in_ms),
    ...(lease.before_end_in_ms === undefined ? {} : { before_end_at: at(lease.before_end_in_ms) }),
    ...(lease.order ? { order: { name: 'leased', count: 1, size: 'small', image: 'debian', ...lease.order } } : {}),
    ...(lease.hosts ? { hosts: lease.hosts } : {}),
  })
  return body.lease
}

export async function getLease(api: ApiClient, id: string): Promise<ShownLease> {
  return (await api.get<{ lease: ShownLease }>(`/api/leases/${id}`)).body.lease
}

export function untilLease(api: ApiClient, id: string, states: readonly string[]): Promise<ShownLease> {
  return waitFor(
    async () => {
      const lease = await getLease(api, id)
      return states.includes(lease.state) ? lease : null
    },
    { what: `lease ${id} to be ${states.join(' or ')}`, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: INTERVAL_MS },
  ) as Promise<ShownLease>
}

export interface ShownAction {
  readonly id: string
  readonly action: string
  readonly state: string
  readonly error: { readonly class: string; readonly message: string } | null
}

export async function actOn(api: ApiClient, instance_id: string, body: Record<string, unknown>): Promise<ShownAction> {
  return (await api.post<{ action: ShownAction }>(`/api/instances/${instance_id}/actions`, body)).body.action
}

/** Waits until no action of an instance is open; they come oldest first. */
export function untilActed(api: ApiClient, instance_id: string): Promise<ShownAction[]> {
  return waitFor(
    async () => {
      const { body } = await api.get<{ actions: ShownAction[] }>(`/api/instances/${instance_id}/actions`)
      const open = body.actions.some(({ state }) => state === 'queued' || state === 'running')
      return open ? null : body.actions.toReversed()
    },
    { what: `the actions of ${instance_id} to end`, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: INTERVAL_MS },
  ) as Promise<ShownAction[]>
}

export interface ShownDeploymentAction {
  readonly id: string
  readonly action: string
  readonly state: string
  readonly wave: number
  readonly counts: Readonly<Record<string, number>>
  readonly error: { readonly class: string; readonly message: string } | null
}

export async function actOnDeployment(
  api: ApiClient,
  deployment_id: string,
  body: Record<string, unknown>,
): Promise<ShownDeploymentAction> {
  const path = `/api/deployments/${deployment_id}/actions`
  return (await api.post<{ action: ShownDeploymentAction }>(path, body)).body.action
}

/** Waits until no action of a deployment is open; they come oldest first. */
export function untilDeploymentActed(api: ApiClient, deployment_id: string): Promise<ShownDeploymentAction[]> {
  return waitFor(
    async () => {
      const { body } = await api.get<{ actions: ShownDeploymentAction[] }>(`/api/deployments/${deployment_id}/actions`)
      return body.actions.some(({ state }) => state === 'running') ? null : body.actions.toReversed()
    },
    { what: `the actions of ${deployment_id} to end`, timeout_ms: 2 * SETTLE_TIMEOUT_MS, interval_ms: INTERVAL_MS },
  ) as Promise<ShownDeploymentAction[]>
}
