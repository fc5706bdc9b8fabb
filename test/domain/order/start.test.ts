/** Machines that take their time to start, or never do. */
import { expect, test } from 'vitest'
import { decideOrder } from '../../../domain/order/decide.ts'
import { attempt, cloud, item, NOW, order } from './builders.ts'

const starting = (sent_at: number | null) =>
  item('a', {
    state: 'starting',
    attempts: 1,
    instance_state: 'starting',
    open: [attempt('x', { state: 'won', provider_id: 'm', sent_at })],
  })
const patient = { clouds: [cloud('east', { boot_timeout_ms: 60_000 }), cloud('west')] }

test('one that started a moment ago is waited for, and nothing is said of it', () => {
  expect(decideOrder(order([starting(NOW - 1_000)], patient), NOW)).toMatchObject({ open: [], blocker: null })
})

test('one that takes long is named, with when it is given up', () => {
  expect(decideOrder(order([starting(NOW - 40_000)], patient), NOW)).toMatchObject({
    open: [],
    blocker: { code: 'machine_starting', next_try_at: NOW + 20_000 },
  })
})

test('one whose time is up is surplus, and another follows', () => {
  expect(decideOrder(order([starting(NOW - 60_000)], patient), NOW)).toMatchObject({
    attempts: [{ id: 'x', state: 'surplus', gone: false }],
    instances: [{ id: 'instance-a', to: 'pending', rule: 'boot_failed' }],
    open: [{ item_id: 'a', number: 2, cloud_id: 'east' }],
  })
})

test.each([
  ['its cloud is out of sight', [cloud('east', { boot_timeout_ms: 60_000, listed_at: null })], NOW - 90_000],
  ['nobody knows since when', patient.clouds, null],
])('none is given up while %s', (_, clouds, sent_at) => {
  expect(decideOrder(order([starting(sent_at)], { clouds }), NOW)).toMatchObject({ open: [], attempts: [] })
})
