/**
 * What an operator reads in the Temporal UI, read through Temporal's own API: details, summaries and search attributes
 * of a lease that waits, a delivery that fails, an order that is being undone.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { submitLease, submitOrder } from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

let h: Harness
let project: Project
beforeAll(async () => {
  h = await startHarness()
  project = await h.project()
})
afterAll(() => h.close())

const GENEROUS_MS = 30_000
const HOUR_MS = 3_600_000

/** What the UI shows under *User Metadata*. */
async function detailsOf(workflow_id: string): Promise<string> {
  const handle = h.temporal.workflow.getHandle(workflow_id)
  return (await handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata')).currentDetails ?? ''
}

function detailsToSay(workflow_id: string, sentence: RegExp): Promise<string> {
  return waitFor(
    async () => {
      const details = await detailsOf(workflow_id)
      return sentence.test(details) && details
    },
    { what: `${workflow_id} to say ${sentence}`, timeout_ms: GENEROUS_MS, interval_ms: 100 },
  )
}

/** Summaries in the timeline: of timers and of activities. */
async function summariesOf(workflow_id: string): Promise<{ timers: string[]; activities: string[] }> {
  const { events } = await h.temporal.workflow.getHandle(workflow_id).fetchHistory()
  const said = (of: 'timerStartedEventAttributes' | 'activityTaskScheduledEventAttributes') =>
    (events ?? [])
      .filter((event) => event[of])
      .map(({ userMetadata }) => {
        const { data } = userMetadata?.summary ?? {}
        return data ? (JSON.parse(Buffer.from(data).toString('utf8')) as string) : 'none'
      })
  return { timers: said('timerStartedEventAttributes'), activities: said('activityTaskScheduledEventAttributes') }
}

const searchable = async (workflow_id: string) =>
  (await h.temporal.workflow.getHandle(workflow_id).describe()).searchAttributes

test('a lease that waits', async () => {
  const lease = await submitLease(project, { name: 'night-batch', start_in_ms: 2 * HOUR_MS, end_in_ms: 4 * HOUR_MS })
  const id = `lease/${lease.id}`
  const handle = h.temporal.workflow.getHandle(id)
  // Nothing of it has run: what is to be said stands at its start.
  const waiting = await waitFor(() => handle.describe().catch(() => null), { what: id, timeout_ms: GENEROUS_MS })
  expect(await waiting.staticSummary()).toMatch(/^waits for its start at \d{4}-\S+Z: night-batch$/)
  expect(await waiting.staticDetails()).toMatch(/^\*\*night-batch\*\*: PENDING, \S+Z to \S+Z; times as they were/)
  expect(await searchable(id)).toMatchObject({ HoldfastProject: [project.id], HoldfastState: ['open'] })

  // A change ends the delay: from here on it speaks for itself.
  const start_at = new Date(Date.now() + HOUR_MS).toISOString()
  await project.api.patch(`/api/leases/${lease.id}`, { start_at })
  const details = await detailsToSay(id, /Waiting for/)
  expect(details).toContain('**night-batch**: PENDING')
  expect(details).toContain(`Waiting for its start until ${start_at}`)
  const { timers } = await summariesOf(id)
  expect(timers).toEqual([`waiting for its start until ${start_at}`])
})

test('a delivery that fails', async () => {
  const cloud = await h.cloud(project)
  const receiver = await startReceiver()
  try {
    receiver.answer = () => ({ status: 503 })
    const { body } = await project.api.post<{ hook: { id: string } }>('/api/hooks', { uri: receiver.uri })
    await submitOrder(project, { clouds: [cloud.name], count: 1 })
    const id = `hook/${body.hook.id}`
    const details = await detailsToSay(id, /last answer/)
    expect(details).toMatch(
      new RegExp(
        `^127\\.0\\.0\\.1:${receiver.port}: \\d+ open \\(\\d+ waiting, \\d+ in flight\\), next at \\d{4}-\\S+Z: retry by schedule; last answer http_503$`,
      ),
    )
    const retried = await waitFor(
      async () => {
        const said = await summariesOf(id)
        return said.activities.length > 0 && said
      },
      { what: 'an attempt of the lane', timeout_ms: GENEROUS_MS, interval_ms: 200 },
    )
    expect(retried.activities[0]).toMatch(/^delivery \d+, attempt \d+: (retry by schedule|first attempt)$/)
    expect(retried.timers.find((timer) => timer.includes('next at'))).toMatch(
      /retry by schedule; last answer http_503$/,
    )
    expect(await searchable(id)).toMatchObject({ HoldfastProject: [project.id] })
    await project.api.delete(`/api/hooks/${body.hook.id}`)
  } finally {
    await receiver.close()
  }
})

test('an order that is being undone', async () => {
  const cloud = await h.cloud(project, { configuration: { capacity: 2 } })
  const fault = { match: { verb: 'delete' as const }, effect: { kind: 'down' as const, how: '503' as const } }
  await cloud.control.fault(fault)
  const order = await submitOrder(project, { clouds: [cloud.name], count: 3, policy: 'all' })
  const id = `order/${order.id}`
  const details = await detailsToSay(id, /undo_unconfirmed/)
  expect(details).toContain('**web**: compensating, what was made is being undone')
  expect(details).toContain(`Blocked: \`undo_unconfirmed\`, cloud ${cloud.name} has not confirmed a deletion: `)
  expect(details).toMatch(/Looks again at \d{4}-\S+Z$/)
  const said = await waitFor(
    async () => {
      const summaries = await summariesOf(id)
      const deletes = summaries.activities.filter((summary) => summary.startsWith('delete'))
      return deletes.length > 2 && summaries
    },
    { what: 'the deletion to be asked for again', timeout_ms: GENEROUS_MS, interval_ms: 200 },
  )
  expect(said.activities[0]).toBe(`create 3 at ${cloud.name} (batch 1)`)
  expect(said.activities).toContain(`delete 2 at ${cloud.name} (undo batch 1)`)
  expect(said.timers).not.toContain('none')
  expect(said.timers.at(-1)).toContain(`cloud ${cloud.name} has not confirmed a deletion`)
  expect(await searchable(id)).toMatchObject({ HoldfastProject: [project.id], HoldfastState: ['compensating'] })

  // However often it is tried: blocked is told once.
  const path = `/api/events?resource_type=order&resource_id=${order.id}&limit=100`
  const { body } = await project.api.get<{ events: { type: string }[] }>(path)
  expect(body.events.filter(({ type }) => type === 'order.blocked')).toHaveLength(1)
  expect(body.events.filter(({ type }) => type === 'order.unblocked')).toEqual([])
  await cloud.control.noFaults()
})
