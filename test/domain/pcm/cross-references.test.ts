import { expect, test } from 'vitest'
import { type Configuration, NO_MAPS } from '../../../domain/pcm/configuration.ts'
import { crossReferences } from '../../../domain/pcm/cross-references.ts'
import { CONFIGURATION, cloudWith, LAB } from './configuration.ts'

const warnings = (change: Partial<Configuration>) =>
  crossReferences({ ...CONFIGURATION, providers: new Map(), clouds: new Map(), roles: new Map(), ...change }).map(
    ({ file, reason }) => `${file}: ${reason}`,
  )
const fine = { sizes: { small: 'x' }, defaults: { size: 'small', image: 'debian' }, of_provider: NO_MAPS }

test('files that fit together are not spoken of', () => {
  const roles = new Map([['db', { sizes: ['small'], images: ['debian'], clouds: ['made-by-api'], extra: { aws: {} } }]])
  expect(warnings({ clouds: new Map([['lab-1', cloudWith(fine)]]), roles })).toEqual([])
})

test.each([
  ['a map of what nobody describes', { sizes: { smal: 'x' } }, /clouds\/lab-1.conf: maps size smal, .* sizes\//],
  [
    'a default that is not known',
    { defaults: { size: 'smal' } },
    /clouds\/lab-1.conf: its default size smal is not known/,
  ],
  [
    'a default subnet without any',
    { defaults: { subnet: 'dmz' } },
    /its default subnet dmz is not known at cloud lab-1/,
  ],
  ['a default extra for nobody', { defaults: { extra: { opnstack: {} } } }, /extra.opnstack is for a provider type/],
])('%s is told', (_, change, expected) => {
  const cloud = cloudWith({ ...fine, ...change })
  expect(warnings({ clouds: new Map([['lab-1', cloud]]) })).toEqual([expect.stringMatching(expected)])
})

test('a default of a provider is told for the clouds where it does not hold', () => {
  const of_provider = { ...NO_MAPS, defaults: { image: 'gone' } }
  const clouds = new Map([['lab-1', { ...LAB, ...NO_MAPS, of_provider }]])
  expect(warnings({ clouds })).toEqual([expect.stringMatching(/^providers\/openstack.conf: .* image gone .* lab-1$/)])
})

test('a provider file without clouds is looked at, too', () => {
  const providers = new Map([['aws', { ...NO_MAPS, images: { win: 'ami-1' } }]])
  expect(warnings({ providers })).toEqual([expect.stringMatching(/^providers\/aws.conf: maps image win/)])
})

test('a role that allows what is not there is told', () => {
  const roles = new Map([['db', { sizes: ['smal', 'small'], images: ['win'], clouds: null, extra: { opnstack: {} } }]])
  expect(warnings({ roles })).toEqual([
    expect.stringMatching(/^roles\/db.conf: allows size smal,/),
    expect.stringMatching(/^roles\/db.conf: allows image win,/),
    expect.stringMatching(/^roles\/db.conf: extra.opnstack/),
  ])
})
