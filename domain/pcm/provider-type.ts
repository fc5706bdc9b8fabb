/** Types of providers as callers and files name them, and the adapters that speak to them. */

const ADAPTERS: Readonly<Record<string, string>> = { openstack: 'openstack', aws: 'ec2', simulated: 'simulated' }
const TYPES: Readonly<Record<string, string>> = { ec2: 'aws' }

/** The provider types that a file may name. */
export const PROVIDER_TYPES: readonly string[] = Object.keys(ADAPTERS)

/** The adapter of a provider type. */
export const adapterOf = (provider_type: string): string | undefined =>
  Object.hasOwn(ADAPTERS, provider_type) ? ADAPTERS[provider_type] : undefined

/** The provider type of a cloud of the record. A simulated one may play another: its setting `presents_as` says so. */
export function providerTypeOf(cloud: { readonly provider: string; readonly settings: object }): string {
  const { presents_as } = cloud.settings as { presents_as?: unknown }
  if (cloud.provider === 'simulated' && typeof presents_as === 'string') return presents_as
  return TYPES[cloud.provider] ?? cloud.provider
}
