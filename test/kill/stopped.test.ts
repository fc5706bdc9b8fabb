/**
 * A process that was stopped in the middle of everything and woken much later writes nothing stale: while it stood
 * still, another took over and the world went on. HOLDFAST_STOP_S lengthens its sleep.
 */
import { isDeepStrictEqual } from 'node:util'
import { sql } from 'kysely'
import { afterAll, expect, test } from 'vitest'
import { getLease, instancesOf, SETTLE_TIMEOUT_MS, untilInstance, untilLease, untilOrder } from '../support/flow.ts'
import { type ServiceProcess, startServiceProcess } from '../support/service-process.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

/** Longer than heartbeats (5 s), tasks of workflows (5 s) and the following of a deletion (10 s). */
const STOP_MS = Number(process.env.HOLDFAST_STOP_S ?? 12) * 1_000
/** So long each call is under way: its answer comes when nobody is awake to read it. */
const CALL_MS = 5_000
const DAY_MS = 24 * 3_600_000

let world: World
const processes: ServiceProcess[] = []
afterAll(async () => {
  await Promise.all(processes.map((process) => process.end('SIGKILL')))
  await world?.close()
})

const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 20 })
const inMs = (ms: number): string => new Date(Date.now() + ms).toISOString()

async function startBeside(port: number): Promise<ServiceProcess> {
  const process = await startServiceProcess(world.h, { port })
  processes.push(process)
  return process
}

/** Takings of the stays: who writes under an older one loses. */
async function epochs(): Promise<Record<string, number>> {
  const { rows } = await sql<{ name: string; epoch: number }>`
    select 'cloud ' || name as name, watch_epoch as epoch from clouds
    union all select 'shard ' || shard, epoch from sender_shards`.execute(world.h.store.db)
  return Object.fromEntries(rows.map(({ name, epoch }) => [name, epoch]))
}

/** Requests of a verb that a cloud has not answered yet. */
async function underWay({ cloud }: Place, verb: string): Promise<number> {
  const ledger = await cloud.control.ledger()
  const answers = new Set(ledger.filter((line) => line.kind === 'answer').map((line) => line.request_seq))
  return ledger.filter((line) => line.kind === 'request' && line.verb === verb && !answers.has(line.seq)).length
}

/** What writers wrote: every row of every noun, and what clouds and receivers were asked. */
async function writings(places: readonly Place[]) {
  const { db } = world.h.store
  const rows: Record<string, unknown> = {}
  for (const [table, key] of [
    ['launch_orders', 'id'],
    ['items', 'id'],
    ['instances', 'id'],
    ['launch_attempts', 'id'],
    ['claims', 'attempt_id'],
    ['actions', 'id'],
    ['leases', 'id'],
    ['deliveries', 'id'],
    ['orphans', 'provider_id'],
  ] as const) {
    const found = await sql<Record<string, unknown>>`select * from ${sql.table(table)}`.execute(db)
    // Not a statement about the noun: until when its flow is expected to look again by itself.
    for (const { attended_until: _, ...row } of found.rows) rows[`${table} ${row[key]}`] = row
  }
  const events = await sql<{ id: string }>`select id from events`.execute(db)
  const asked = await Promise.all(places.map(({ cloud }) => cloud.control.ledger()))
  return {
    rows,
    events: new Set(events.rows.map(({ id }) => id)),
    changes_asked: asked.map(
      (ledger) => ledger.filter((line) => line.kind === 'request' && /create|delete/.test(String(line.verb))).length,
    ),
    sends: places.map(({ hook }) => hook.receiver.ledger.length),
  }
}

test(`stopped for ${STOP_MS / 1000} s and woken, a process writes nothing stale`, async () => {
  world = await startWorld()
  // Of one cloud it reads the old answers, at the other its calls have timed out when it wakes.
  const plain = await world.place({ settings: { call_timeout_ms: STOP_MS + SETTLE_TIMEOUT_MS } })
  const tokens = await world.place({
    configuration: { presents_as: 'aws' },
    settings: { call_timeout_ms: 2 * CALL_MS },
  })
  const calm = await world.place()
  const { project } = plain

  // A world that runs.
  const old = await world.order(project)
  const vanishing = await world.order(tokens.project)
  const lease = await world.lease(project, { end_in_ms: DAY_MS, order: { count: 1 } })
  await untilOrder(project.api, old.id, ['running'])
  await untilOrder(tokens.project.api, vanishing.id, ['running'])
  await untilLease(project.api, lease.id, ['ACTIVE'])
  await untilOrder(project.api, (await getLease(project.api, lease.id)).order_id!, ['running'])
  const [ending] = await instancesOf(project.api, old.id)
  const [vanished] = await instancesOf(tokens.project.api, vanishing.id)

  // One process has all of it in hand.
  const port = Number(new URL(world.h.service.url!).port)
  const first_epochs = await epochs()
  await world.h.stopService()
  const stopped = await startBeside(0)
  await waitFor(async () => {
    const now = await epochs()
    return Object.entries(first_epochs).every(([name, epoch]) => now[name]! > epoch)
  }, wait('all stays to be taken'))

  // Everything it asks for takes its time, and it is stopped in the middle.
  for (const { cloud, hook } of [plain, tokens]) {
    await cloud.control.fault({
      match: { verb: ['create', 'list', 'delete'] },
      effect: { kind: 'hang', for_ms: CALL_MS },
    })
    hook.receiver.answer = ({ sequence }) => ({ delay_ms: CALL_MS, status: sequence % 2 ? 500 : 200 })
  }
  const asked = { plain: stopped.ask(project), tokens: stopped.ask(tokens.project) }
  const to_cancel = await world.order(asked.plain)
  const to_run = await world.order(asked.tokens)
  await world.change(asked.plain, 'terminate', ending!.id, 'POST', `/api/instances/${ending!.id}/actions`, {
    action: 'terminate',
  })
  await world.change(asked.plain, 'extend', lease.id, 'PATCH', `/api/leases/${lease.id}`, { end_at: inMs(6_000) })
  const starting = await world.lease(asked.plain, { start_in_ms: 3_000, end_in_ms: DAY_MS, order: { count: 1 } })
  await waitFor(async () => {
    const calls = [
      underWay(plain, 'create'),
      underWay(tokens, 'create'),
      underWay(plain, 'delete'),
      underWay(plain, 'list'),
      underWay(tokens, 'list'),
    ]
    const sends = [plain, tokens].map(({ hook }) => hook.receiver.ledger.filter(({ status }) => status === 0).length)
    return [...(await Promise.all(calls)), ...sends].every((count) => count > 0)
  }, wait('creates, deletes, lists and sends to be under way'))
  stopped.signal('SIGSTOP')
  const stopped_at = performance.now()

  // Another takes over, and the world goes on.
  const awake = await startBeside(port)
  for (const { cloud, hook } of [plain, tokens]) {
    await cloud.control.noFaults()
    hook.receiver.answer = () => ({ status: 200 })
  }
  await tokens.cloud.control.fate(vanished!.provider_id!, 'vanish')
  await world.change(project, 'cancel', to_cancel.id, 'DELETE', `/api/launch-orders/${to_cancel.id}`)
  const meanwhile = await world.order(project, { count: 3 })
  await Promise.all([
    untilOrder(project.api, to_cancel.id, ['cancelled', 'terminated']),
    untilOrder(tokens.project.api, to_run.id, ['running']),
    untilOrder(project.api, meanwhile.id, ['running']),
    untilInstance(project.api, ending!.id, ['terminated']),
    untilInstance(tokens.project.api, vanished!.id, ['missing', 'terminated', 'failed']),
    untilLease(project.api, lease.id, ['TERMINATED']),
    untilLease(project.api, starting.id, ['ACTIVE']),
  ])
  await world.change(project, 'end', starting.id, 'DELETE', `/api/leases/${starting.id}`)
  await world.change(project, 'terminate', meanwhile.id, 'DELETE', `/api/launch-orders/${meanwhile.id}`)
  await world.untilQuiet()
  await waitFor(() => performance.now() - stopped_at > STOP_MS, { ...wait('its sleep to end'), timeout_ms: STOP_MS })
  const before = await writings([plain, tokens])
  const read_before = stopped.answered.length

  // It wakes, reads the answers of long ago, and works on as one of two.
  stopped.signal('SIGCONT')
  await waitFor(() => {
    const read = stopped.answered.slice(read_before).filter((call) => call.includes(`/${plain.cloud.name}/`))
    return ['GET', 'POST', 'DELETE'].every((method) => read.some((call) => call.startsWith(method)))
  }, wait('its list, creates and deletion of long ago to be answered'))
  const later = await world.order(stopped.ask(calm.project))
  await untilOrder(calm.project.api, later.id, ['running'])
  await world.change(calm.project, 'terminate', later.id, 'DELETE', `/api/launch-orders/${later.id}`)
  await untilOrder(calm.project.api, later.id, ['terminated'])
  await world.untilQuiet()

  const after = await writings([plain, tokens])
  const rewritten = Object.entries(before.rows)
    .map(([key, was]) => ({ key, was, is: after.rows[key] }))
    .filter(({ was, is }) => !isDeepStrictEqual(was, is))
  expect(rewritten).toEqual([])
  expect({ ...after, rows: 0, events: 0 }).toEqual({ ...before, rows: 0, events: 0 })
  const { rows: told } = await sql<{ id: string; project_id: string | null }>`
    select id, project_id from events`.execute(world.h.store.db)
  const strange = told.filter(({ id, project_id }) => !before.events.has(id) && project_id !== calm.project.id)
  expect(strange).toEqual([])

  await Promise.all([stopped.end('SIGTERM'), awake.end('SIGTERM')])
  await world.h.startService(port)
  await world.judgeAll()
}, 240_000)
