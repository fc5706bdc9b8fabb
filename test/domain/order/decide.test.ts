import { describe, expect, test } from 'vitest'
import { decideOrder } from '../../../domain/order/decide.ts'
import type { ItemView, OrderView } from '../../../domain/order/view.ts'
import { attempt, cloud, item, NOW, order, refused, running } from './builders.ts'

describe('forward', () => {
  test('a new order opens one attempt an item, at its first cloud, in batches of 25', () => {
    const decision = decideOrder(
      order(
        Array.from({ length: 30 }, (_, i) => item(`i${i}`)),
        { state: 'queued' },
      ),
      NOW,
    )
    expect(decision.state).toBe('launching')
    expect(decision.open).toHaveLength(30)
    expect(decision.create_batches).toEqual([
      { batch: 7, cloud_id: 'east', count: 25 },
      { batch: 8, cloud_id: 'east', count: 5 },
    ])
  })

  const unnamed = (change: Partial<ItemView> = {}, error: string | null = null) =>
    item('a', { state: 'claimed', attempts: 1, naming: { error }, open: [attempt('x')], ...change })

  test('without its name no cloud is called, and its place is kept', () => {
    const decision = decideOrder(order([unnamed()], { state: 'queued' }), NOW)
    expect(decision).toMatchObject({ state: 'queued', rule: 'naming', blocker: null, done: false, due_at: null })
    expect([decision.create_batches, decision.open, decision.attempts]).toEqual([[], [], []])
    const queued = decideOrder(order([unnamed({ state: 'queued', open: [] })], { state: 'queued' }), NOW)
    expect(queued).toMatchObject({ state: 'queued', rule: 'naming', open: [] })
  })

  test('where the inventory gives no name, that is what blocks', () => {
    const decision = decideOrder(order([unnamed({}, 'is down')], { state: 'queued' }), NOW)
    expect(decision).toMatchObject({
      state: 'held',
      blocker: { code: 'name_missing', reason: 'the inventory has not named it: is down' },
      create_batches: [],
      due_at: NOW + 10_000,
    })
  })

  test('with its name it is created by the attempt that kept its place', () => {
    const decision = decideOrder(order([unnamed({ naming: null })], { state: 'queued' }), NOW)
    expect(decision).toMatchObject({ state: 'launching', create_batches: [{ batch: 1, cloud_id: 'east', count: 1 }] })
  })

  test('withdrawn before it has a name, it is over at once', () => {
    const ended = [
      order([unnamed({ instance_wish: 'terminate' }, 'is down')], { state: 'held' }),
      order([unnamed({}, 'is down')], { state: 'held', wish: 'cancel' }),
    ].map((view) => decideOrder(view, NOW))
    for (const decision of ended)
      expect(decision).toMatchObject({
        attempts: [{ id: 'x', state: 'lost', gone: true }],
        instances: [{ to: 'terminated' }],
      })
  })

  test.each(['capacity', 'quota', 'invalid', 'not_found', 'conflict'])(
    'after %s the next cloud is tried',
    (error_class) => {
      const decision = decideOrder(order([item('a', { attempts: 1, last_error: refused(error_class) })]), NOW)
      expect(decision.open).toMatchObject([{ item_id: 'a', cloud_id: 'west', number: 2 }])
    },
  )

  test('a cloud that refused one item a moment ago is not asked for the next', () => {
    const decision = decideOrder(order([item('a', { attempts: 1, last_error: refused('capacity') }), item('b')]), NOW)
    expect(decision.open.map((open) => open.cloud_id)).toEqual(['west', 'west'])
  })

  test('also when that item has gone on: the cloud it went to is not taken for the one that refused', () => {
    const three = { clouds: [cloud('east'), cloud('west'), cloud('south')] }
    const first = item('a', { attempts: 1, last_error: refused('capacity') })
    const [going_on] = decideOrder(order([first], three), NOW).items
    expect(going_on).toMatchObject({ cloud_index: 1, error: { class: 'capacity', evidence: { cloud: 'east' } } })
    const gone_on = item('a', { state: 'creating', cloud_index: 1, attempts: 2, last_error: going_on!.error! })
    const sent = { ...gone_on, open: [attempt('x', { cloud_id: 'west', state: 'sent', sends: 1 })] }
    const west = [{ item_id: 'b', cloud_id: 'west' }]
    expect(decideOrder(order([sent, item('b')], three), NOW).open).toMatchObject(west)
    const failed = { ...first, state: 'failed', instance_state: 'failed' } as const
    expect(decideOrder(order([failed, item('b')], { policy: 'any', ...three }), NOW).open).toMatchObject(west)
  })

  test('refused by all clouds, policy all: the order compensates and the item is failed', () => {
    const decision = decideOrder(
      order([running('a'), item('b', { cloud_index: 1, attempts: 2, last_error: refused('capacity') })]),
      NOW,
    )
    expect(decision).toMatchObject({ state: 'compensating', rule: 'policy_failed', due_at: NOW, done: false })
    expect(decision.items).toMatchObject([{ id: 'b', state: 'failed' }])
    expect(decision.delete_batches).toEqual([])
  })

  test.each([
    ['any', null, 'running'],
    ['at_least', 1, 'running'],
    ['at_least', 2, 'compensating'],
  ] as const)('refused by all clouds, policy %s %s: %s', (policy, at_least, state) => {
    const items = [running('a'), item('b', { cloud_index: 1, attempts: 2, last_error: refused('capacity') })]
    const decision = decideOrder(order(items, { policy, at_least }), NOW)
    expect(decision.state).toBe(state)
    if (state === 'running') expect(decision).toMatchObject({ partial: true, done: true })
  })

  test('an unanswered create without tokens is watched until it settles, never sent again', () => {
    const unknown = attempt('x', { state: 'unknown', sends: 1, settle_at: NOW + 500 })
    const decision = decideOrder(order([item('a', { state: 'creating', attempts: 1, open: [unknown] })]), NOW)
    expect(decision).toMatchObject({
      create_batches: [],
      open: [],
      due_at: NOW + 500,
      blocker: { code: 'create_unanswered' },
      state: 'held',
    })
  })

  test('once it settled, the attempt is given up and another follows', () => {
    const unknown = attempt('x', { state: 'unknown', sends: 1, settle_at: NOW })
    const decision = decideOrder(order([item('a', { state: 'creating', attempts: 1, open: [unknown] })]), NOW)
    expect(decision.attempts).toMatchObject([{ id: 'x', state: 'lost', gone: false }])
    expect(decision.open).toMatchObject([{ item_id: 'a', number: 2 }])
  })

  test('what settled while nobody looked waits for the next list; a cloud that is away is not waited for', () => {
    const unknown = attempt('x', { state: 'unknown', sends: 1, settle_at: NOW - 500 })
    const settled = [item('a', { state: 'creating', attempts: 1, open: [unknown] })]
    const listed = (listed_at: number | null) =>
      decideOrder(order(settled, { clouds: [cloud('east', { listed_at }), cloud('west')] }), NOW)
    expect(listed(NOW - 501)).toMatchObject({
      attempts: [],
      open: [],
      due_at: NOW + 1_000,
      blocker: { code: 'create_unanswered' },
    })
    for (const listed_at of [NOW - 500, null])
      expect(listed(listed_at).attempts).toMatchObject([{ id: 'x', state: 'lost' }])
  })

  test('nor is what another cloud said before held against the one that did not answer', () => {
    const unknown = attempt('x', { cloud_id: 'west', state: 'unknown', sends: 1, settle_at: NOW })
    const earlier = { ...refused('capacity'), evidence: { cloud: 'east' } }
    const gone_on = { state: 'creating', cloud_index: 1, attempts: 2, last_error: earlier, open: [unknown] } as const
    const decision = decideOrder(order([item('a', gone_on)]), NOW)
    expect(decision).toMatchObject({ state: 'launching', open: [{ item_id: 'a', cloud_id: 'west' }] })
  })

  test('however often it was not answered, with tokens no other attempt is opened', () => {
    const unknown = attempt('a-1', { state: 'unknown', sends: 40, settle_at: NOW - 1_000, next_send_at: NOW - 1 })
    const tokens = [cloud('east', { idempotency_tokens: true }), cloud('west')]
    const view = order([item('a', { state: 'creating', attempts: 1, open: [unknown] })], { clouds: tokens })
    expect(decideOrder(view, NOW)).toMatchObject({ open: [], attempts: [], create_batches: [{ batch: 1 }] })
  })
  test('an unanswered create with tokens is sent again with the same attempt', () => {
    const unknown = attempt('x', { state: 'unknown', sends: 1, settle_at: NOW + 500, next_send_at: NOW })
    const view = order([item('a', { state: 'creating', attempts: 1, open: [unknown] })], {
      clouds: [cloud('east', { idempotency_tokens: true })],
    })
    expect(decideOrder(view, NOW)).toMatchObject({ open: [], create_batches: [{ batch: 1, count: 1 }] })
  })

  test('a throttled create waits for its time and blocks nothing', () => {
    const open = attempt('x', { sends: 1, next_send_at: NOW + 700, error: refused('throttled') })
    expect(decideOrder(order([item('a', { state: 'creating', attempts: 1, open: [open] })]), NOW)).toMatchObject({
      create_batches: [],
      due_at: NOW + 700,
      blocker: null,
    })
  })

  test('an unreachable cloud is left for the next after three sends', () => {
    const open = attempt('x', { sends: 3, next_send_at: NOW + 700, error: refused('unavailable') })
    const decision = decideOrder(order([item('a', { state: 'creating', attempts: 1, open: [open] })]), NOW)
    expect(decision.attempts).toMatchObject([{ id: 'x', state: 'lost', gone: true }])
    expect(decision.open).toMatchObject([{ cloud_id: 'west' }])
  })

  test('no cloud reachable: the order is held with a next try, and nothing fails', () => {
    const decision = decideOrder(
      order([item('a', { cloud_index: 2, attempts: 2, last_error: refused('unavailable') })]),
      NOW,
    )
    expect(decision).toMatchObject({ state: 'held', blocker: { code: 'cloud_unreachable' }, done: false })
    expect(decision.due_at).toBeGreaterThan(NOW)
    expect(decision.items).toMatchObject([{ id: 'a', state: 'queued' }])
  })

  test('a round that was put off keeps its reason until it begins, and begins at the first cloud', () => {
    const put_off = { attempts: 3, last_error: refused('auth') }
    const waiting = decideOrder(order([item('a', { ...put_off, next_attempt_at: NOW + 1 })]), NOW)
    expect(waiting).toMatchObject({ state: 'held', blocker: { code: 'credentials_refused' }, due_at: NOW + 1 })
    const due = decideOrder(order([item('a', { ...put_off, next_attempt_at: NOW })]), NOW)
    expect(due).toMatchObject({ open: [{ cloud_id: 'east' }], blocker: null })
  })

  test('with all clouds disabled it is held; one that is enabled is asked at once', () => {
    const none = { clouds: [cloud('east', { enabled: false })] }
    const held = decideOrder(order([item('a')], none), NOW)
    expect(held).toMatchObject({ state: 'held', blocker: { code: 'cloud_disabled' } })
    const put_off = item('a', { next_attempt_at: NOW + 5_000 })
    expect(decideOrder(order([put_off], none), NOW)).toMatchObject({ blocker: { code: 'cloud_disabled' }, open: [] })
    expect(decideOrder(order([put_off]), NOW)).toMatchObject({ open: [{ cloud_id: 'east' }], blocker: null })
  })

  test('a machine that failed to start is replaced, and deleted', () => {
    const won = attempt('x', { state: 'won', provider_id: 'm' })
    const decision = decideOrder(
      order([item('a', { state: 'starting', attempts: 1, instance_state: 'failed', open: [won] })]),
      NOW,
    )
    expect(decision.attempts).toMatchObject([{ id: 'x', state: 'surplus' }])
    expect(decision.instances).toMatchObject([{ id: 'instance-a', to: 'pending' }])
    expect(decision.undo).toEqual([{ attempt_id: 'x', undo_batch: 3 }])
    expect(decision.open).toMatchObject([{ item_id: 'a', number: 2 }])
  })

  test('a machine that failed to start where no cloud is left: failed it is, and stays', () => {
    const won = attempt('x', { number: 3, cloud_id: 'west', state: 'won', provider_id: 'm' })
    const booted = item('a', { state: 'starting', attempts: 3, cloud_index: 1, instance_state: 'failed', open: [won] })
    const decision = decideOrder(order([booted, running('b')], { policy: 'any' }), NOW)
    expect(decision.items).toMatchObject([{ id: 'a', state: 'failed', error: { class: 'boot_failed' } }])
    expect(decision.instances).toEqual([])
    expect(decision.open).toEqual([])
    expect(decision.undo).toEqual([{ attempt_id: 'x', undo_batch: 3 }])
  })

  test('a full allocation of ours waits by name and is nobody else`s failure', () => {
    const view = order([item('a'), item('b')], { clouds: [cloud('east', { free: 1 })] })
    expect(decideOrder(view, NOW)).toMatchObject({
      open: [{ item_id: 'a' }],
      blocker: { code: 'allocation_exhausted' },
    })
  })

  test('the place of an attempt that is given up is there for the next', () => {
    const unknown = attempt('x', { state: 'unknown', sends: 1, settle_at: NOW })
    const given_up = item('a', { state: 'creating', attempts: 1, open: [unknown] })
    const view = order([given_up], { clouds: [cloud('east', { free: 0 })] })
    expect(decideOrder(view, NOW)).toMatchObject({ open: [{ item_id: 'a', cloud_id: 'east' }], blocker: null })
  })

  test('a surplus machine of a settled order is deleted, and the order stays as it is', () => {
    const settled = {
      ...running('a'),
      open: [...running('a').open, attempt('late', { number: 2, state: 'surplus', provider_id: 'm2' })],
    }
    const decision = decideOrder(order([settled], { state: 'running' }), NOW)
    expect(decision).toMatchObject({ state: 'running', done: false, delete_batches: [{ undo_batch: 3, count: 1 }] })
  })

  test('a machine that died after the order had settled is left to a person, also when it was the last', () => {
    const died = item('a', {
      state: 'running',
      instance_state: 'failed',
      attempts: 1,
      open: [attempt('a-1', { state: 'won', provider_id: 'm-1' })],
    })
    const failed = decideOrder(order([died], { state: 'running', settled: true }), NOW)
    expect(failed).toMatchObject({ state: 'failed', undo: [], done: true })
    const again = order([{ ...died, state: 'failed' }], { state: 'failed', settled: true })
    expect(decideOrder(again, NOW)).toMatchObject({ state: 'failed', undo: [], done: true })
    expect(decideOrder({ ...again, wish: 'terminate' }, NOW)).toMatchObject({
      state: 'failed',
      undo: [{}],
      done: false,
    })
  })
  test('a machine that died after the order had settled makes it partial', () => {
    const dead = item('b', { state: 'running', attempts: 1, instance_state: 'missing' })
    expect(decideOrder(order([running('a'), dead], { state: 'running' }), NOW)).toMatchObject({
      state: 'running',
      partial: true,
      done: true,
    })
  })

  test('an item whose instance a person ends is not created', () => {
    const decision = decideOrder(order([running('a'), item('b', { instance_wish: 'terminate' })]), NOW)
    expect(decision.open).toEqual([])
    expect(decision).toMatchObject({ state: 'running', partial: true, items: [{ id: 'b', state: 'cancelled' }] })
  })
})

test('while its machine starts at a cloud that cannot be listed, the order says so', () => {
  const won = attempt('x', { state: 'won', provider_id: 'm' })
  const view = (listed_at: number | null) =>
    order([item('a', { state: 'starting', attempts: 1, instance_state: 'starting', open: [won] })], {
      clouds: [cloud('east', { listed_at })],
    })
  expect(decideOrder(view(NOW - 100), NOW)).toMatchObject({ state: 'settling', blocker: null })
  expect(decideOrder(view(null), NOW)).toMatchObject({
    state: 'settling',
    blocker: { code: 'cloud_unseen' },
    due_at: NOW + 10_000,
  })
  // An account that had no machines was not listed before.
  const just_sent = { ...won, sent_at: NOW - 200 }
  const fresh = item('a', { state: 'starting', attempts: 1, instance_state: 'starting', open: [just_sent] })
  expect(decideOrder(order([fresh], { clouds: [cloud('east', { listed_at: 0 })] }), NOW)).toMatchObject({
    blocker: null,
  })
})

describe('a deadline', () => {
  const late = { deadline_at: NOW }

  test('is a moment to look again at, until then', () => {
    const view = order([running('a'), item('b')], { policy: 'any', deadline_at: NOW + 700 })
    expect(decideOrder(view, NOW)).toMatchObject({ state: 'launching', due_at: NOW + 700 })
  })

  test('passed with the policy met: what does not run is given up', () => {
    const decision = decideOrder(order([running('a'), item('b')], { policy: 'any', ...late }), NOW)
    expect(decision).toMatchObject({ state: 'running', partial: true, open: [], done: true })
    expect(decision.items).toMatchObject([{ id: 'b', state: 'cancelled' }])
  })

  test('passed without: all is undone', () => {
    const decision = decideOrder(order([running('a'), item('b')], late), NOW)
    expect(decision).toMatchObject({ state: 'compensating', rule: 'deadline_passed', open: [] })
  })

  test('passed, when one that ran is over and its item does not know yet: all is undone, at once', () => {
    const over = item('b', { state: 'running', attempts: 1, instance_state: 'terminated' })
    const unknown = item('c', { state: 'creating', open: [attempt('x', { state: 'unknown', settle_at: NOW + 900 })] })
    const decision = decideOrder(order([over, unknown], { policy: 'any', ...late }), NOW)
    expect(decision).toMatchObject({ state: 'compensating', rule: 'deadline_passed', due_at: NOW })
  })

  test('is of no matter to one that has settled', () => {
    const view = order([running('a')], { state: 'running', settled: true, ...late })
    expect(decideOrder(view, NOW)).toMatchObject({ state: 'running', due_at: null, done: true })
  })
})

test('an order that holds is not failed by refusals: it says who refuses, and tries again', () => {
  const all_refused = item('a', { attempts: 2, cloud_index: 1, last_error: refused('capacity') })
  const decision = decideOrder(order([all_refused], { hold: true }), NOW)
  expect(decision).toMatchObject({ state: 'held', blocker: { code: 'clouds_refuse', next_try_at: NOW + 5_000 } })
  expect(decision.items).toMatchObject([{ state: 'queued', cloud_index: 0, error: { class: 'capacity' } }])
})

test('a round of an order that holds begins at its first cloud, though the last has refused a moment ago', () => {
  const refused_by_last = item('a', { attempts: 2, cloud_index: 1, last_error: refused('capacity') })
  const [waits] = decideOrder(order([refused_by_last], { hold: true }), NOW).items
  const due = item('a', { attempts: 2, cloud_index: 0, last_error: waits!.error!, next_attempt_at: NOW })
  const decision = decideOrder(order([due], { hold: true }), NOW)
  expect(decision.open).toMatchObject([{ cloud_id: 'east' }])
})

describe('healing', () => {
  const won = (id: string) => attempt(`won-${id}`, { state: 'won', provider_id: `m-${id}` })
  const ran = (id: string, change: Partial<ItemView>) => item(id, { state: 'running', attempts: 1, ...change })
  const failed = (id: string, change: Partial<ItemView> = {}) =>
    ran(id, { instance_state: 'failed', open: [won(id)], ...change })
  const vanished = (id: string) => ran(id, { instance_state: 'missing' })
  const settled = (items: ItemView[], change: Partial<OrderView>) =>
    decideOrder(order([running('z'), ...items], { state: 'running', settled: true, healing_room: 1, ...change }), NOW)

  test('none: what died stays dead', () => {
    expect(settled([failed('a')], {}).items).toEqual([{ id: 'a', state: 'failed' }])
  })

  test('replace: another attempt at the first cloud, the old machine goes', () => {
    const decision = settled([failed('a')], { healing: 'replace' })
    expect(decision.open).toMatchObject([{ item_id: 'a', number: 2, cloud_id: 'east' }])
    expect(decision.instances).toMatchObject([{ id: 'instance-a', to: 'pending', rule: 'healing' }])
    expect(decision.undo).toEqual([{ attempt_id: 'won-a', undo_batch: 3 }])
    expect(decision).toMatchObject({ state: 'running', partial: true, done: false })
  })

  test('replace: what vanished as well, but no more at once than there is room for', () => {
    const decision = settled([vanished('a'), vanished('b')], { healing: 'replace' })
    expect(decision.open).toMatchObject([{ item_id: 'a' }])
    expect(decision.due_at).toBe(NOW + 5_000)
    expect(settled([vanished('b')], { healing: 'replace', healing_room: 0 })).toMatchObject({
      open: [],
      done: false,
      blocker: { code: 'healing_capped' },
    })
  })

  test('what waits to be healed does not run: its order is partial', () => {
    const capped = settled([vanished('b')], { healing: 'replace', healing_room: 0 })
    expect(capped).toMatchObject({ state: 'running', partial: true, reason: '1 of 2 run' })
    const restarting = settled([failed('a', { restart: 'open' })], { healing: 'restart' })
    expect(restarting).toMatchObject({ state: 'running', partial: true })
  })

  test('restart: what failed, once; what vanished is lost', () => {
    expect(settled([failed('a')], { healing: 'restart' }).restarts).toMatchObject([{ id: 'instance-a' }])
    expect(settled([failed('a', { restart: 'open' })], { healing: 'restart' })).toMatchObject({
      restarts: [],
      items: [],
    })
    expect(settled([failed('a', { restart: 'failed' })], { healing: 'restart' }).items).toMatchObject([
      { state: 'failed' },
    ])
    expect(settled([vanished('a')], { healing: 'restart' }).items).toMatchObject([{ state: 'failed' }])
  })

  test('of many that died at once a plan tells and restarts a hundred, and looks again at once', () => {
    const died = (healing: 'notify' | 'restart', restart: 'open' | null) =>
      settled(
        Array.from({ length: 120 }, (_, i) => ({ ...failed(`m${i}`), restart })),
        { healing, healing_room: 1_000 },
      )
    expect(died('notify', null)).toMatchObject({ due_at: NOW, done: false })
    expect(died('notify', null).attention).toHaveLength(100)
    expect(died('restart', null)).toMatchObject({ due_at: NOW, done: false })
    expect(died('restart', null).restarts).toHaveLength(100)
  })

  test('notify: a person is asked to look, once', () => {
    const decision = settled([failed('a')], { healing: 'notify' })
    expect(decision.attention).toMatchObject([{ id: 'instance-a' }])
    expect(decision.items).toMatchObject([{ id: 'a', state: 'failed' }])
  })

  test.each<[string, Partial<OrderView>, Partial<ItemView>]>([
    ['the end of the order', { wish: 'terminate' }, {}],
    ['the deadline of the order', { settled: false, policy: 'any', deadline_at: NOW }, {}],
    ['a person who stopped it', {}, { instance_wish: 'stop' }],
    ['a person who ended it', {}, { instance_wish: 'terminate' }],
  ])('%s comes before it', (_, view, change) => {
    const decision = settled([failed('a', change)], { healing: 'replace', ...view })
    expect(decision.open).toEqual([])
    expect(decision.instances.filter(({ to }) => to === 'pending')).toEqual([])
  })
})

describe('withdrawn', () => {
  const started = () => item('b', { state: 'starting', attempts: 1, instance_state: 'starting', open: [won('b')] })
  const won = (id: string) => attempt(`won-${id}`, { state: 'won', provider_id: `m-${id}` })

  test('what does not run yet is undone, what runs stays', () => {
    const view = order([running('a'), started(), item('c')], { wish: 'withdraw' })
    const decision = decideOrder(view, NOW)
    expect(decision.undo).toEqual([{ attempt_id: 'won-b', undo_batch: 3 }])
    expect(decision.instances).toMatchObject([
      { id: 'instance-b', to: 'terminating' },
      { id: 'instance-c', to: 'terminated' },
    ])
    expect(decision.open).toEqual([])
    expect(decision.done).toBe(false)
  })

  test('at the end it runs with what it has', () => {
    const over = [running('a'), item('c', { state: 'cancelled', instance_state: 'terminated' })]
    const decision = decideOrder(order(over, { wish: 'withdraw' }), NOW)
    expect(decision).toMatchObject({ state: 'running', partial: true, done: true })
  })

  test('what ran and died is kept, before its item is told failed and after', () => {
    const died = item('b', { state: 'running', attempts: 1, instance_state: 'failed', open: [won('b')] })
    const settled = { state: 'running', settled: true, wish: 'withdraw' } as const
    const failed = decideOrder(order([running('a'), died], settled), NOW)
    expect(failed).toMatchObject({ state: 'running', partial: true, undo: [], items: [{ id: 'b', state: 'failed' }] })
    const after = decideOrder(order([running('a'), { ...died, state: 'failed' }], settled), NOW)
    expect(after).toMatchObject({ state: 'running', undo: [], instances: [], done: true })
  })

  test('with nothing left but what died before the order settled, that is undone', () => {
    const died = item('b', { state: 'running', attempts: 1, instance_state: 'failed', open: [won('b')] })
    const over = item('c', { state: 'cancelled', instance_state: 'terminated' })
    const view = order([died, over], { wish: 'withdraw' })
    expect(decideOrder(view, NOW)).toMatchObject({ state: 'compensating', due_at: NOW, done: false })
    const failed = { ...died, state: 'failed' as const }
    const undoing = decideOrder({ ...view, state: 'compensating', items: [failed, over] }, NOW)
    expect(undoing).toMatchObject({ undo: [{ attempt_id: 'won-b' }], done: false })
  })

  test('with nothing that runs it is cancelled', () => {
    const over = [item('c', { state: 'cancelled', instance_state: 'terminated' })]
    expect(decideOrder(order(over, { wish: 'withdraw' }), NOW)).toMatchObject({ state: 'cancelled', done: true })
  })
})

describe('backward', () => {
  const cancel = { wish: 'cancel' as const }

  test('what was never sent is withdrawn at once', () => {
    const decision = decideOrder(
      order([item('a', { state: 'creating', attempts: 1, open: [attempt('x')] })], cancel),
      NOW,
    )
    expect(decision).toMatchObject({
      state: 'cancelled',
      done: true,
      attempts: [{ id: 'x', state: 'lost', gone: true }],
    })
  })

  test('what is being sent is waited for', () => {
    const sent = attempt('x', { state: 'sent', sends: 1, sent_at: NOW - 100, settle_at: NOW + 9_000 })
    const decision = decideOrder(order([item('a', { state: 'creating', attempts: 1, open: [sent] })], cancel), NOW)
    expect(decision).toMatchObject({ state: 'compensating', create_batches: [], done: false, attempts: [] })
    expect(decision.due_at).toBe(NOW - 100 + 5_000 + 2_000)
  })

  test('what was being sent when its worker was lost counts as unanswered, and says so at once', () => {
    const sent = attempt('x', { state: 'sent', sends: 1, sent_at: NOW - 7_000, settle_at: NOW + 9_000 })
    const decision = decideOrder(order([item('a', { state: 'creating', attempts: 1, open: [sent] })], cancel), NOW)
    expect(decision).toMatchObject({
      attempts: [{ id: 'x', state: 'unknown' }],
      blocker: { code: 'undo_unconfirmed', next_try_at: NOW + 9_000 },
      due_at: NOW + 9_000,
    })
  })

  test('an unanswered create ends only after it settled', () => {
    const unknown = (settle_at: number, listed_at: number | null = NOW) =>
      order(
        [
          item('a', {
            state: 'creating',
            attempts: 1,
            open: [attempt('x', { state: 'unknown', sends: 1, settle_at })],
          }),
        ],
        { ...cancel, clouds: [cloud('east', { listed_at }), cloud('west')] },
      )
    expect(decideOrder(unknown(NOW + 1), NOW)).toMatchObject({ state: 'compensating', done: false, due_at: NOW + 1 })
    expect(decideOrder(unknown(NOW), NOW)).toMatchObject({ state: 'cancelled', done: true })
    // And somebody looked since: after an outage of ours its machine may be there. A cloud that is away proves nothing.
    const unseen = decideOrder(unknown(NOW - 500, NOW - 1_000), NOW)
    expect(unseen).toMatchObject({ state: 'compensating', done: false, blocker: { code: 'undo_unconfirmed' } })
    expect(unseen.due_at).toBeGreaterThan(NOW)
    expect(decideOrder(unknown(NOW - 500, null), NOW)).toMatchObject({ state: 'cancelled', done: true })
  })

  test('machines are deleted in one batch a cloud and the order waits for them', () => {
    const decision = decideOrder(order([running('a'), running('b')], { state: 'running', wish: 'terminate' }), NOW)
    expect(decision).toMatchObject({
      state: 'terminating',
      delete_batches: [{ undo_batch: 3, cloud_id: 'east', count: 2 }],
      done: false,
    })
    expect(decision.instances.map((change) => change.to)).toEqual(['terminating', 'terminating'])
  })

  test('when all are gone the order is terminated', () => {
    const gone = item('a', { state: 'running', attempts: 1, instance_state: 'terminated' })
    expect(decideOrder(order([gone], { state: 'terminating', wish: 'terminate' }), NOW)).toMatchObject({
      state: 'terminated',
      done: true,
    })
  })

  test('a deletion that failed is tried again later, and says so', () => {
    const stubborn = attempt('x', {
      state: 'won',
      provider_id: 'm',
      undo_batch: 2,
      next_send_at: NOW + 900,
      error: refused('unavailable'),
    })
    const decision = decideOrder(
      order([item('a', { state: 'running', instance_state: 'terminating', open: [stubborn] })], {
        state: 'terminating',
        wish: 'terminate',
      }),
      NOW,
    )
    expect(decision).toMatchObject({
      delete_batches: [],
      due_at: NOW + 900,
      blocker: { code: 'undo_unconfirmed' },
      done: false,
    })
  })

  test('while a deletion that failed is asked for again, it still blocks: a try is no news', () => {
    const stubborn = attempt('x', {
      state: 'won',
      provider_id: 'm',
      undo_batch: 2,
      next_send_at: NOW - 100,
      error: refused('unavailable'),
    })
    const decision = decideOrder(
      order([item('a', { state: 'running', instance_state: 'terminating', open: [stubborn] })], {
        state: 'terminating',
        wish: 'terminate',
      }),
      NOW,
    )
    expect(decision).toMatchObject({ delete_batches: [{ count: 1 }], blocker: { code: 'undo_unconfirmed' } })
  })

  test('where nothing may be deleted by rule, machines stay as they are and the order says what it waits for', () => {
    const held = { blocker: { code: 'removal_off' }, delete_batches: [], undo: [], instances: [], done: false }
    const undoing = order([running('a'), running('b')], { wish: 'terminate', may_delete: false })
    expect(decideOrder(undoing, NOW)).toMatchObject({ state: 'terminating', ...held })
    const late = item('c', {
      ...running('c'),
      open: [...running('c').open, attempt('x', { number: 2, state: 'surplus', provider_id: 'm' })],
    })
    const settled = order([late], { state: 'running', may_delete: false })
    expect(decideOrder(settled, NOW)).toMatchObject({ state: 'running', ...held })
    const nothing_left = item('c', { ...late, open: late.open.slice(1), instance_state: 'missing', state: 'failed' })
    expect(
      decideOrder(order([nothing_left], { ...settled, state: 'failed', settled: true, items: [nothing_left] }), NOW),
    ).toMatchObject({ state: 'failed', done: false, blocker: { code: 'removal_off' } })
    expect(decideOrder({ ...settled, may_delete: true }, NOW)).toMatchObject({
      blocker: null,
      delete_batches: [{ count: 1 }],
    })
  })

  test('a late machine of a cancelled order is deleted and the order stays cancelled', () => {
    const late = item('a', {
      state: 'cancelled',
      attempts: 1,
      instance_state: 'terminated',
      open: [attempt('x', { state: 'surplus', provider_id: 'm' })],
    })
    const decision = decideOrder(order([late], { state: 'cancelled', wish: 'cancel' }), NOW)
    expect(decision).toMatchObject({ state: 'cancelled', delete_batches: [{ count: 1 }], done: false })
  })
})
