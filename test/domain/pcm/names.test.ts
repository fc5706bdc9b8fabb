import { describe, expect, test } from 'vitest'
import { cloudOfRecord } from '../../../domain/pcm/configuration.ts'
import {
  describeOffer,
  knownNames,
  listOffers,
  mergeAttributes,
  nameMap,
  providerName,
  subnetName,
} from '../../../domain/pcm/names.ts'
import { providerTypeOf } from '../../../domain/pcm/provider-type.ts'
import { CONFIGURATION, cloudWith, LAB, OPENSTACK } from './configuration.ts'

describe('a name at a cloud', () => {
  test.each([
    ['mapped by a text', 'large', '8GB server'],
    ['mapped by an object with an id, at the provider', 'medium', '4GB server'],
    ['of the provider, where the entry of the cloud only adds attributes', 'small', '2GB server'],
    ['passed through where nothing maps it', 'tiny', 'tiny'],
  ])('is %s', (_, name, expected) => {
    expect(providerName(LAB, 'sizes', name)).toBe(expected)
  })

  test('is the cloud`s before its provider`s', () => {
    expect(providerName(cloudWith({ sizes: { small: 'mine' } }), 'sizes', 'small')).toBe('mine')
    expect(providerName(cloudWith({ sizes: { small: { id: 'mine' } } }), 'sizes', 'small')).toBe('mine')
  })

  test('is our own where the entry has attributes and nobody an id', () => {
    expect(providerName(cloudWith({ sizes: { tiny: { price: 1 } } }), 'sizes', 'tiny')).toBe('tiny')
  })

  test.each(['toString', 'constructor', '__proto__'])('is no accident of the language: %s', (name) => {
    expect(providerName(LAB, 'sizes', name)).toBe(name)
    expect(subnetName(LAB, name)).toBe(null)
    expect(describeOffer(CONFIGURATION, LAB, 'sizes', name, null)).toBe(undefined)
  })

  test('is known where a file describes it or a map names it', () => {
    expect(knownNames(CONFIGURATION, LAB, 'sizes')).toEqual(['huge', 'large', 'medium', 'small', 'tiny'])
    expect(nameMap(CONFIGURATION, LAB, 'sizes')).toEqual({
      ...{ huge: 'huge-at-provider', large: '8GB server', medium: '4GB server', small: '2GB server', tiny: 'tiny' },
    })
  })
})

describe('a subnet', () => {
  test.each([
    ['office', 'office-net'],
    ['dmz', 'dmz-net'],
    ['inner', 'inner'],
    ['elsewhere', null],
  ])('%s is %s at the cloud: it does not pass through', (name, expected) => {
    expect(subnetName(LAB, name)).toBe(expected)
  })
})

describe('attributes', () => {
  test('are the first that are not null', () => {
    expect(
      mergeAttributes([
        { a: null, b: undefined, c: false },
        { a: 1, b: 0, c: 2 },
        { a: 3, d: '' },
      ]),
    ).toEqual({
      ...{ a: 1, b: 0, c: false, d: '' },
    })
  })

  test('of an offer come from the cloud itself, its file, its provider`s, ours', () => {
    const live = [{ id: '17', name: '2GB server', vcpus: 2, memory_mib: 2_048, disk_gib: 20 }]
    expect(describeOffer(CONFIGURATION, LAB, 'sizes', 'small', live)).toEqual({
      id: 'small',
      provider_id: '17',
      name: '2GB server',
      ram: 2_048,
      cores: 2,
      disk: 20,
      price: 8,
      description: 'cheap',
    })
    expect(describeOffer(CONFIGURATION, LAB, 'images', 'debian', null)).toEqual({
      id: 'debian',
      provider_id: 'debian-13',
      osfamily: 'provider says',
      operatingsystem: 'Debian',
    })
  })

  test('of a cloud that was not asked are those of the files, without what is null', () => {
    const offer = describeOffer(CONFIGURATION, LAB, 'sizes', 'small', null)
    expect(offer).toEqual({ id: 'small', provider_id: '2GB server', price: 8, description: 'cheap', ram: 1 })
  })

  test('never change what an offer is called', () => {
    const cloud = cloudWith({ sizes: { small: { id: 'flavor', provider_id: 'other' } } })
    const configuration = { ...CONFIGURATION, sizes: new Map([['small', { id: 'liar', provider_id: 'liar' }]]) }
    expect(describeOffer(configuration, cloud, 'sizes', 'small', null)).toMatchObject({
      id: 'small',
      provider_id: 'flavor',
    })
  })
})

describe('the offers of a cloud', () => {
  const item = (id: string, name: string) => ({ id, name })
  test('are what it has of ours, by name or id', () => {
    const live = [item('1', '8GB server'), item('tiny', 'anything'), item('9', 'a flavor nobody named')]
    const offers = listOffers(CONFIGURATION, LAB, 'sizes', live)
    expect(offers.map(({ id, provider_id }) => [id, provider_id])).toEqual([
      ['large', '1'],
      ['tiny', 'tiny'],
    ])
  })

  test('are everything known where it was not asked', () => {
    expect(listOffers(CONFIGURATION, LAB, 'sizes', null).map(({ id }) => id)).toEqual(
      knownNames(CONFIGURATION, LAB, 'sizes'),
    )
  })
})

describe('a cloud of the record', () => {
  const row = { name: 'lab-1', provider: 'simulated', settings: {}, sizes: { own: 'x' }, images: {} }
  test('is what its file says', () => {
    expect(cloudOfRecord(CONFIGURATION, { ...row, source: 'file' })).toBe(LAB)
  })

  test('that was made through the API is what the record says, whatever a file of that name says', () => {
    const cloud = cloudOfRecord(CONFIGURATION, { ...row, source: 'api', settings: { presents_as: 'openstack' } })
    expect(cloud).toMatchObject({ provider: 'openstack', sizes: { own: 'x' }, defaults: {} })
    expect(cloud.of_provider).not.toBe(OPENSTACK)
    expect(knownNames(CONFIGURATION, cloud, 'sizes')).toEqual(['own'])
  })

  test('whose file is gone is what the record says', () => {
    const cloud = cloudOfRecord(CONFIGURATION, { ...row, name: 'gone', source: 'file' })
    expect(knownNames(CONFIGURATION, cloud, 'sizes')).toEqual(['own'])
  })

  test.each([
    [{ provider: 'simulated', settings: {} }, 'simulated'],
    [{ provider: 'simulated', settings: { presents_as: 'aws' } }, 'aws'],
    [{ provider: 'ec2', settings: { presents_as: 'openstack' } }, 'aws'],
    [{ provider: 'openstack', settings: {} }, 'openstack'],
    [{ provider: 'deltacloud', settings: {} }, 'deltacloud'],
  ])('%j is of type %s', (cloud, type) => {
    expect(providerTypeOf(cloud)).toBe(type)
  })
})
