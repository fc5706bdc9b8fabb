import { describe, expect, test } from 'vitest'
import { DomainError } from '../../../domain/errors.ts'
import { NO_MAPS } from '../../../domain/pcm/configuration.ts'
import { type PcmRequest, resolveRequest } from '../../../domain/pcm/request.ts'
import { readRoles } from '../../../domain/pcm/roles.ts'
import { CONFIGURATION, cloudWith, LAB } from './configuration.ts'

const resolve = (request: PcmRequest, cloud = LAB) => resolveRequest(CONFIGURATION, cloud, request)
function refusal(request: PcmRequest, cloud = LAB): DomainError {
  try {
    resolve(request, cloud)
  } catch (error) {
    if (error instanceof DomainError) return error
    throw error
  }
  throw new Error('it was accepted')
}
const problem = (request: PcmRequest, cloud = LAB) => refusal(request, cloud).problems[0]!

describe('defaults', () => {
  test('are the cloud`s, then its provider`s', () => {
    expect(resolve({})).toMatchObject({
      size: { name: 'large', provider_name: '8GB server' },
      image: { name: 'debian', provider_name: 'debian-13' },
      environment: 'lab',
      subnet: null,
      roles: [],
      warnings: [],
    })
  })

  test('give way to the request, and null is not given', () => {
    expect(resolve({ size: 'medium', environment: 'prod', image: null })).toMatchObject({
      size: { name: 'medium', provider_name: '4GB server' },
      image: { name: 'debian' },
      environment: 'prod',
    })
  })

  test('may be missing: then a size is asked for', () => {
    const bare = cloudWith({ of_provider: NO_MAPS })
    expect(problem({}, bare)).toMatchObject({ path: 'size', reason: expect.stringContaining('missing') })
    expect(resolve({ size: 'tiny', image: 'debian' }, bare).environment).toBe(null)
  })
})

describe('a request is refused, saying where', () => {
  test.each<[PcmRequest, string]>([
    [{ size: 'enormous' }, 'size'],
    [{ image: 'windows' }, 'image'],
    [{ size: 7 }, 'size'],
    [{ size: '' }, 'size'],
    [{ environment: ['lab'] }, 'environment'],
    [{ environment: 'a\nb' }, 'environment'],
    [{ role: 7 }, 'role'],
    [{ role: ['a', 7] }, 'role'],
    [{ role: 'a\u0007' }, 'role'],
    [{ subnet: 'nowhere' }, 'subnet'],
    [{ subnet: {} }, 'subnet'],
    [{ extra: [] }, 'extra'],
    [{ extra: { openstack: { name: 'mine' } } }, 'extra.openstack.name'],
  ])('%j', (request, path) => {
    const { code, problems } = refusal(request)
    expect({ code, paths: problems.map((entry) => entry.path) }).toEqual({ code: 'invalid_request', paths: [path] })
  })

  test('with everything that is wrong with it, and what there is', () => {
    const { problems } = refusal({ size: 'a', image: 'b', extra: 1 })
    expect(problems.map(({ path }) => path)).toEqual(['size', 'image', 'extra'])
    expect(problems[1]!.accepted).toEqual(['debian'])
  })

  test('with not more than people read', () => {
    const many = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`t${i}`, i]))
    expect(refusal({ extra: many }).problems).toHaveLength(20)
  })
})

describe('a subnet', () => {
  test('is mapped', () => {
    expect(resolve({ subnet: 'office' }).subnet).toEqual({ name: 'office', provider_name: 'office-net' })
    expect(resolve({ subnet: 'dmz' }).subnet).toEqual({ name: 'dmz', provider_name: 'dmz-net' })
  })

  test('is refused where there are others, and where there are none', () => {
    expect(problem({ subnet: 'x' })).toMatchObject({ accepted: ['dmz', 'inner', 'office'] })
    const bare = cloudWith({ of_provider: { ...LAB.of_provider, subnets: {} } })
    expect(problem({ subnet: 'office' }, bare).reason).toContain('no subnets')
  })
})

describe('roles', () => {
  test.each<[unknown, readonly string[]]>([
    [undefined, []],
    [null, []],
    ['', []],
    ['web', ['web']],
    ['web, db,,web', ['web', 'db']],
    [
      ['web', ' db '],
      ['web', 'db'],
    ],
    [[], []],
  ])('%j are %j', (input, roles) => {
    expect(readRoles(input)).toEqual({ roles })
  })

  test('without a file allow everything', () => {
    expect(resolve({ role: 'unheard-of' }).roles).toEqual(['unheard-of'])
  })

  test.each<[string, PcmRequest, string, RegExp]>([
    ['sizes', { role: 'db', size: 'small' }, 'size', /role db does not allow size small .*"sizes"/],
    ['images', { role: 'web' }, 'image', /role web does not allow image debian .*"images"/],
  ])('restrict %s', (_, request, path, reason) => {
    expect(problem(request)).toMatchObject({ path, reason: expect.stringMatching(reason) })
  })

  test('allow what they list, defaults included', () => {
    expect(resolve({ role: 'db' }).size.name).toBe('large')
  })

  test('restrict clouds, each rule told for each role', () => {
    const elsewhere = { ...LAB, name: 'lab-9' }
    const { problems, message } = refusal({ role: 'db,web', size: 'small' }, elsewhere)
    expect(problems.map(({ path, reason }) => [path, reason.split(' ')[1]])).toEqual([
      ['size', 'db'],
      ['cloud', 'db'],
      ['image', 'web'],
      ['cloud', 'web'],
    ])
    expect(message).toMatch(/role db .*sizes/)
  })

  test('add to the request, below what it says itself', () => {
    const { provider_extra } = resolve({ role: 'db', extra: { openstack: { c: 'request' } } })
    expect(provider_extra).toEqual({ a: 'db', b: 'provider', c: 'request', nested: { x: 1 } })
  })
})

describe('extra', () => {
  test('is the request`s over the cloud`s over the provider`s', () => {
    const { provider_extra, inventory_extra } = resolve({
      extra: { openstack: { nested: { x: 2, y: 2 } }, aws: { z: 1 }, inventory: { rack: 7 } },
    })
    expect(provider_extra).toEqual({ a: 'cloud', b: 'provider', nested: { x: 2, y: 2 } })
    expect(inventory_extra).toEqual({ rack: 7 })
  })

  test('for provider types that nobody here knows is accepted with a warning', () => {
    const { warnings, provider_extra } = resolve({ extra: { rackspace: { name: 'x' } } })
    expect(warnings).toEqual([expect.stringContaining('extra.rackspace')])
    expect(provider_extra).not.toHaveProperty('name')
  })

  test('that is null is none', () => {
    expect(resolve({ extra: null }).provider_extra).toMatchObject({ a: 'cloud' })
  })
})
