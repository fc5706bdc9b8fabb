/**
 * A rolling upgrade under load, and back again: processes of today's release and of the next one side by side, on one
 * record and one engine. What one began the other ends, whichever was stopped or killed.
 */
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { wakeAll } from '../../store/housekeeping.ts'
import { type JsonHistory, look } from '../histories/catalogue.ts'
import { getLease, instancesOf, SETTLE_TIMEOUT_MS, untilLease, untilOrder } from '../support/flow.ts'
import { bundleNextRelease } from '../support/next-release.ts'
import { type ServiceProcess, startServiceProcess } from '../support/service-process.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'

const DAY_MS = 24 * 3_600_000

let world: World
let next: Awaited<ReturnType<typeof bundleNextRelease>>
const processes: ServiceProcess[] = []
beforeAll(async () => {
  next = await bundleNextRelease()
  world = await startWorld()
})
afterAll(async () => {
  await Promise.all(processes.map((process) => process.end('SIGKILL')))
  await world?.close()
  await next?.remove()
})

const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 100 })

async function start(options: { workflow_bundle?: string; port?: number } = {}): Promise<ServiceProcess> {
  const process = await startServiceProcess(world.h, options)
  processes.push(process)
  return process
}

interface Load {
  readonly process: ServiceProcess
  /** Runs, and is to be ended. */
  readonly order_id: string
  /** Boots for long. */
  readonly booting_id: string
  /** Active, with an order; ends when it is told. */
  readonly lease_id: string
  readonly short_lease_id: string
}

/** What is under way while the releases change: asked of one process. */
async function submit(process: ServiceProcess, place: Place, slow: Place): Promise<Load> {
  const project = process.ask(place.project)
  const order = await world.order(project)
  const booting = await world.order(process.ask(slow.project))
  const lease = await world.lease(project, { end_in_ms: DAY_MS, order: { count: 1 } })
  const short = await world.lease(project, { start_in_ms: 2_500, end_in_ms: 40_000, order: { count: 1 } })
  await untilOrder(project.api, order.id, ['running'])
  await untilLease(project.api, lease.id, ['ACTIVE'])
  await waitFor(
    async () =>
      (await instancesOf(process.ask(slow.project).api, booting.id)).every(({ state }) => state === 'starting'),
    wait('machines to boot'),
  )
  return { process, order_id: order.id, booting_id: booting.id, lease_id: lease.id, short_lease_id: short.id }
}

/** Ends through one process what was begun at another. */
async function end(process: ServiceProcess, place: Place, slow: Place, load: Load): Promise<void> {
  const project = process.ask(place.project)
  const slow_project = process.ask(slow.project)
  const remove = (kind: 'end' | 'terminate' | 'cancel', path: string, id: string, of = project) =>
    world.change(of, kind, id, 'DELETE', `/api/${path}/${id}`)
  await remove('end', 'leases', load.lease_id)
  await remove('end', 'leases', load.short_lease_id)
  await remove('terminate', 'launch-orders', load.order_id)
  await remove('cancel', 'launch-orders', load.booting_id, slow_project)
  const ended = async () => {
    await Promise.all([
      untilLease(project.api, load.lease_id, ['TERMINATED']),
      untilLease(project.api, load.short_lease_id, ['TERMINATED']),
      untilOrder(project.api, load.order_id, ['terminated']),
      untilOrder(slow_project.api, load.booting_id, ['cancelled', 'terminated']),
    ])
  }
  // What housekeeping does for whatever is overdue, without its half minute of patience.
  const waking = new AbortController()
  const woken = wakeUntil(waking.signal)
  await ended().finally(() => waking.abort())
  await woken
}

async function wakeUntil(signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await wakeAll(world.h.store)
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
}

/** All runs of leases and orders: how they ended, and whether they took the way of the next release. */
async function runs(): Promise<{ status: string; patched: boolean }[]> {
  const { workflow } = world.h.temporal
  const seen: { status: string; patched: boolean }[] = []
  for await (const { workflowId, runId, status } of workflow.list({
    query: "WorkflowType IN ('lease', 'launchOrder')",
  })) {
    const json = historyToJSON(await workflow.getHandle(workflowId, runId).fetchHistory())
    const patched = look(JSON.parse(json) as JsonHistory).count('MARKER_RECORDED') > 0 && json.includes('core_patch')
    seen.push({ status: status.name, patched })
  }
  return seen
}

test('two releases side by side, forth and back: whatever one began the other ends', async () => {
  const place = await world.place()
  const slow = await world.place({ configuration: { boot_latency_ms: 600_000 } })
  const port = Number(new URL(world.h.service.url!).port)
  await world.h.stopService()

  // Forth: the next release comes beside today's, and today's leaves.
  const today = await start()
  const by_today = await submit(today, place, slow)
  const { db } = world.h.store
  await sql`update installation set schema_version = schema_version + 1`.execute(db) // it only expanded
  const tomorrow = await start({ workflow_bundle: next.workflow_bundle })
  const by_both = await submit(tomorrow, place, slow)
  await today.end('SIGTERM')
  await end(tomorrow, place, slow, by_today)
  const by_tomorrow = await submit(tomorrow, place, slow)
  expect((await runs()).filter(({ patched }) => patched).length).toBeGreaterThan(0)

  // Back: it dies, and today's release finds runs that went a way it does not know.
  await tomorrow.end('SIGKILL')
  const again = await start()
  await end(again, place, slow, by_both)
  await end(again, place, slow, by_tomorrow)
  expect((await runs()).some(({ status, patched }) => patched && status === 'FAILED')).toBe(true)
  await waitFor(async () => (await runs()).every(({ status }) => status !== 'RUNNING'), wait('every run to end'))

  // And forth again.
  const by_again = await submit(again, place, slow)
  const last = await start({ workflow_bundle: next.workflow_bundle })
  await again.end('SIGKILL')
  await end(last, place, slow, by_again)
  expect((await getLease(last.ask(place.project).api, by_again.lease_id)).state).toBe('TERMINATED')
  await last.end('SIGTERM')
  await world.h.startService(port)
  await world.judgeAll()
}, 240_000)
