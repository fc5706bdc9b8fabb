import { expect, test } from 'vitest'
import { decideLease, type LeaseView } from '../../domain/lease.ts'

const lease = (change: Partial<LeaseView> = {}): LeaseView => ({
  state: 'PENDING',
  wish: 'run',
  wished_at: 0,
  start_at: 1_000,
  end_at: 5_000,
  before_end_at: 4_000,
  before_end_done: false,
  order_state: null,
  machines_left: false,
  unseen: null,
  host_held: null,
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
  ['at its end, its machines run', active(), 5_000, ['end'], 35_000],
  ['at its end, nothing was launched', active({ order_state: null }), 5_000, ['end', 'finish'], null],
  ['at its end, its order had failed', active({ order_state: 'failed' }), 5_000, ['end', 'finish'], null],
  [
    'at its end, its order had failed and dead machines are left',
    active({ order_state: 'failed', machines_left: true }),
    5_000,
    ['end'],
    35_000,
  ],
  ['ended by a person before its end', active({ wish: 'end' }), 2_000, ['end'], 32_000],
  ['ended by a person before its start', lease({ wish: 'end' }), 500, ['finish'], null],
  ['its whole time passed', lease(), 6_000, ['miss'], null],
  ['ending, machines still there', active({ state: 'TERMINATING', order_state: 'terminating' }), 5_100, [], 35_100],
  ['ending, machines gone', active({ state: 'TERMINATING', order_state: 'terminated' }), 5_100, ['finish'], null],
  ['before its start, its host held', lease({ host_held: 'x' }), 999, [], 1_000],
  ['at its start, its host held', lease({ host_held: 'x' }), 1_000, [], 5_000],
  ['its whole time passed, its host held', lease({ host_held: 'x' }), 5_000, ['miss'], null],
  ['ended while its host is held', lease({ host_held: 'x', wish: 'end' }), 1_000, ['finish'], null],
  [
    'ending, its order ended by a person before, and a late machine of it is there',
    active({ state: 'TERMINATING', order_state: 'terminated', machines_left: true }),
    5_100,
    [],
    35_100,
  ],
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

test('a lease that ends looks again ever later, an hour at most', () => {
  const wait = (view: LeaseView, now: number) => decideLease(view, now).due_at! - now
  const ending = active({ state: 'TERMINATING', order_state: 'terminating' })
  expect(wait(ending, 5_000 + 10_000)).toBe(30_000)
  expect(wait(ending, 5_000 + 600_000)).toBe(600_000)
  expect(wait(ending, 5_000 + 86_400_000)).toBe(3_600_000)
  expect(wait({ ...ending, wish: 'end', wished_at: 600_000 }, 700_000)).toBe(100_000)
})

test('a lease whose order is over keeps its hosts while a create may yet turn up', () => {
  const ending = active({ state: 'TERMINATING', order_state: 'cancelled', unseen: 'east' })
  const decision = decideLease(ending, 5_100)
  expect(decision).toMatchObject({ acts: [], due_at: 35_100, done: false, blocker: { code: 'cloud_unseen' } })
  expect(decision.blocker!.reason).toContain('cloud east')
})

test('a lease whose host is held by another says so, and nothing else blocks one', () => {
  expect(decideLease(lease({ host_held: 'host a is held' }), 1_000).blocker).toEqual({
    code: 'host_held',
    reason: 'host a is held',
    next_try_at: null,
  })
  expect(decideLease(lease(), 1_000).blocker).toBeNull()
})
