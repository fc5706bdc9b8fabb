import { describe, expect, test } from 'vitest'
import {
  decideEntry,
  type Entry,
  type EntryView,
  fullName,
  inventoryStatus,
  isHostName,
  recordOf,
} from '../../../domain/pcm/inventory.ts'

const NOW = Date.parse('2026-11-01T00:00:00Z')
const fresh: EntryView = {
  is_named: false,
  is_over: false,
  was_asked: false,
  is_told: true,
  has_account: true,
  next_try_at: NOW,
  error: null,
}
const named: EntryView = { ...fresh, is_named: true, was_asked: true }
const NOTHING = { step: null, due_at: null, blocker: null, waiting_for: '' }

describe('what an entry needs', () => {
  test.each<[string, EntryView | null, object]>([
    ['no entry outside: nothing', null, NOTHING],
    ['new: a name', fresh, { step: 'name', due_at: null, blocker: null, waiting_for: 'the inventory to name it' }],
    [
      'asked for in vain: waits, and says what blocks it',
      { ...fresh, was_asked: true, next_try_at: NOW + 5, error: 'no' },
      {
        step: null,
        due_at: NOW + 5,
        blocker: { code: 'name_missing', reason: 'the inventory has not named it: no', next_try_at: NOW + 5 },
      },
    ],
    [
      'asked again: blocked until it is named',
      { ...fresh, was_asked: true, error: 'no' },
      { step: 'name', blocker: { code: 'name_missing' } },
    ],
    ['over before anybody asked: no name is spent', { ...fresh, is_over: true }, NOTHING],
    [
      'over, and perhaps named: asks, since the name would be lost',
      { ...fresh, is_over: true, was_asked: true },
      { step: 'name' },
    ],
    ['named and told: nothing', named, NOTHING],
    [
      'named, and something new to tell: a record',
      { ...named, is_told: false },
      { step: 'record', waiting_for: 'the inventory to take its record' },
    ],
    [
      'the record was refused',
      { ...named, is_told: false, next_try_at: NOW + 5, error: 'no' },
      { step: null, blocker: { code: 'record_unconfirmed', reason: 'the inventory has not taken its record: no' } },
    ],
    ['told what was refused before: nothing blocks', { ...named, error: 'no' }, NOTHING],
    [
      'nobody to ask: waits for a file',
      { ...fresh, has_account: false },
      {
        step: null,
        due_at: NOW + 60_000,
        blocker: { code: 'name_missing', reason: expect.stringContaining('no inventory.conf') },
      },
    ],
    ['nobody to ask, and nothing wanted: nothing', { ...named, has_account: false }, NOTHING],
  ])('%s', (_, view, expected) => {
    expect(decideEntry(view, NOW)).toMatchObject(expected)
  })
})

const LABELS = `${'x'.repeat(49)}.`.repeat(5)

test.each([
  ['a', true],
  ['web-1.example.com', true],
  ['WEB', true],
  ['1and1', true],
  ['x'.repeat(63), true],
  [`${LABELS}abc`, true],
  [`${LABELS}abcd`, false],
  ['x'.repeat(64), false],
  ['', false],
  ['-a', false],
  ['a-', false],
  ['a..b', false],
  ['a.', false],
  ['a_b', false],
  ['a b', false],
  ['a\n', false],
  ['ä', false],
  ['a/b', false],
  [7, false],
  [null, false],
  [['a'], false],
])('%j is a host name: %s', (text, is_one) => {
  expect(isHostName(text)).toBe(is_one)
})

test.each([
  ['web-1', null, true, 'web-1'],
  ['web-1', 'lab.example.com', true, 'web-1.lab.example.com'],
  ['web-1.example.com', 'lab.example.com', true, 'web-1.example.com'],
  ['web.qa-1', 'lab.example.com', false, 'web.qa-1.lab.example.com'],
])('%s in %s, given outside: %s is %s in full', (name, domain, outside, full) => {
  expect(fullName(name, domain, outside)).toBe(full)
})

const entry: Entry = {
  name: 'web-1',
  cloud: 'lab',
  environment: 'qa',
  roles: ['web', 'cache'],
  subnet: null,
  host_domain: 'lab.example.com',
  extra: { rack: 'r-7', cloud: 'east' },
  state: 'running',
  size: 'small',
  image: 'debian',
  provider_id: 'm-1',
  public_addresses: [],
  private_addresses: ['10.0.0.1', '10.0.0.2'],
}

test('a record says all there is, with what its caller adds over it', () => {
  expect(recordOf(entry, false)).toEqual({
    fqdn: 'web-1.lab.example.com',
    size: 'small',
    image: 'debian',
    serial_number: 'm-1',
    roles: 'cache,web',
    ip_address: '10.0.0.1',
    host_fqdn: 'web-1.lab.example.com',
    environment_name: 'qa',
    cloud: 'east',
    status: 'active',
    rack: 'r-7',
  })
})

test('before there is a machine nothing is told; of one that is made anew, that it is building', () => {
  const unmade = { ...entry, state: 'pending', provider_id: null }
  expect(recordOf(unmade, false)).toBeNull()
  expect(recordOf(unmade, true)).toMatchObject({ status: 'building', serial_number: null })
  expect(recordOf({ ...unmade, state: 'terminated' }, false)).toMatchObject({ status: 'decommissioned' })
  expect(recordOf({ ...entry, name: null }, true)).toBeNull()
})

test.each([
  ['pending', 'building'],
  ['starting', 'building'],
  ['running', 'active'],
  ['stopped', 'active'],
  ['rebooting', 'active'],
  ['terminating', 'active'],
  ['terminated', 'decommissioned'],
  ['failed', 'decommissioned'],
  ['missing', 'decommissioned'],
])('%s is %s', (state, status) => {
  expect(inventoryStatus(state)).toBe(status)
})
