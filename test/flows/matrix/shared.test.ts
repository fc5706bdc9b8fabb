/**
 * The fault matrix for the flows that serve many at once: the senders of hooks and housekeeping. They are struck in the
 * whole service, one kind after the other.
 */
import { ScheduleOverlapPolicy } from '@temporalio/client'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { HOUSEKEEPING } from '../../../domain/workflow-ids.ts'
import { createFaults, FAULT_KINDS, type FaultKind } from '../../support/faults.ts'
import { getOrder, SETTLE_TIMEOUT_MS, untilOrder } from '../../support/flow.ts'
import { waitFor } from '../../support/wait-for.ts'
import { type Place, startWorld, type World } from '../../support/world.ts'

const faults = createFaults()
let world: World
beforeAll(async () => {
  world = await startWorld({ worker_options: { interceptors: { activity: [faults.interceptor] } } })
})
afterAll(() => world.close())

const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 50 })

const untilAllDelivered = (place: Place) =>
  waitFor(async () => {
    const rows = await world.h.store.db
      .selectFrom('deliveries')
      .select('state')
      .where('hook_id', '=', place.hook.id)
      .execute()
    const { state: hook } = await world.h.store.db
      .selectFrom('hooks')
      .select('state')
      .where('id', '=', place.hook.id)
      .executeTakeFirstOrThrow()
    const ended = rows.every(({ state }) => state === 'delivered' || state === 'cancelled')
    return ended && (rows.length > 0 || hook === 'deleted') // one that was deleted early has been told nothing
  }, wait('all deliveries to end'))

/** The record sees that nobody comes for what is due. */
const untilOverdue = ({ project }: Place, noun: string) =>
  waitFor(
    async () => {
      const { body } = await project.api.get<{ explanation: { waits_for: { code: string | null } | null } }>(
        `/api/${noun}/explain`,
      )
      return body.explanation.waits_for?.code === 'planning_overdue'
    },
    wait(`${noun} to say what blocks it`),
  )

async function shardOf({ hook }: Place): Promise<number> {
  const { shard } = await world.h.store.db
    .selectFrom('hooks')
    .select('shard')
    .where('id', '=', hook.id)
    .executeTakeFirstOrThrow()
  return shard
}

async function untilHouseSays(): Promise<void> {
  const query = `WorkflowType = '${HOUSEKEEPING}' AND ExecutionStatus = 'Failed'`
  const run = await waitFor(async () => {
    for await (const failed of world.h.temporal.workflow.list({ query })) return failed
    return null
  }, wait('a round of housekeeping to fail'))
  await untilSaid(run.workflowId)
}

const untilSaid = (workflow_id: string) =>
  waitFor(
    async () => (await world.details(workflow_id)).includes('Blocked: `step_failing`'),
    wait(`${workflow_id} to say what blocks it`),
  )

/** A sender stays for minutes: "after" is when the receiver has got something, and the first run goes on, stale. */
test.each(FAULT_KINDS)(
  'sendShard: %s',
  async (kind: FaultKind) => {
    const place = await world.place()
    const gone: string[] = []
    const struck = faults.inject({
      activity: 'sendShard',
      kind,
      strikes: (workflow_id) => workflow_id.startsWith('hook-sender/'),
      cancel: async () => {
        await world.change(place.project, 'end', place.hook.id, 'DELETE', `/api/hooks/${place.hook.id}`)
        gone.push(place.hook.id)
      },
      effect: async () => {
        await waitFor(() => place.hook.receiver.ledger.length > 0 || gone.length > 0, wait('a delivery'))
      },
    })
    await world.h.stopService()
    await world.h.startService()
    const { id } = await world.order(place.project, { count: 2 })
    await untilOrder(place.project.api, id, ['running'])
    await waitFor(() => struck.struck() > 0, wait('the fault to strike'))
    if (kind === 'until_lifted') {
      expect(place.hook.receiver.ledger).toEqual([])
      await untilSaid(`hook-sender/${await shardOf(place)}`)
      await untilOverdue(place, `hooks/${place.hook.id}`)
      struck.lift()
    }
    await untilAllDelivered(place)
    struck.lift()
  },
  90_000,
)

describe('keepHouse', () => {
  /** An order whose flow was ended in the Temporal UI waits for housekeeping alone. */
  test.each(FAULT_KINDS)(
    '%s',
    async (kind: FaultKind) => {
      const place = await world.place({ configuration: { boot_latency_ms: 1_500 } })
      const { id } = await world.order(place.project, { count: 1 })
      await untilOrder(place.project.api, id, ['settling', 'launching'])
      const struck = faults.inject({
        activity: 'keepHouse',
        kind,
        strikes: () => true,
        cancel: async () => {
          await world.change(place.project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`)
        },
      })
      await world.h.temporal.workflow.getHandle(`order/${id}`).terminate('ended by hand')
      await sql`update launch_orders set due_at = record_now() - interval '1 minute' where id = ${id} and due_at is not null`.execute(
        world.h.store.db,
      )
      const schedule = world.h.temporal.schedule.getHandle(HOUSEKEEPING)
      await schedule.trigger(ScheduleOverlapPolicy.ALLOW_ALL)
      await waitFor(() => struck.struck() > 0, wait('the fault to strike'))
      if (kind === 'until_lifted') {
        await untilHouseSays()
        await untilOverdue(place, `launch-orders/${id}`)
        struck.lift()
        await schedule.trigger(ScheduleOverlapPolicy.ALLOW_ALL)
      }
      await waitFor(
        async () => ['running', 'cancelled'].includes((await getOrder(place.project.api, id)).state),
        wait('the order to end'),
      )
      struck.lift()
    },
    90_000,
  )
})

test('afterwards record, clouds and receivers agree', async () => {
  await world.judgeAll()
}, 120_000)
