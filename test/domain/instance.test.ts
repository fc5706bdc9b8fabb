import { describe, expect, test } from 'vitest'
import {
  type ActionView,
  actionsAllowed,
  decideInstance,
  type InstanceView,
  stateAfter,
} from '../../domain/instance.ts'

const NOW = Date.parse('2026-11-01T00:00:00Z')
const asked = (action: Partial<ActionView> & Pick<ActionView, 'kind'>): ActionView => ({
  started_at: NOW - 1_000,
  confirmed: false,
  next_try_at: null,
  error: null,
  ...action,
})
const running: InstanceView = {
  state: 'running',
  action: asked({ kind: 'terminate' }),
  has_machine: true,
  next_delete_at: null,
  deletion_error: null,
  cloud: 'east',
}
const failed = (errorClass: string) => ({ class: errorClass, message: `the cloud said ${errorClass}` })
const DONE = { ends: { state: 'done' }, step: null }

describe('a terminate', () => {
  test.each<[string, Partial<InstanceView>, object]>([
    ['nothing asked for: nothing', { action: null }, { ends: null, step: null, to: null }],
    ['a machine: deleted', {}, { to: 'terminating', step: 'terminate', ends: null, blocker: null }],
    ['asked for already: deleted again', { state: 'terminating' }, { to: null, step: 'terminate' }],
    [
      'not confirmed: waits, nothing blocks it',
      { state: 'terminating', next_delete_at: NOW + 500 },
      { step: null, due_at: NOW + 500, blocker: null },
    ],
    [
      'refused: waits, and says what blocks it',
      { state: 'terminating', next_delete_at: NOW + 500, deletion_error: 'quota exceeded' },
      {
        step: null,
        due_at: NOW + 500,
        blocker: { code: 'deletion_refused', reason: 'quota exceeded', next_try_at: NOW + 500 },
      },
    ],
    ['no machine yet: its order undoes it', { state: 'pending', has_machine: false }, { wake_order: true, ends: null }],
    ['gone already: done', { state: 'terminated', has_machine: false }, DONE],
    ['missing: terminated', { state: 'missing', has_machine: false }, { ...DONE, to: 'terminated' }],
  ])('%s', (_, view, expected) => {
    expect(decideInstance({ ...running, ...view }, NOW)).toMatchObject(expected)
  })
})

describe('start, stop, reboot', () => {
  test.each<[string, ActionView, Partial<InstanceView>, object]>([
    ['not yet sent: sent', asked({ kind: 'stop' }), {}, { step: 'act', ends: null }],
    [
      'so on record already: its cloud is asked all the same',
      asked({ kind: 'stop' }),
      { state: 'stopped' },
      { step: 'act', ends: null },
    ],
    ['a reboot of a running machine is not done by that', asked({ kind: 'reboot' }), {}, { step: 'act', ends: null }],
    ['a confirmed reboot is done', asked({ kind: 'reboot', confirmed: true }), {}, DONE],
    [
      'waits for the next look, nothing blocks it',
      asked({ kind: 'stop', next_try_at: NOW + 700 }),
      {},
      { step: null, due_at: NOW + 700, blocker: null },
    ],
    [
      'an unreachable cloud blocks it',
      asked({ kind: 'stop', next_try_at: NOW + 700, error: failed('unavailable') }),
      {},
      { step: null, blocker: { code: 'cloud_unreachable', next_try_at: NOW + 700 } },
    ],
    [
      'refused credentials block it, also while it is asked again',
      asked({ kind: 'stop', next_try_at: NOW - 1, error: failed('auth') }),
      {},
      { step: 'act', blocker: { code: 'credentials_refused' } },
    ],
    [
      'an unanswered stop is asked again',
      asked({ kind: 'stop', next_try_at: NOW, error: failed('lost_reply') }),
      {},
      { step: 'act', blocker: { code: 'action_unconfirmed' } },
    ],
    [
      'an unanswered reboot is not',
      asked({ kind: 'reboot', next_try_at: NOW, error: failed('lost_reply') }),
      {},
      { step: null, ends: { state: 'failed', error: { class: 'lost_reply' } } },
    ],
    [
      'a refusal ends it',
      asked({ kind: 'start', error: failed('capacity') }),
      { state: 'stopped' },
      { step: null, ends: { state: 'failed', error: failed('capacity') } },
    ],
    [
      'given up after ten minutes',
      asked({ kind: 'start', started_at: NOW - 600_000, error: failed('unavailable') }),
      { state: 'stopped' },
      { step: null, ends: { state: 'failed', error: failed('unavailable') } },
    ],
    [
      'without a machine it fails',
      asked({ kind: 'stop' }),
      { state: 'missing', has_machine: false },
      { ends: { state: 'failed', error: { class: 'not_found' } } },
    ],
    [
      'the end of its order supersedes it',
      asked({ kind: 'stop' }),
      { state: 'terminating' },
      { step: null, ends: { state: 'superseded' } },
    ],
  ])('%s', (_, action, view, expected) => {
    expect(decideInstance({ ...running, ...view, action }, NOW)).toMatchObject(expected)
  })
})

test.each([
  ['running', [], ['stop', 'reboot', 'terminate']],
  ['running', ['stop'], ['start', 'terminate']],
  ['running', ['stop', 'start'], ['stop', 'reboot', 'terminate']],
  ['stopped', [], ['start', 'terminate']],
  ['pending', [], ['terminate']],
  ['terminated', [], []],
  ['running', ['terminate'], ['terminate']],
] as const)('what may be asked of one that is %s after %s', (state, open, allowed) => {
  expect(actionsAllowed(stateAfter(state, open))).toEqual(allowed)
})
