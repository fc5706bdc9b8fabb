import { expect, test } from 'vitest'
import { decideLease, type LeaseView } from '../../domain/lease.ts'

const lease = (change: Partial<LeaseView> = {}): LeaseView => ({
  state: 'PENDING',
  wish: 'run',
  start_at: 1_000,
  end_at: 5_000,
  before_end_at: 4_000,
  before_end_done: false,
  order_state: null,
  ...change,
})

const active = (change: Partial<LeaseView> = {}) => lease({ state: 'ACTIVE', order_state: 'running', ...change })

test.each([
  ['one ms before its start', lease(), 999, [], 1_000],
  ['at its start', lease(), 1_000, ['start'], 4_000],
  ['late, after the notice was due too', lease(), 4_500, ['start', 'before_end'], 5_000],
  ['without a notice', lease({ before_end_at: null }), 1_000, ['start'], 5_000],
  ['one ms before the notice', active(), 3_999, [], 4_000],
  ['at the notice', active(), 4_000, ['before_end'], 5_000],
  ['after the notice', active({ before_end_done: true }), 4_500, [], 5_000],
  ['one ms before its end', active({ before_end_done: true }), 4_999, [], 5_000],
  ['at its end, its machines run', active(), 5_000, ['end'], null],
  ['at its end, nothing was launched', active({ order_state: null }), 5_000, ['end', 'finish'], null],
  ['at its end, its order had failed', active({ order_state: 'failed' }), 5_000, ['end', 'finish'], null],
  ['ended by a person before its end', active({ wish: 'end' }), 2_000, ['end'], null],
  ['ended by a person before its start', lease({ wish: 'end' }), 500, ['finish'], null],
  ['its whole time passed', lease(), 6_000, ['miss'], null],
  ['ending, machines still there', active({ state: 'TERMINATING', order_state: 'terminating' }), 5_100, [], null],
  ['ending, machines gone', active({ state: 'TERMINATING', order_state: 'terminated' }), 5_100, ['finish'], null],
  ['over', lease({ state: 'TERMINATED' }), 9_000, [], null],
] as const)('a lease %s', (_, view, now, acts, due_at) => {
  const decision = decideLease(view, now)
  expect({ acts: decision.acts, due_at: decision.due_at }).toEqual({ acts, due_at })
})

test('only a lease that is over is done', () => {
  expect(decideLease(lease({ state: 'TERMINATED' }), 0).done).toBe(true)
  expect(decideLease(active({ state: 'TERMINATING', order_state: 'terminated' }), 5_000).done).toBe(true)
  expect(decideLease(active(), 5_000).done).toBe(false)
})
