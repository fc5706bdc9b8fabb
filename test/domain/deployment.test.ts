import { describe, expect, test } from 'vitest'
import {
  actionFor,
  chooseWave,
  DEPLOYMENT_ACTIONS,
  type DeploymentView,
  decideDeployment,
  deploymentActionsAllowed,
  waveSizeOf,
} from '../../domain/deployment.ts'
import { actionsAllowed } from '../../domain/instance.ts'

const STATES = [
  'pending',
  'starting',
  'running',
  'stopping',
  'stopped',
  'rebooting',
  'terminating',
  'terminated',
  'failed',
  'missing',
]

test('what is asked of an instance is allowed there', () => {
  const asked = DEPLOYMENT_ACTIONS.flatMap((action) =>
    STATES.map((state) => [state, actionFor(action, state)] as const),
  )
  for (const [state, kind] of asked) if (kind) expect(actionsAllowed(state)).toContain(kind)
  expect(asked.filter(([, kind]) => kind)).toHaveLength(6)
})

test.each([
  [1, 1],
  [4, 1],
  [10, 2],
  [14, 2],
  [125, 25],
  [1_000, 25],
])('a wave of %i instances is %i', (members, size) => {
  expect(waveSizeOf(members)).toBe(size)
})

describe('what may be asked', () => {
  test.each([
    ['some run', 'running', null, ['running', 'failed'], ['stop', 'restart', 'terminate']],
    ['some run, some are stopped', 'running', null, ['running', 'stopped'], ['start', 'stop', 'restart', 'terminate']],
    ['all are stopped', 'running', null, ['stopped'], ['start', 'restart', 'terminate']],
    ['none is there yet', 'queued', null, ['pending'], ['terminate']],
    ['another is open: it, and the end', 'running', 'stop', ['running'], ['stop', 'terminate']],
    ['its end is open', 'terminating', 'terminate', ['running'], ['terminate']],
    ['one order ends, another runs', 'terminating', null, ['running'], ['stop', 'restart', 'terminate']],
    ['failed, and machines may be left', 'failed', null, ['failed'], ['terminate']],
    ['over', 'terminated', null, [], []],
    ['never was', 'cancelled', null, [], []],
  ] as const)('%s', (_, state, open, members, allowed) => {
    expect(deploymentActionsAllowed({ state, open, members })).toEqual(allowed)
  })
})

describe('a wave', () => {
  const members = ['running', 'stopped', 'running', 'failed', 'running', 'running'].map((state, i) => ({
    id: String(i),
    state,
  }))

  test('takes those that it fits, and passes over others', () => {
    expect(chooseWave('stop', members, 2)).toEqual({ chosen: ['0', '2'], skipped: 1, last: '2' })
    expect(chooseWave('stop', members.slice(3), 2)).toEqual({ chosen: ['4', '5'], skipped: 1, last: '5' })
  })

  test('may find nobody', () => {
    expect(chooseWave('start', [{ id: '0', state: 'running' }], 2)).toEqual({ chosen: [], skipped: 1, last: '0' })
    expect(chooseWave('start', [], 2)).toEqual({ chosen: [], skipped: 0, last: null })
  })
})

const stop: DeploymentView = {
  kind: 'stop',
  wave: 2,
  of_wave: { opened: 4, open: 0, failed: 0 },
  left: 3,
  orders_open: 0,
}
const terminate: DeploymentView = {
  kind: 'terminate',
  wave: 0,
  of_wave: { opened: 0, open: 0, failed: 0 },
  left: 0,
  orders_open: 0,
}
const GOES_ON = { ends: null }
const DONE = { step: null, ends: { state: 'done' } }

test.each<[string, DeploymentView, object]>([
  ['the first wave begins', { ...stop, wave: 0, of_wave: { opened: 0, open: 0, failed: 0 } }, { step: 'begin_wave' }],
  [
    'a wave under way is waited for',
    { ...stop, of_wave: { opened: 4, open: 1, failed: 3 } },
    { ...GOES_ON, step: null, waiting_for: 'the stop of 1 of 4 instances of wave 2' },
  ],
  ['the next one begins when it is over', stop, { ...GOES_ON, step: 'begin_wave' }],
  ['half of it may fail', { ...stop, of_wave: { opened: 4, open: 0, failed: 2 } }, { ...GOES_ON, step: 'begin_wave' }],
  [
    'more than half may not: no other begins',
    { ...stop, of_wave: { opened: 4, open: 0, failed: 3 } },
    {
      step: null,
      ends: {
        state: 'failed',
        error: { class: 'wave_failed', message: '3 of 4 instances of wave 2 failed; 3 more are left as they are' },
      },
    },
  ],
  [
    'that holds for the last one as well',
    { ...stop, left: 0, of_wave: { opened: 1, open: 0, failed: 1 } },
    { step: null, ends: { state: 'failed' } },
  ],
  ['nobody is left: done', { ...stop, left: 0 }, DONE],
  [
    'none of the last ones failed too much: done',
    { ...stop, left: 0, of_wave: { opened: 4, open: 0, failed: 1 } },
    DONE,
  ],
  ['orders are told of their end', { ...terminate, left: 2, orders_open: 2 }, { ...GOES_ON, step: 'end_orders' }],
  ['and waited for', { ...terminate, orders_open: 1 }, { ...GOES_ON, step: null, waiting_for: 'the end of 1 order' }],
  ['all are over: done', terminate, DONE],
])('%s', (_, view, expected) => {
  expect(decideDeployment(view)).toMatchObject(expected)
})
