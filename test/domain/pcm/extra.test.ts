import { describe, expect, test } from 'vitest'
import { extraFor, extraProblems, mergeExtra, unknownMembers } from '../../../domain/pcm/extra.ts'

const KNOWN = new Set(['openstack', 'aws'])
const problems = (extra: unknown) => extraProblems(extra, KNOWN)

describe('an extra is accepted', () => {
  test.each([
    {},
    { openstack: { os_scheduler_hints: { different_host: ['214cc582-0041-46d8-9158-a1459a8233d7'] } } },
    { openstack: {}, aws: { kernel_id: 'aki-1' }, inventory: { rack: 7, roles: ['a'] } },
    { rackspace: { name: 'not for us, so not ours to refuse' } },
    { openstack: { metadata: { name: 'a name below the top is another thing' } } },
  ])('%j', (extra) => {
    expect(problems(extra)).toEqual([])
  })
})

describe('an extra is refused', () => {
  test.each<[string, unknown, string]>([
    ['that is a text', 'openstack', 'extra'],
    ['that is a list', [], 'extra'],
    ['that is null', null, 'extra'],
    ['with a member that is a text', { openstack: 'x' }, 'extra.openstack'],
    ['with a member that is a list', { openstack: [] }, 'extra.openstack'],
    ['with a member that is null', { inventory: null }, 'extra.inventory'],
    ['with a member of an unknown type that is a number', { rackspace: 1 }, 'extra.rackspace'],
    [
      'with tags of ours',
      { openstack: { metadata: { holdfast_attempt: 'x' } } },
      'extra.openstack.metadata.holdfast_attempt',
    ],
    ['with tags of ours in a list', { aws: { a: [{ Holdfast_Attempt: 1 }] } }, 'extra.aws.a[0].Holdfast_Attempt'],
    ['with another serial number', { inventory: { serial_number: 'x' } }, 'extra.inventory.serial_number'],
    ['with another name', { inventory: { fqdn: 'x' } }, 'extra.inventory.fqdn'],
  ])('%s', (_, extra, path) => {
    expect(problems(extra).map((problem) => problem.path)).toEqual([path])
  })

  test.each([
    ...[
      'name',
      'size',
      'flavor',
      'flavor_ref',
      'flavorRef',
      'InstanceType',
      'image',
      'imageRef',
      'image_id',
      'ImageId',
    ],
    ...['count', 'min_count', 'MaxCount', 'credentials', 'username', 'password', 'openstack_api_key'],
    ...['aws_secret_access_key', 'tags', 'TagSpecification', 'ClientToken'],
  ])('that would override %s', (key) => {
    expect(problems({ aws: { [key]: 1 } })).toMatchObject([
      { path: `extra.aws.${key}`, reason: expect.stringContaining('reserved') },
    ])
  })

  test.each(['__proto__', 'constructor', 'prototype'])('with %s, anywhere', (key) => {
    const inner = `{"${key}":{"polluted":true}}`
    for (const text of [inner, `{"openstack":${inner}}`, `{"openstack":{"a":[{"b":${inner}}]}}`, `{"other":${inner}}`])
      expect(problems(JSON.parse(text))).toHaveLength(1)
  })

  test('that is nested without end, or holds what the record cannot keep', () => {
    expect(problems(JSON.parse(`${'{"openstack":'.repeat(50)}{}${'}'.repeat(50)}`))).toHaveLength(1)
    expect(problems({ openstack: { a: 'x\0y' } })).toHaveLength(1)
    expect(problems({ openstack: { a: '\ud800' } })).toHaveLength(1)
  })
})

describe('merging', () => {
  test('goes deep into objects; of everything else the first is taken whole', () => {
    const request = { hints: { host: ['a'], group: null }, key: 'mine' }
    const cloud = { hints: { host: ['b', 'c'], group: 'g', zone: 'z' }, key: { not: 'merged' }, more: { x: 1 } }
    const provider = { hints: 'not an object', more: { x: 2, y: 2 }, last: true }
    expect(mergeExtra([request, undefined, cloud, provider])).toEqual({
      hints: { host: ['a'], group: null, zone: 'z' },
      key: 'mine',
      more: { x: 1, y: 2 },
      last: true,
    })
    expect(cloud.more).toEqual({ x: 1 })
  })
})

describe('of an extra', () => {
  const extra = { openstack: { a: 1 }, aws: { b: 2 }, inventory: { rack: 7 }, rackspace: { c: 3 } }
  test('only the member of the cloud`s type goes to it, and `inventory` to the inventory', () => {
    expect(extraFor('openstack', extra)).toEqual({ provider: { a: 1 }, inventory: { rack: 7 } })
    expect(extraFor('simulated', { aws: { b: 2 } })).toEqual({ provider: {}, inventory: {} })
    expect(extraFor('toString', {})).toEqual({ provider: {}, inventory: {} })
  })

  test('members that nobody is meant by are told', () => {
    expect(unknownMembers(extra, KNOWN)).toEqual([expect.stringContaining('extra.rackspace')])
  })
})
