/** A configuration as files would give it, for the tests of its rules. */
import {
  type Configuration,
  EMPTY_CONFIGURATION,
  type Maps,
  NO_MAPS,
  type PcmCloud,
  type RoleFile,
} from '../../../domain/pcm/configuration.ts'

export const OPENSTACK: Maps = {
  sizes: { small: '2GB server', medium: { id: '4GB server', price: 16 }, huge: 'huge-at-provider' },
  images: { debian: { id: 'debian-13', osfamily: 'provider says' } },
  subnets: { dmz: 'dmz-net', inner: {} },
  defaults: {
    size: 'small',
    image: 'debian',
    environment: 'lab',
    extra: { openstack: { a: 'provider', b: 'provider' } },
  },
}

export const LAB: PcmCloud = {
  name: 'lab-1',
  provider: 'openstack',
  host_domain: null,
  sizes: { large: '8GB server', huge: { price: 99 }, small: { price: 8, description: 'cheap' } },
  images: {},
  subnets: { office: { id: 'office-net' } },
  defaults: { size: 'large', image: null, extra: { openstack: { a: 'cloud', nested: { x: 1 } } } },
  of_provider: OPENSTACK,
  passes_through: true,
}

export const CONFIGURATION: Configuration = {
  ...EMPTY_CONFIGURATION,
  sizes: new Map([
    ['small', { description: 'a small one', ram: 1, cores: null }],
    ['medium', { description: 'a medium one' }],
    ['large', {}],
    ['tiny', { ram: 512 }],
  ]),
  images: new Map([['debian', { osfamily: 'Debian', operatingsystem: 'Debian' }]]),
  providers: new Map([['openstack', OPENSTACK]]),
  clouds: new Map([['lab-1', LAB]]),
  roles: new Map<string, RoleFile>([
    ['db', { sizes: ['large', 'huge'], images: null, clouds: ['lab-1'], extra: { openstack: { a: 'db', c: 'db' } } }],
    ['web', { sizes: null, images: ['ubuntu'], clouds: ['lab-2'], extra: {} }],
  ]),
}

/** A cloud with one map of its own, below the provider's. */
export const cloudWith = (maps: Partial<PcmCloud>): PcmCloud => ({ ...LAB, ...NO_MAPS, ...maps })
