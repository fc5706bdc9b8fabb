import { expect, test } from 'vitest'
import { decideInstance, type InstanceView } from '../../domain/instance.ts'

const NOW = Date.parse('2026-11-01T00:00:00Z')
const running: InstanceView = {
  state: 'running',
  action: 'terminate',
  has_machine: true,
  next_try_at: null,
  last_error: null,
}

test.each<[string, Partial<InstanceView>, object]>([
  ['nothing asked for: done', { action: null }, { done: true, terminate: false, to: null }],
  ['a machine: deleted', {}, { to: 'terminating', terminate: true, done: false, blocker: null }],
  ['asked for already: deleted again', { state: 'terminating' }, { to: null, terminate: true }],
  [
    'not confirmed: waits, nothing blocks it',
    { state: 'terminating', next_try_at: NOW + 500 },
    { terminate: false, due_at: NOW + 500, blocker: null },
  ],
  [
    'refused: waits, and says what blocks it',
    { state: 'terminating', next_try_at: NOW + 500, last_error: 'quota exceeded' },
    {
      terminate: false,
      due_at: NOW + 500,
      blocker: { code: 'deletion_refused', reason: 'quota exceeded', next_try_at: NOW + 500 },
    },
  ],
  ['no machine yet: its order undoes it', { state: 'pending', has_machine: false }, { wake_order: true, done: false }],
  ['gone already: done', { state: 'terminated', has_machine: false }, { action_done: true, done: true }],
  ['missing: terminated', { state: 'missing', has_machine: false }, { to: 'terminated', action_done: true }],
])('%s', (_, view, expected) => {
  expect(decideInstance({ ...running, ...view }, NOW)).toMatchObject(expected)
})
