/** Where items go: each its own way through its clouds, past closed realms, and for as long as its order grants. */
import { describe, expect, test } from 'vitest'
import { choicesOf } from '../../../domain/order/choices.ts'
import { decideOrder } from '../../../domain/order/decide.ts'
import { attempt, cloud, item, NOW, order, refused } from './builders.ts'

describe('the clouds of an instance', () => {
  const price = (index: number) => [5, undefined, 3][index]

  test('in order: as they are listed', () => {
    expect(choicesOf('in_order', [2, 0], 1, price)).toEqual([2, 0])
  })
  test('spread: each instance begins with the next one, and has the others behind it', () => {
    expect([0, 1, 2, 3].map((turn) => choicesOf('spread', [0, 1, 2], turn, price))).toEqual([
      [0, 1, 2],
      [1, 2, 0],
      [2, 0, 1],
      [0, 1, 2],
    ])
  })
  test('cheapest: by price, what has none comes last', () => {
    expect(choicesOf('cheapest', [0, 1, 2], 0, price)).toEqual([2, 0, 1])
  })
})

const opened = (decision: ReturnType<typeof decideOrder>) => decision.open.map(({ cloud_id }) => cloud_id)

describe('an item with clouds of its own', () => {
  const own = { cloud_indexes: [1, 0] }

  test('tries them by its own preference', () => {
    expect(opened(decideOrder(order([item('a', own)]), NOW))).toEqual(['west'])
    const error = refused('capacity')
    expect(opened(decideOrder(order([item('a', { ...own, attempts: 1, last_error: error })]), NOW))).toEqual(['east'])
  })

  test('is failed when the last of them refuses, though others of the order never did', () => {
    const only_west = { cloud_indexes: [1], attempts: 1, last_error: refused('capacity') }
    expect(decideOrder(order([item('a', only_west)], { policy: 'any' }), NOW).items).toMatchObject([
      { id: 'a', state: 'failed' },
    ])
  })

  test('is not sent to the cloud that refused another one', () => {
    const elsewhere = item('a', { ...own, attempts: 1, last_error: refused('capacity') })
    expect(opened(decideOrder(order([elsewhere, item('b', own)]), NOW))).toEqual(['east', 'east'])
  })
})

describe('a closed realm', () => {
  const closed = cloud('east', { closed_realms: ['zone-1', 'Zone one'] })

  test.each(['zone-1', 'Zone one'])('is passed by, called %s', (realm) => {
    const items = [item('a', { realm }), item('b', { realm: 'zone-2' }), item('c')]
    expect(opened(decideOrder(order(items, { clouds: [closed, cloud('west')] }), NOW))).toEqual([
      'east',
      'east',
      'west',
    ])
  })

  test('that is the only one is waited for, by name', () => {
    const waiting = decideOrder(order([item('a', { realm: 'zone-1' })], { clouds: [closed] }), NOW)
    expect(waiting).toMatchObject({ open: [], blocker: { code: 'realm_unavailable' }, due_at: NOW + 5_000 })
    const waited = item('a', { realm: 'zone-1', next_attempt_at: NOW + 5_000, rounds: 1 })
    expect(opened(decideOrder(order([waited], { clouds: [cloud('east')] }), NOW))).toEqual(['east'])
  })
})

describe('a retry budget', () => {
  const budget = { retry_budget: { capacity: 2 }, clouds: [cloud('east')] }
  const met = (times: number, more = {}) =>
    item('a', { attempts: times, last_error: refused('capacity'), errors: { capacity: times }, ...more })

  test('grants further rounds to what all clouds refused', () => {
    for (const times of [1, 2])
      expect(decideOrder(order([met(times)], budget), NOW)).toMatchObject({
        items: [{ id: 'a', state: 'queued', rounds: 1 }],
        blocker: { code: 'clouds_refuse' },
      })
    const due = met(2, { next_attempt_at: NOW, rounds: 1 })
    expect(opened(decideOrder(order([due], budget), NOW))).toEqual(['east'])
  })

  test('that is spent fails the item, though its order holds and other clouds are left', () => {
    const view = order([met(3)], { ...budget, hold: true, clouds: [cloud('east'), cloud('west')], policy: 'any' })
    expect(decideOrder(view, NOW).items).toMatchObject([{ id: 'a', state: 'failed' }])
  })

  test('of none gives up at the first error, also one that would pass by', () => {
    const away = item('a', { attempts: 1, last_error: refused('unavailable'), errors: { unavailable: 1 } })
    const view = order([away], { policy: 'any', retry_budget: { unavailable: 0 } })
    expect(decideOrder(view, NOW).items).toMatchObject([{ id: 'a', state: 'failed' }])
    expect(decideOrder(order([away]), NOW).items).not.toMatchObject([{ state: 'failed' }])
  })
})

test('a budget counts the error that the decision itself has met', () => {
  const winner = attempt('x', { state: 'won', provider_id: 'm' })
  const failed = item('a', { state: 'starting', attempts: 1, instance_state: 'failed', open: [winner] })
  const none = { policy: 'any', retry_budget: { boot_failed: 0 } } as const
  expect(decideOrder(order([failed], none), NOW).items).toMatchObject([{ id: 'a', state: 'failed' }])
  expect(opened(decideOrder(order([failed], { ...none, retry_budget: { boot_failed: 1 } }), NOW))).toEqual(['east'])
})

test.each([
  [0, 5_000],
  [1, 10_000],
  [2, 20_000],
  [3, 30_000],
  [100, 30_000],
])('after %i rounds in vain the next comes in %i ms', (rounds, in_ms) => {
  const away = item('a', { attempts: 3, last_error: refused('unavailable'), rounds, cloud_index: 2 })
  expect(decideOrder(order([away]), NOW)).toMatchObject({ due_at: NOW + in_ms, items: [{ rounds: rounds + 1 }] })
})
