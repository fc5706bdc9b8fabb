/** An order of a thousand instances: it settles, its flow's runs stay small, and its end takes every machine away. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { getOrder, submitOrder } from '../support/flow.ts'
import { type Harness, startHarness } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'

let h: Harness
beforeAll(async () => {
  h = await startHarness()
})
afterAll(() => h.close())

const COUNT = 1_000
const PATIENCE_MS = 240_000
const HISTORY_EVENTS_MAX = 10_000
const HISTORY_BYTES_MAX = 4 * 1024 * 1024

/** Length and size of every run that the order's flow had, oldest first. */
async function runsOf(order_id: string): Promise<{ events: number; bytes: number; ended: boolean }[]> {
  const workflow_id = `order/${order_id}`
  const runs: { events: number; bytes: number; ended: boolean }[] = []
  for await (const { runId } of h.temporal.workflow.list({ query: `WorkflowId = '${workflow_id}'` })) {
    const { historyLength, raw, status } = await h.temporal.workflow.getHandle(workflow_id, runId).describe()
    const bytes = Number(raw.workflowExecutionInfo?.historySizeBytes ?? 0)
    runs.unshift({ events: historyLength, bytes, ended: status.name !== 'RUNNING' })
  }
  return runs
}

const untilState = (order_id: string, api: Parameters<typeof getOrder>[0], state: string) =>
  waitFor(
    async () => {
      const order = await getOrder(api, order_id)
      if (order.state === 'failed') return order
      return order.state === state && order
    },
    { what: `the order to be ${state}`, timeout_ms: PATIENCE_MS, interval_ms: 500 },
  )

test('a thousand instances of one order run, in histories far below the limits, and all end with it', {
  timeout: 2 * PATIENCE_MS + 30_000,
}, async () => {
  const project = await h.project()
  // A busy machine may answer late; what an order makes of replies that are lost is for others.
  const { control } = await h.cloud(project, { settings: { call_timeout_ms: 10_000 } })
  const alive = async () => (await control.machines()).filter((machine) => machine.gone_at === null).length
  const { id } = await submitOrder(project, { count: COUNT })
  expect(await untilState(id, project.api, 'running')).toMatchObject({
    state: 'running',
    partial: false,
    counts: { running: COUNT },
  })
  expect(await alive()).toBe(COUNT)
  expect(await control.machines()).toHaveLength(COUNT)

  await project.api.delete(`/api/launch-orders/${id}`)
  expect(await untilState(id, project.api, 'terminated')).toMatchObject({ counts: { terminated: COUNT } })
  expect(await alive()).toBe(0)

  const runs = await waitFor(
    async () => {
      const all = await runsOf(id)
      return all.length > 0 && all.every((run) => run.ended) && all
    },
    { what: "the order's flow to return", timeout_ms: 30_000, interval_ms: 200 },
  )
  for (const run of runs) {
    expect(run.events).toBeGreaterThan(0)
    expect(run.events).toBeLessThanOrEqual(HISTORY_EVENTS_MAX)
    expect(run.bytes).toBeGreaterThan(0)
    expect(run.bytes).toBeLessThanOrEqual(HISTORY_BYTES_MAX)
  }
})
