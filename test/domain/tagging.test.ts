import { expect, test } from 'vitest'
import { decideTagging, type TaggingView } from '../../domain/tagging.ts'

const NOW = Date.parse('2026-11-01T00:00:00Z')
const adopted: TaggingView = { wish: 'adopt', pointless: false, next_try_at: NOW, error: null, cloud: 'east' }

test.each<[string, TaggingView | null, object]>([
  ['nothing to be told: nothing', null, { step: false, drop: false, due_at: null, blocker: null, waiting_for: '' }],
  [
    'adopted: the machine gets our tags',
    adopted,
    { step: true, due_at: null, blocker: null, waiting_for: 'cloud east to tag its machine as ours' },
  ],
  [
    'released: it loses them',
    { ...adopted, wish: 'release' },
    { step: true, waiting_for: 'cloud east to take our tags off its machine' },
  ],
  [
    'refused: waits, and says what blocks it',
    { ...adopted, next_try_at: NOW + 500, error: 'not now' },
    {
      step: false,
      due_at: NOW + 500,
      blocker: {
        code: 'tags_unconfirmed',
        reason: 'cloud east has not confirmed the tags of its machine: not now',
        next_try_at: NOW + 500,
      },
    },
  ],
  [
    'asked for again: still blocked until it is confirmed',
    { ...adopted, error: 'not now' },
    { step: true, blocker: {} },
  ],
  [
    'its machine is gone: forgotten, and nothing waits for it',
    { ...adopted, pointless: true, error: 'not now' },
    { step: false, drop: true, due_at: null, blocker: null, waiting_for: '' },
  ],
])('%s', (_, view, expected) => {
  expect(decideTagging(view, NOW)).toMatchObject(expected)
})
