/**
 * The clock of the host is set back by an hour, and right again, while orders, leases and deliveries are under way:
 * PostgreSQL's, and the one of our processes. Temporal and the clouds, elsewhere, keep theirs. What has a date keeps it,
 * by the new clock; everything else goes on at once; nothing happens early or twice.
 */
import type { ChildProcess } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { CloudControl, endProcess, spawnSimulatedCloud } from '../providers/simulated-control.ts'
import { getLease, submitLease, submitOrder, untilLease, untilOrder } from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

const HOUR_MS = 3_600_000
const wait = (what: string) => ({ what, timeout_ms: 90_000, interval_ms: 50 })

let h: Harness
let project: Project
let receiver: Receiver
let simulated: { url: string; process: ChildProcess }
let control: CloudControl
let folder: string
let admin: pg.Client

/** A clock of the database's own, found before the real one. */
const FAKED = `
create schema faked;
create table faked.shift (by interval not null);
insert into faked.shift values ('0');
create function faked.clock_timestamp() returns timestamptz language sql volatile as
  'select pg_catalog.clock_timestamp() + (select by from faked.shift)';
do $$ declare place record; begin
  for place in select table_name, column_name from information_schema.columns
    where table_schema = 'public' and column_default = 'clock_timestamp()'
  loop
    execute format('alter table public.%I alter %I set default faked.clock_timestamp()', place.table_name, place.column_name);
  end loop;
  execute format('alter database %I set search_path = faked, pg_catalog, public', current_database());
end $$`

async function setClock(by_ms: number): Promise<void> {
  vi.useFakeTimers({ toFake: ['Date'] })
  vi.setSystemTime(performance.timeOrigin + performance.now() + by_ms)
  // Set once, a faked Date stands still; ours has to go on from there.
  const base = performance.now()
  const at = Date.now()
  Date.now = () => Math.round(at + performance.now() - base)
  await admin.query(`update faked.shift set by = interval '${by_ms} ms'`)
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clock-'))
  simulated = await spawnSimulatedCloud(folder)
  h = await startHarness()
  await h.stopService()
  admin = new pg.Client({ connectionString: h.database_url })
  admin.on('error', () => {})
  await admin.connect()
  await admin.query(FAKED)
  await admin.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
  )
  await waitFor(async () => {
    await h.startService()
    return true
  }, wait('the service to be back'))
  project = await h.project()
  receiver = await startReceiver()
  control = new CloudControl(simulated.url, 'clock')
  await control.configure({ boot_latency_ms: 6_000 })
  await h.operator.post('/api/clouds', {
    name: 'clock',
    provider: 'simulated',
    endpoint: control.endpoint,
    sizes: { small: 'm1.small' },
    images: { debian: 'debian-13' },
    settings: { settle_ms: 5_000, call_timeout_ms: 1_000, calls_per_s: 50 },
  })
  await h.operator.put(`/api/clouds/clock/grants/${project.name}`, undefined)
  const { body } = await project.api.post<{ hook: { secret: string } }>('/api/hooks', { uri: receiver.uri })
  receiver.secrets = [body.hook.secret]
})
afterAll(async () => {
  vi.useRealTimers()
  await admin?.end()
  await h?.close()
  await receiver?.close()
  if (simulated) await endProcess(simulated.process, 'SIGTERM')
  await rm(folder, { recursive: true, force: true })
})

test('an hour back: dates are kept by the new clock, the rest goes on at once', async () => {
  const { rows } = await sql<{ path: string }>`select current_setting('search_path') as path`.execute(h.store.db)
  expect(rows).toEqual([{ path: 'faked, pg_catalog, public' }])
  await setClock(0)
  const before = new Set((await control.machines()).map(({ id }) => id))
  const order = { name: 'leased', count: 1 }
  const running = await submitLease(project, { end_in_ms: 40_000, order })
  await untilLease(project.api, running.id, ['ACTIVE'])
  const { order_id } = await getLease(project.api, running.id)
  await untilOrder(project.api, order_id!, ['running'])
  // All of this is under way when the clock is set back.
  receiver.answer = () => ({ status: 503 })
  const waiting = await submitLease(project, { start_in_ms: 25_000, end_in_ms: 2 * HOUR_MS })
  await control.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'hang' } })
  const unanswered = await submitOrder(project, { name: 'unanswered', count: 1 })
  const attempt = () =>
    h.store.db.selectFrom('launch_attempts').select('state').where('order_id', '=', unanswered.id).execute()
  await waitFor(async () => (await attempt())[0]?.state === 'unknown', wait('an unanswered create'))
  const starting = await submitOrder(project, { name: 'starting', count: 3 })
  await untilOrder(project.api, starting.id, ['settling'])
  const sent = receiver.ledger.length
  expect(sent).toBeGreaterThan(0)

  await setClock(-HOUR_MS)
  receiver.answer = () => ({ status: 200 })
  await Promise.all([starting, unanswered].map(({ id }) => untilOrder(project.api, id, ['running'])))
  const later = await submitOrder(project, { name: 'later', count: 1 })
  await untilOrder(project.api, later.id, ['running'])
  const mine = (id: string) =>
    receiver.ledger.filter((entry) => entry.resource === `order/${id}` && entry.status === 200)
  for (const { id } of [starting, unanswered, later])
    await waitFor(
      () => mine(id).some(({ body }) => JSON.parse(body.toString()).data.to === 'running'),
      wait(`the receiver to hear of order ${id}`),
    )
  // By the new clock both dates are an hour away.
  expect(await getLease(project.api, waiting.id)).toMatchObject({ state: 'PENDING' })
  expect(await getLease(project.api, running.id)).toMatchObject({ state: 'ACTIVE' })
  // Its timer is set for an hour and more: what wakes it in time is that the clock was set right. Nobody else would before
  // it is half a minute late.
  const planned_back = await submitLease(project, { start_in_ms: HOUR_MS + 30_000, end_in_ms: 3 * HOUR_MS })
  // What is signed before a jump and checked after it is refused, rightly.
  await waitFor(
    () => receiver.ledger.some(({ resource, status }) => resource === `lease/${planned_back.id}` && status === 200),
    wait('the receiver to hear of the planned lease'),
  )
  const machines = (await control.machines()).filter(({ id }) => !before.has(id))
  expect(machines.filter(({ gone_at }) => gone_at === null)).toHaveLength(1 + 3 + 1 + 1)

  await setClock(0)
  const started = await untilLease(project.api, waiting.id, ['ACTIVE'])
  const planned = await untilLease(project.api, planned_back.id, ['ACTIVE'])
  expect(planned.events.find(({ type }) => type === 'start_lease')!.late_ms).toBeLessThan(30_000)
  const ended = await waitFor(async () => {
    const lease = await getLease(project.api, running.id)
    return lease.state === 'TERMINATED' && lease
  }, wait('the lease to end'))
  for (const { status, late_ms } of [...started.events, ...planned.events, ...ended.events].filter(
    (event) => event.status === 'DONE',
  )) {
    expect(status).toBe('DONE')
    expect(late_ms).toBeGreaterThanOrEqual(0)
  }
  const { rows: acts } = await admin.query<{ type: string; count: string }>(
    "select type, count(*) from events where resource_type = 'lease' and type in ('lease.started', 'lease.ending') group by type, resource_id",
  )
  expect(acts.map(({ count }) => Number(count))).toEqual(acts.map(() => 1))
  await waitFor(
    () => receiver.ledger.some(({ type, status }) => type === 'lease.ended' && status === 200),
    wait('the end to be told'),
  )
  expect(receiver.judge()).toMatchObject({ gaps: 0, inversions: 0, bad_signatures: 0 })
}, 300_000)
