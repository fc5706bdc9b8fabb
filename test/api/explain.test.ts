/** Explanations of what really happened: a whole service, a cloud, and every event followed to its root. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'

interface Event {
  id: string
  type: string
  to: string | null
  at: string
  resource_type: string
}
interface Explained {
  explanation: {
    sentence: string
    state: string
    waits_for: { what: string; code: string | null; until: string | null } | null
    origin: { kind: string; sentence: string }
    history: { event: Event; because: string[]; origin: { kind: string } }[]
    causes: Event[]
  }
}
interface Order {
  launch_order: { id: string; href: string; state: string; deployment: { href: string } }
}

let harness: Harness
let project: Project

beforeAll(async () => {
  harness = await startHarness()
  project = await harness.project()
})
afterAll(() => harness.close())

const explain = async (href: string, at?: string) =>
  (await project.api.get<Explained>(`${href}/explain${at ? `?at=${at}` : ''}`)).body.explanation

async function until(href: string, state: string): Promise<void> {
  const read = async () => (await project.api.get<Order>(href)).body.launch_order.state
  await waitFor(async () => (await read()) === state, { what: `${href} to be ${state}`, timeout_ms: 30_000 })
}

test('each event of an order that ran and was ended goes back to a request or an observation', async () => {
  const { name } = await harness.cloud(project)
  const input = { name: 'web', count: 2, size: 'small', image: 'debian', clouds: [name] }
  const order = (await project.api.post<Order>('/api/launch-orders', input)).body.launch_order
  await until(order.href, 'running')
  await project.api.delete(order.href, { expect: 202 })
  await until(order.href, 'terminated')

  const { instances } = (await project.api.get<{ instances: { id: string }[] }>(`${order.href}/instances`)).body
  const hrefs = [order.href, order.deployment.href, ...instances.map(({ id }) => `/api/instances/${id}`)]
  for (const href of hrefs) {
    const found = await waitFor(
      async () => {
        const now = await explain(href)
        return now.state === 'terminated' && now
      },
      { what: `${href} to be explained as terminated` },
    )
    expect(found.waits_for).toBeNull()
    for (const { event, origin } of found.history)
      expect(['request', 'observation'], `${event.type} to ${event.to} of ${href}: ${origin.kind}`).toContain(
        origin.kind,
      )
    // Of every past moment it tells the state that came with it.
    for (const [i, { event }] of found.history.entries()) {
      const newer = found.history[i - 1]
      if (newer && newer.event.at === event.at) continue
      const then = await explain(href, new Date(Date.parse(event.at) + 1).toISOString())
      if (!newer || Date.parse(newer.event.at) > Date.parse(event.at) + 1) expect(then.state).toBe(event.to)
    }
  }
})

test('an order that waits says for what, and until when it waits at the latest', async () => {
  const { name } = await harness.cloud(project)
  await harness.operator.patch(`/api/clouds/${name}`, { enabled: false })
  const input = { name: 'waits', size: 'small', image: 'debian', clouds: [name] }
  const order = (await project.api.post<Order>('/api/launch-orders', input)).body.launch_order
  await until(order.href, 'held')
  const found = await explain(order.href)
  expect(found.waits_for).toMatchObject({ code: 'cloud_disabled' })
  expect(Date.parse(found.waits_for!.until!)).toBeGreaterThan(Date.now() - 60_000)
  expect(found.sentence).toContain('disabled')
  await harness.operator.patch(`/api/clouds/${name}`, { enabled: true })
  await until(order.href, 'running')
})
