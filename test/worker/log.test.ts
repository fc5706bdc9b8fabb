/** What the service writes about itself: lines that can be found by ids, and nothing that is secret. */

import { pino } from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { submitOrder, untilOrder } from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

interface Line {
  readonly msg: string
  readonly [field: string]: unknown
}

const text: string[] = []
const lines = (msg: string): Line[] => text.map((line) => JSON.parse(line) as Line).filter((line) => line.msg === msg)

const USER_DATA = 'password: hunter-two-and-a-half'
const CREDENTIAL = 'a-credential-nobody-may-read'
let h: Harness
let project: Project
let receiver: Receiver
let secret: string
let order_id: string

beforeAll(async () => {
  h = await startHarness({ log: pino({ level: 'trace' }, { write: (line: string) => void text.push(line) }) })
  project = await h.project()
  const cloud = await h.cloud(project)
  await h.operator.patch(`/api/clouds/${cloud.name}`, { credential: CREDENTIAL })
  receiver = await startReceiver()
  receiver.answer = () => ({ status: 500 })
  const { body } = await project.api.post<{ hook: { id: string; secret: string } }>('/api/hooks', {
    uri: `${receiver.uri}?key=in-the-query`,
  })
  secret = body.hook.secret
  const order = await submitOrder(project, { clouds: [cloud.name], user_data: USER_DATA })
  order_id = order.id
  await untilOrder(project.api, order.id, ['running'])
  await waitFor(() => receiver.ledger.some(({ attempt }) => attempt > 1), {
    what: 'an attempt of the lane',
    timeout_ms: 30_000,
  })
})
afterAll(async () => {
  await h.close()
  await receiver.close()
})

test('a line for each request, with its id, project, status and time', async () => {
  const { headers } = await project.api.get(`/api/launch-orders/${order_id}`)
  const line = lines('request').find(({ request_id }) => request_id === headers.get('x-request-id'))
  expect(line).toMatchObject({
    project: project.id,
    method: 'GET',
    path: `/api/launch-orders/${order_id}`,
    status: 200,
    ms: expect.any(Number),
  })
  const refused = await project.api.get('/api/nothing', { expect: 404 })
  expect(lines('request').find(({ request_id }) => request_id === refused.headers.get('x-request-id'))).toMatchObject({
    status: 404,
    project: null,
  })
})

test('a line for each activity, with its workflow and noun; a plan says where its noun stands', () => {
  const ended = lines('activity ended')
  expect(ended.length).toBeGreaterThan(3)
  for (const line of ended) {
    expect(line).toMatchObject({ workflow_id: expect.stringMatching(/./), noun_id: expect.stringMatching(/./) })
    expect(line).toMatchObject({ attempt: expect.any(Number), ms: expect.any(Number) })
  }
  const plans = ended.filter(({ activity, noun_id }) => activity === 'planOrder' && noun_id === order_id)
  expect(plans.at(-1)).toMatchObject({ workflow_id: `order/${order_id}`, state: 'running' })
})

test('no secret is in any line', () => {
  const all = text.join('\n')
  expect(all.length).toBeGreaterThan(1_000)
  for (const word of [USER_DATA, CREDENTIAL, secret, project.token, 'in-the-query', h.master_key.toString('base64')]) {
    expect(all).not.toContain(word)
  }
})
