/** The quickstart's job, done over HTTP like any caller's: what it asks for, and whether all of it came about. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

type Json = Record<string, unknown>

/** Calls of the API with a token; an answer of 400 and above is an error with its text. */
export class HoldfastApi {
  readonly #url: string
  readonly #token: string
  readonly #signal: AbortSignal
  constructor(url: string, token: string, signal: AbortSignal) {
    this.#url = url
    this.#token = token
    this.#signal = signal
  }

  async call<T = Json>(method: string, path: string, body?: unknown, tolerate: readonly number[] = []): Promise<T> {
    const response = await fetch(`${this.#url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.#token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: this.#signal,
    })
    const text = await response.text()
    if (!response.ok && !tolerate.includes(response.status))
      throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return (text ? JSON.parse(text) : {}) as T
  }
}

interface CloudExample {
  readonly configuration: Json
  readonly faults: readonly Json[]
  readonly account: Json
}

export interface Job {
  readonly api: HoldfastApi
  readonly receiver_url: string
  readonly hook_id: string
  readonly order_id: string
  readonly lease_id: string
}

const LEASE_STARTS_IN_MS = 1_500
const LEASE_LASTS_MS = 6_000

/** Registers the clouds of the examples and submits the examples. */
export async function startJob(
  api: HoldfastApi,
  simulated_url: string,
  receiver_url: string,
  examples: string,
): Promise<Job> {
  const example = async <T>(file: string): Promise<T> => JSON.parse(await readFile(join(examples, file), 'utf8')) as T
  await clearEarlier(api)
  await endEarlierOrders(api)
  const clouds = await example<Record<string, CloudExample>>('clouds.json')
  for (const [name, cloud] of Object.entries(clouds)) await openCloud(api, simulated_url, name, cloud)
  const { hook } = await api.call<{ hook: { id: string; secret: string } }>('POST', '/api/hooks', {
    uri: receiver_url,
    description: MARK,
  })
  await fetch(`${receiver_url}/secret`, { method: 'POST', body: hook.secret })
  const { launch_order } = await api.call<{ launch_order: { id: string } }>(
    'POST',
    '/api/launch-orders',
    await example('order.json'),
  )
  const now = Date.now()
  const { lease } = await api.call<{ lease: { id: string } }>('POST', '/api/leases', {
    name: 'night-lease',
    start_at: new Date(now + LEASE_STARTS_IN_MS).toISOString(),
    end_at: new Date(now + LEASE_STARTS_IN_MS + LEASE_LASTS_MS).toISOString(),
    before_end_at: new Date(now + LEASE_STARTS_IN_MS + LEASE_LASTS_MS / 2).toISOString(),
    order: await example('lease-order.json'),
  })
  return { api, receiver_url, hook_id: hook.id, order_id: launch_order.id, lease_id: lease.id }
}

/** By this description the quickstart knows its own hooks of earlier runs, whose receivers are gone. */
const MARK = 'quickstart'

async function clearEarlier(api: HoldfastApi): Promise<void> {
  const { hooks } = await api.call<{ hooks: { id: string; description: string | null }[] }>('GET', '/api/hooks')
  for (const hook of hooks) if (hook.description === MARK) await api.call('DELETE', `/api/hooks/${hook.id}`)
}

/** Machines of earlier runs would fill the small cloud. */
async function endEarlierOrders(api: HoldfastApi): Promise<void> {
  const { launch_orders } = await api.call<{ launch_orders: Shown[] }>('GET', '/api/launch-orders?limit=100')
  const open = launch_orders.filter((order) => order.name === 'web' && order.state === 'running')
  for (const order of open) await api.call('DELETE', `/api/launch-orders/${order.id}`)
  for (const order of open) {
    for (let state = ''; state !== 'terminated'; await delay(100)) {
      state = (await api.call<{ launch_order: Shown }>('GET', `/api/launch-orders/${order.id}`)).launch_order.state
    }
  }
}

async function openCloud(api: HoldfastApi, simulated_url: string, name: string, cloud: CloudExample): Promise<void> {
  const control = `${simulated_url}/control/clouds/${name}`
  const put = (path: string, method: string, body?: unknown) =>
    fetch(`${control}${path}`, { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) })
  await put('', 'PUT', cloud.configuration)
  await put('/faults', 'DELETE')
  for (const fault of cloud.faults) await put('/faults', 'POST', fault)
  const account = { name, provider: 'simulated', endpoint: `${simulated_url}/clouds/${name}`, ...cloud.account }
  const { name: _, provider: __, ...changes } = account
  const CONFLICT = 409
  const made = await api.call<{ error?: unknown }>('POST', '/api/clouds', account, [CONFLICT])
  if (made.error) await api.call('PATCH', `/api/clouds/${name}`, changes)
  await api.call('PUT', `/api/clouds/${name}/grants/default`)
}

export interface JobState {
  readonly rows: readonly (readonly [string, string, string, string, string])[]
  /** The rows in one line, for output that is not a terminal. */
  readonly line: string
  readonly ok: boolean
  /** What is not as promised (yet). */
  readonly missing: readonly string[]
  readonly counts: {
    readonly orders: Record<string, number>
    readonly instances: Record<string, number>
    readonly leases: Record<string, number>
    readonly deliveries: Record<string, number>
    readonly gaps: number
    readonly inversions: number
  }
}

interface Shown {
  readonly id: string
  readonly name: string
  readonly state: string
  readonly cloud?: string | null
  readonly blocker?: { readonly code: string } | null
  readonly order_id?: string | null
}

/** Reads where the job stands; done when order, lease, machines, deliveries and the receiver's own report say so. */
export async function jobState(job: Job): Promise<JobState> {
  const { api } = job
  const { launch_order: order } = await api.call<{ launch_order: Shown }>('GET', `/api/launch-orders/${job.order_id}`)
  const { lease } = await api.call<{ lease: Shown }>('GET', `/api/leases/${job.lease_id}`)
  const orders = [order]
  if (lease.order_id)
    orders.push((await api.call<{ launch_order: Shown }>('GET', `/api/launch-orders/${lease.order_id}`)).launch_order)
  const instances: Shown[] = []
  for (const { id } of orders) {
    instances.push(
      ...(await api.call<{ instances: Shown[] }>('GET', `/api/launch-orders/${id}/instances?limit=100`)).instances,
    )
  }
  const { deliveries } = await api.call<{ deliveries: { state: string }[] }>(
    'GET',
    `/api/deliveries?hook_id=${job.hook_id}&limit=100`,
  )
  const report = (await (await fetch(`${job.receiver_url}/report`)).json()) as {
    received: number
    gaps: number
    inversions: number
    duplicates: number
    refused: number
  }
  const counts = {
    orders: countBy(orders),
    instances: countBy(instances),
    leases: countBy([lease]),
    deliveries: countBy(deliveries),
    gaps: report.gaps,
    inversions: report.inversions,
  }
  const missing = [
    order.state === 'running' ? [] : [`order ${order.name} is ${order.state}, not running`],
    lease.state === 'TERMINATED' ? [] : [`lease ${lease.name} is ${lease.state}, not TERMINATED`],
    (counts.instances.running ?? 0) === 5 && (counts.instances.terminated ?? 0) === 2
      ? []
      : ['not five instances running and two terminated'],
    deliveries.every((delivery) => delivery.state === 'delivered') ? [] : ['deliveries are open'],
    report.gaps + report.inversions + report.duplicates + report.refused === 0
      ? []
      : [`the receiver reports ${JSON.stringify(report)}`],
    report.received >= deliveries.length ? [] : ['the receiver has not got everything'],
  ].flat()
  return {
    rows: rowsOf(orders, lease, instances),
    line: `order ${order.state}; lease ${lease.state}; instances ${text(counts.instances)}; deliveries ${text(counts.deliveries)}`,
    ok: missing.length === 0,
    missing,
    counts,
  }
}

function rowsOf(orders: readonly Shown[], lease: Shown, instances: readonly Shown[]): JobState['rows'] {
  const row = (kind: string, shown: Shown) =>
    [kind, shown.name, shown.state, shown.cloud ?? '', shown.blocker?.code ?? ''] as const
  return [
    ...orders.map((order) => row('order', order)),
    row('lease', lease),
    ...instances.map((instance) => row('instance', instance)),
  ]
}

function countBy(shown: readonly { state: string }[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { state } of shown) counts[state] = (counts[state] ?? 0) + 1
  return counts
}

const text = (counts: Record<string, number>): string =>
  Object.entries(counts)
    .map(([state, count]) => `${count} ${state}`)
    .join(', ') || 'none'
