/** The collector against a real simulated cloud, and a small API that pages. */
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { collect } from '../../chaos/checker/collect.ts'
import { judge } from '../../chaos/checker/judge.ts'
import type { Ledgers } from '../../chaos/checker/ledgers.ts'
import { startSimulatedCloud } from '../../providers/simulated/server.ts'

const BLOCKER = { code: 'cloud_disabled', reason: 'all are disabled', since: '2026-01-01T00:00:00.000Z' }
const AT = '2026-01-01T00:00:01.500Z'
const event = (number: number) => ({
  id: `evt_${number}`,
  type: 'order.created',
  timestamp: AT,
  data: {
    resource_type: 'order',
    resource_id: 'one',
    sequence: number,
    from: null,
    to: 'held',
    cause: { actor: { user_id: 'u', request_id: 'r' } },
    snapshot: { name: 'one' },
  },
})
/** What the API shows; each list in pages of two. */
const LISTS: Record<string, { field: string; rows: unknown[] }> = {
  '/api/launch-orders': {
    field: 'launch_orders',
    rows: [
      {
        id: 'one',
        state: 'held',
        partial: false,
        policy: 'any',
        count: 1,
        deployment: { id: 'fleet' },
        blocker: BLOCKER,
      },
    ],
  },
  '/api/launch-orders/one/attempts': {
    field: 'attempts',
    rows: [{ id: 'attempt-1', item: 1, instance_id: 'instance-1', cloud: 'east', state: 'surplus' }],
  },
  '/api/instances': {
    field: 'instances',
    rows: [{ id: 'instance-1', order_id: 'one', state: 'pending', cloud: null, provider_id: null, blocker: null }],
  },
  '/api/instances/instance-1/actions': {
    field: 'actions',
    rows: [
      {
        id: 'action-1',
        instance_id: 'instance-1',
        number: 1,
        action: 'stop',
        reboot: null,
        state: 'failed',
        error: {},
        created_at: AT,
      },
    ],
  },
  '/api/deployments/fleet/actions': {
    field: 'actions',
    rows: [
      {
        id: 'action-2',
        deployment_id: 'fleet',
        action: 'stop',
        wave_size: 2,
        state: 'done',
        counts: { done: 1 },
        created_at: AT,
      },
    ],
  },
  '/api/launch-orders/one/receipt': {
    field: 'receipt',
    rows: [{ order_id: 'one', made: 1, machines: [{ cloud: 'east', provider_id: 'm', fate: 'remains' }] }],
  },
  '/api/leases': {
    field: 'leases',
    rows: [{ id: 'lease-1', state: 'PENDING', start_at: '2100-01-01T00:00:00Z', end_at: AT, before_end_at: null }],
  },
  '/api/hooks': { field: 'hooks', rows: [] },
  '/api/deliveries': {
    field: 'deliveries',
    rows: [{ id: 7, hook_id: 'h', event_id: 'evt_1', state: 'waiting', reason: 'order' }],
  },
  '/api/events': { field: 'events', rows: [1, 2, 3, 4, 5].map(event) },
}

let api: Server
let api_url: string
let folder: string
let simulated: Awaited<ReturnType<typeof startSimulatedCloud>>
const asked: string[] = []

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chaos-'))
  simulated = await startSimulatedCloud({ port: 0, data: folder })
  api = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://api')
    asked.push(`${request.headers.authorization} ${pathname}`)
    const list = LISTS[pathname]
    response.writeHead(list ? 200 : 404, { 'content-type': 'application/json' })
    if (!list) return response.end('{}')
    if (list.field === 'hooks' && searchParams.size) throw new Error('the list of hooks takes no query')
    const from = Number(searchParams.get('after') ?? searchParams.get('cursor') ?? 0)
    const next = from + 2 < list.rows.length ? String(from + 2) : null
    if (list.field === 'receipt') return response.end(JSON.stringify({ receipt: list.rows[0] }))
    return response.end(JSON.stringify({ [list.field]: list.rows.slice(from, from + 2), next }))
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => api.once('listening', resolve))
  api_url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`
})

afterAll(async () => {
  api.close()
  await simulated.close()
  await rm(folder, { recursive: true, force: true })
})

describe('collect', () => {
  let ledgers: Ledgers

  beforeAll(async () => {
    const control = `${simulated.url}/control/clouds/east`
    const call = async (method: string, url: string, body: unknown): Promise<Record<string, unknown>> => {
      const response = await fetch(url, { method, body: JSON.stringify(body) })
      return (await response.json().catch(() => ({}))) as Record<string, unknown>
    }
    await call('PUT', control, { boot_latency_ms: 0, delete_latency_ms: 0, idempotency_tokens: true })
    const data = `${simulated.url}/clouds/east/machines`
    const tags = { holdfast_installation: 'i', holdfast_attempt: 'attempt-1' }
    const make = { name: 'one', size: 'm1.small', image: 'debian-13', tags }
    const made = await call('POST', data, make)
    const id = String((made.machine as { id?: string } | undefined)?.id ?? made.id)
    await delay(50)
    await call('POST', `${data}/${id}/reboot`, { kind: 'hard' })
    await call('DELETE', `${data}/${id}`, undefined)
    const other = await call('POST', data, { ...make, tags: { ...tags, holdfast_attempt: 'attempt-2' } })
    const other_id = String((other.machine as { id?: string } | undefined)?.id ?? other.id)
    await delay(50)
    await call('POST', `${control}/machines/${other_id}/die`, undefined)
    ledgers = await collect({
      api_url,
      projects: [{ name: 'red', token: 'secret' }],
      simulated_url: simulated.url,
      cloud_names: ['east'],
      receivers: [],
      client: ['instance-1', 'fleet'].map((resource_id) => ({
        kind: 'action',
        resource_id,
        sent_at_ms: 1,
        at_ms: 2,
        status: 202,
      })),
    })
  })

  test('pages through every list with the token', () => {
    expect(ledgers.record.events.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4, 5])
    expect(asked.every((line) => line.startsWith('Bearer secret '))).toBe(true)
    expect(asked.filter((line) => line.endsWith('/api/events'))).toHaveLength(3)
  })

  test('reads the rows of the record', () => {
    const { orders, attempts, instances, leases, deliveries, events } = ledgers.record
    expect(orders[0]).toMatchObject({ id: 'one', project: 'red', count: 1, blocker: { code: 'cloud_disabled' } })
    expect(attempts[0]).toEqual({
      id: 'attempt-1',
      order_id: 'one',
      item: 'one#1',
      instance_id: 'instance-1',
      cloud: 'east',
      state: 'surplus',
    })
    expect(instances[0]).toMatchObject({ id: 'instance-1', order_id: 'one', provider_id: null })
    expect(leases[0]).toMatchObject({ end_at_ms: Date.parse(AT), before_end_at_ms: null })
    expect(deliveries[0]).toEqual({ id: '7', hook_id: 'h', event_id: 'evt_1', state: 'waiting', reason: 'order' })
    expect(events[0]).toMatchObject({ at_ms: Date.parse(AT), resource_id: 'one', to: 'held', project: 'red' })
  })

  test('reads actions of what was acted on, and receipts', () => {
    const { actions, deployment_actions, receipts } = ledgers.record
    expect(actions).toMatchObject([
      { id: 'action-1', instance_id: 'instance-1', number: 1, action: 'stop', error: '{}' },
    ])
    expect(deployment_actions).toMatchObject([{ deployment_id: 'fleet', wave_size: 2, counts: { done: 1 } }])
    expect(receipts).toMatchObject([{ order_id: 'one', made: 1, machines: [{ cloud: 'east', fate: 'remains' }] }])
  })

  test('names what could not be read', () => {
    expect(ledgers.record.unseen).toEqual(['clouds'])
  })

  test('reads the lives of machines and what was asked of them', () => {
    const [cloud] = ledgers.clouds
    expect(cloud).toMatchObject({ name: 'east', idempotency_tokens: true })
    const [first, second] = cloud!.machines
    expect(first).toMatchObject({
      attempt_id: 'attempt-1',
      installation_id: 'i',
      state: 'terminated',
      failed_at_ms: null,
    })
    expect(first!.gone_at_ms).toBeGreaterThanOrEqual(first!.delete_requested_at_ms!)
    expect(second).toMatchObject({ attempt_id: 'attempt-2', state: 'failed', gone_at_ms: null })
    expect(second!.failed_at_ms).toBeGreaterThanOrEqual(second!.running_at_ms!)
    expect(first!.states.map(({ state }) => state)).toEqual([
      'pending',
      'running',
      'rebooting',
      'terminating',
      'terminated',
    ])
    expect(
      cloud!.requests.map(({ verb, attempt_id, machine_id, reboot }) => [verb, attempt_id, machine_id, reboot]),
    ).toEqual([
      ['create', 'attempt-1', null, undefined],
      ['reboot', null, first!.provider_id, 'hard'],
      ['delete', null, first!.provider_id, undefined],
      ['create', 'attempt-2', null, undefined],
    ])
  })

  test('gives what the judge takes', () => {
    const later = { ...ledgers, collected_at_ms: ledgers.collected_at_ms + 60_000 }
    const verdict = judge(later, { settle_ms: 1_000, watch_period_ms: 1_000 })
    expect(verdict).toMatchObject({ ok: false, leaked: 1, unjudged: ["the record's clouds were not to be read"] })
  })
})
