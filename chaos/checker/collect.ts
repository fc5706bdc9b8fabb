/** Reads the ledgers, over HTTP only: the record through the service's API, the clouds through the simulated cloud's. */
import { setTimeout as delay } from 'node:timers/promises'
import type { ClientEntry, EventRow, Ledgers, ReceiverLedger, RecordLedger, RecordPart } from './ledgers.ts'
import {
  actionsOf,
  attemptsOf,
  deploymentActionsOf,
  type Json,
  LISTS,
  type List,
  object,
  PAGE_ROWS,
  receiptOf,
  textOrNull,
  toAction,
  toAttempt,
  toCloud,
  toDelivery,
  toDeploymentAction,
  toEvent,
  toHook,
  toInstance,
  toLease,
  toOrder,
  toReceipt,
} from './shapes.ts'
import { readCloud } from './simulated-ledger.ts'

export interface CollectNeeds {
  readonly api_url: string
  /** One for each project whose record is judged; an operator's shows the installation's events, too. */
  readonly projects: readonly { readonly name: string; readonly token: string }[]
  /** Address of the simulated cloud's server. */
  readonly simulated_url: string
  readonly cloud_names: readonly string[]
  readonly receivers: readonly ReceiverLedger[]
  readonly client: readonly ClientEntry[]
  readonly installation_id?: string
}

const CALL_TIMEOUT_MS = 30_000
const TRIES = 5
const PAUSE_MS = 500

/** Reads everything there is to judge. What a token may not see is left out and named in `record.unseen`. */
export async function collect(needs: CollectNeeds): Promise<Ledgers> {
  const { client, receivers, installation_id } = needs
  const read_since_ms = Date.now()
  const record = await readRecord(needs)
  const clouds = await Promise.all(needs.cloud_names.map((name) => readCloud(needs.simulated_url, name, get)))
  return {
    read_since_ms,
    collected_at_ms: Date.now(),
    ...(installation_id === undefined ? {} : { installation_id }),
    client,
    receivers,
    clouds,
    record,
  }
}

async function readRecord({ api_url, projects, client }: CollectNeeds): Promise<RecordLedger> {
  const unseen = new Set<RecordPart>()
  const readAll = async <Row>(part: RecordPart, list: List, make: (row: Json, project: string) => Row) => {
    const found: Row[] = []
    for (const { name, token } of projects) {
      const rows = await readList(api_url, list, token)
      if (rows) for (const row of rows) found.push(make(row, name))
      else unseen.add(part)
    }
    return found
  }
  const orders = await readAll('orders', LISTS.orders, toOrder)
  const token_of = new Map(projects.map(({ name, token }) => [name, token]))
  /** One list of each of the resources. */
  const readOf = async <Row>(
    part: RecordPart,
    resources: Iterable<{ readonly id: string; readonly project: string }>,
    listOf: (id: string) => List,
    make: (row: Json, id: string) => Row,
  ) => {
    const found: Row[] = []
    for (const { id, project } of resources) {
      const rows = await readList(api_url, listOf(id), token_of.get(project)!)
      if (rows) for (const row of rows) found.push(make(row, id))
      else unseen.add(part)
    }
    return found
  }
  const attempts = await readOf('attempts', orders, attemptsOf, toAttempt)
  const events = await readAll('events', LISTS.events, toEvent)
  const clouds = await readAll('clouds', LISTS.clouds, toCloud)
  const instances = await readAll('instances', LISTS.instances, toInstance)
  const is_asked = askedOf(events, client)
  const deployments = new Map(orders.map(({ deployment_id: id, project }) => [id, { id: id ?? '', project }]))
  const acted = instances.filter(({ id }) => is_asked(id))
  const acted_on = [...deployments.values()].filter(({ id }) => is_asked(id))
  return {
    orders,
    attempts,
    instances,
    actions: await readOf('actions', acted, actionsOf, toAction),
    deployment_actions: await readOf('deployment_actions', acted_on, deploymentActionsOf, toDeploymentAction),
    receipts: await readOf('receipts', orders, receiptOf, toReceipt),
    leases: await readAll('leases', LISTS.leases, toLease),
    hooks: await readAll('hooks', LISTS.hooks, toHook),
    deliveries: await readAll('deliveries', LISTS.deliveries, toDelivery),
    // What belongs to the whole installation is shown to several projects.
    events: firstOfEach(events, (event) => event.id),
    clouds: firstOfEach(clouds, (cloud) => cloud.name),
    unseen: [...unseen],
  }
}

/** Whether anything was asked of a resource, as its events or a client tell it. */
function askedOf(events: readonly EventRow[], client: readonly ClientEntry[]): (id: string) => boolean {
  const wished = events.filter(({ type }) => type.endsWith('.wish_changed'))
  const ids = new Set([...wished, ...client].map(({ resource_id }) => resource_id))
  return (id) => ids.has(id)
}

function firstOfEach<Row>(rows: readonly Row[], keyOf: (row: Row) => string): Row[] {
  const known = new Set<string>()
  return rows.filter((row) => !known.has(keyOf(row)) && known.add(keyOf(row)))
}

/** All rows of a list, page by page, or the one thing there is; null: the token may not see it, or there is no such list. */
async function readList(api_url: string, list: List, token: string): Promise<Json[] | null> {
  const rows: Json[] = []
  let cursor: string | null = null
  for (;;) {
    const address = new URL(list.path, api_url)
    if (list.cursor !== null) address.searchParams.set('limit', String(PAGE_ROWS))
    // An empty `after` lists oldest first, from the beginning.
    if (list.cursor === 'after' || (list.cursor && cursor)) address.searchParams.set(list.cursor, cursor ?? '')
    const response = await get(address, token)
    if (response.status === 401 || response.status === 403 || response.status === 404) return null
    if (!response.ok) throw new Error(`GET ${address.pathname} answered ${response.status}: ${await response.text()}`)
    const page = object(await response.json())
    const field = page[list.field]
    const found = (Array.isArray(field) ? field : field === undefined ? [] : [field]).map(object)
    rows.push(...found)
    const next = textOrNull(page.next)
    if (list.cursor === null || next === null || next === cursor || !found.length) return rows
    cursor = next
  }
}

/** GET, tried again while the connection fails or the service is not ready. */
async function get(address: URL, token?: string): Promise<Response> {
  for (let tries = 1; ; tries++) {
    try {
      const response = await fetch(address, {
        signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
        headers: { accept: 'application/json', ...(token ? { authorization: `Bearer ${token}` } : {}) },
      })
      if (response.status !== 503 || tries >= TRIES) return response
      await response.body?.cancel()
    } catch (error) {
      if (tries >= TRIES) throw new Error(`GET ${address.href} failed ${tries} times`, { cause: error })
    }
    await delay(PAUSE_MS * tries)
  }
}
