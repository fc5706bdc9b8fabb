/** The proof of a resource's events, checked as an outsider does: HTTP and a hash, nothing of ours. */
import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { recordEvents } from '../../store/events.ts'
import type { ApiClient } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'

interface Event {
  cursor: string | null
  sequence: number
  [field: string]: unknown
}
interface Proof {
  proof: { first: number; last: number; count: number; gap_free: boolean; digest: string }
  chain: { sequence: number; event_id: string; digest: string; text: string }[]
  next: string | null
}

let server: ApiServer
let api: ApiClient

beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  await server.cloud('east', ['web'])
})
afterAll(() => server.close())

/** What is wrong with events received, by the proof of their resource; undefined: nothing. */
async function fault(events: readonly Event[], path: string): Promise<string | undefined> {
  const chain: Proof['chain'] = []
  let { proof, ...page } = (await api.get<Proof>(`${path}/proof?limit=2`)).body
  for (;;) {
    chain.push(...page.chain)
    if (page.next === null) break
    ;({ proof, ...page } = (await api.get<Proof>(`${path}/proof?limit=2&cursor=${page.next}`)).body)
  }
  if (!proof.gap_free || proof.count !== chain.length) return 'the chain has a gap'
  const received = new Map(events.map(({ cursor: _, ...event }) => [event.sequence, event]))
  let digest = Buffer.alloc(0)
  for (const link of chain) {
    if (!isDeepStrictEqual(JSON.parse(link.text), received.get(link.sequence)))
      return `${link.sequence} is not as received`
    digest = createHash('sha256').update(digest).update(link.text).digest()
    if (digest.toString('hex') !== link.digest) return `${link.sequence} is not what was hashed`
  }
  return digest.toString('hex') === proof.digest ? undefined : 'the last digest is another'
}

async function orderWithEvents(): Promise<{ id: string; events: Event[] }> {
  const { body } = await api.post<{ launch_order: { id: string } }>('/api/launch-orders', {
    name: 'Ünïcode "quoted" \\ 名前 \u2028',
    size: 'small',
    image: 'debian',
  })
  const { id } = body.launch_order
  const { project_id } = await server.store.db
    .selectFrom('launch_orders')
    .select('project_id')
    .where('id', '=', id)
    .executeTakeFirstOrThrow()
  for (let sequence = 2; sequence <= 5; sequence++) {
    await server.store.db.transaction().execute((trx) =>
      recordEvents(trx, [
        {
          project_id,
          resource_type: 'order',
          resource_id: id,
          sequence,
          type: 'order.told',
          snapshot: {
            number: 1e-7 * sequence,
            big: 2 ** 53,
            whole: 1.0,
            nothing: null,
            z: { b: [1, '/'], aa: {} },
            a: '\t\u007f',
          },
          cause: { rule: 'test', reason: 'so', evidence: { '': true, é: 0.1 } },
        },
      ]),
    )
  }
  // A number as only PostgreSQL writes it.
  await sql`insert into events (project_id, resource_type, resource_id, sequence, type, snapshot, cause)
    values (${project_id}, 'order', ${id}, 6, 'order.told', '{"at": 1.5000, "far": 1e30}', '{"rule": "test", "reason": "so"}')`.execute(
    server.store.db,
  )
  await server.stamp()
  const { events } = (await api.get<{ events: Event[] }>(`/api/events?after=&resource_id=${id}`)).body
  return { id, events }
}

test('the chain can be computed again from what was received, and shows every change, gap and exchange', async () => {
  const { id, events } = await orderWithEvents()
  const path = `/api/launch-orders/${id}`
  const { proof } = (await api.get<Proof>(`${path}/proof`)).body
  expect(proof).toMatchObject({ resource_type: 'order', resource_id: id, first: 1, last: 6, count: 6, gap_free: true })
  expect(events).toHaveLength(6)
  expect(await fault(events, path)).toBeUndefined()
  expect(await fault(events.slice(0, -1), path)).toBe('6 is not as received')
  expect(await fault(events.toSpliced(2, 1), path)).toBe('3 is not as received')
  expect(await fault(events.with(3, { ...events[3]!, to: 'running' }), path)).toBe('4 is not as received')

  const change = (text: string) => sql.raw(text).execute(server.store.db)
  await change(`update events set snapshot = '{}' where resource_id = '${id}' and sequence = 2`)
  const changed = (await api.get<{ events: Event[] }>(`/api/events?after=&resource_id=${id}`)).body.events
  expect(await fault(changed, path)).toBe('2 is not what was hashed')
  await change(`delete from deliveries; delete from events where resource_id = '${id}' and sequence = 4`)
  expect(await fault(changed, path)).toBe('the chain has a gap')
})

test('every noun has one, with the digest that stands behind its newest event', async () => {
  const { id } = await orderWithEvents()
  const { launch_order } = (await api.get<{ launch_order: { deployment: { id: string } } }>(`/api/launch-orders/${id}`))
    .body
  const [instance] = (await api.get<{ instances: { id: string }[] }>(`/api/launch-orders/${id}/instances`)).body
    .instances
  const hook = (await api.post<{ hook: { id: string } }>('/api/hooks', { uri: 'https://example.com/e' })).body.hook
  const moments = { start_at: '2099-01-01T00:00:00.000Z', end_at: '2099-01-02T00:00:00.000Z' }
  const lease = (await api.post<{ lease: { id: string } }>('/api/leases', { name: 'l', ...moments })).body.lease
  await server.stamp()
  for (const path of [
    `instances/${instance!.id}`,
    `deployments/${launch_order.deployment.id}`,
    `leases/${lease.id}`,
    `hooks/${hook.id}`,
    'clouds/east',
  ]) {
    const { proof, chain, next } = (await api.get<Proof>(`/api/${path}/proof`)).body
    expect(proof, path).toMatchObject({ first: 1, gap_free: true, digest: chain.at(-1)!.digest })
    expect(next).toBeNull()
  }
})

test('an event without a position yet is in the proof, and its text is the event', async () => {
  const { body } = await api.post<{ launch_order: { id: string } }>('/api/launch-orders', {
    name: 'n',
    size: 'small',
    image: 'debian',
  })
  const { chain } = (await api.get<Proof>(`/api/launch-orders/${body.launch_order.id}/proof`)).body
  const { cursor, ...event } = (await api.get<{ event: Event }>(`/api/events/${chain[0]!.event_id}`)).body.event
  expect(cursor).toBeNull()
  expect(JSON.parse(chain[0]!.text)).toEqual(event)
})
