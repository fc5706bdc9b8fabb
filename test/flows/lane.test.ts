/** The lane of a hook in trouble: an attempt that ended while it was planning is not begun again. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { laneWorkflowId } from '../../domain/workflow-ids.ts'
import { createFaults } from '../support/faults.ts'
import { SETTLE_TIMEOUT_MS, submitOrder, untilOrder } from '../support/flow.ts'
import { waitFor } from '../support/wait-for.ts'
import { startWorld, type World } from '../support/world.ts'

const faults = createFaults()
let world: World
beforeAll(async () => {
  world = await startWorld({ worker_options: { interceptors: { activity: [faults.interceptor] } } })
})
afterAll(() => world.close())

const wait = (what: string) => ({ what, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 100 })

interface Attempted {
  readonly delivery_id: number
  readonly outcome: string
}

/** What the attempts of a lane came to, as the history of its last run tells. */
async function attemptsOf(hook_id: string): Promise<Attempted[]> {
  const { events } = await world.h.temporal.workflow.getHandle(laneWorkflowId(hook_id)).fetchHistory()
  return (events ?? []).flatMap(({ activityTaskCompletedEventAttributes: done }) => {
    const text = Buffer.from(done?.result?.payloads?.[0]?.data ?? []).toString()
    const result = text ? (JSON.parse(text) as Partial<Attempted>) : {}
    return result.delivery_id === undefined ? [] : [result as Attempted]
  })
}

test('what ended while the record was away is not sent, nor tried, again', async () => {
  const { project, cloud, hook } = await world.place()
  // The first failure brings it into its lane. Three attempts of that are under way; the fourth ends, so that it plans.
  let under_way = 0
  const planning_failed = Promise.withResolvers<void>()
  hook.receiver.answer = async ({ attempt, sequence }) => {
    if (attempt === 1 && sequence === 1) return { status: 500 }
    if (++under_way <= 3) await planning_failed.promise
    return { status: 200 }
  }
  const injected = faults.inject({
    activity: 'planLane',
    kind: 'until_lifted',
    strikes: (workflow_id) => workflow_id === laneWorkflowId(hook.id) && under_way >= 3,
  })
  const { id } = await submitOrder(project, { count: 4, clouds: [cloud.name] })
  await untilOrder(project.api, id, ['running'])
  const states = async () =>
    (await world.h.store.db.selectFrom('deliveries').select('state').where('hook_id', '=', hook.id).execute()).map(
      ({ state }) => state,
    )
  await waitFor(() => injected.struck() > 0, wait('planning to fail'))
  planning_failed.resolve()
  await waitFor(async () => !(await states()).includes('in_flight'), wait('what was under way to end'))
  injected.lift()
  await waitFor(
    async () => (await states()).every((state) => state === 'delivered'),
    wait('everything to be delivered'),
  )
  const attempts = await attemptsOf(hook.id)
  const delivered = attempts.filter(({ outcome }) => outcome === 'delivered').map(({ delivery_id }) => delivery_id)
  expect(delivered.length).toBeGreaterThanOrEqual(3)
  // One that its sender delivered, while it handed the hook over, may be tried in vain.
  expect(attempts.filter((one) => one.outcome === 'not_sent' && delivered.includes(one.delivery_id))).toEqual([])
})
