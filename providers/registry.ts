/** Which adapter speaks to which type of cloud. */
import { type Provider, ProviderError } from './provider.ts'
import { createSimulatedProvider } from './simulated/provider.ts'

/** What the record knows of a cloud, as far as an adapter needs it. The credential is in clear here. */
export interface CloudAccount {
  readonly provider: string
  readonly endpoint: string
  readonly credential: string | null
  readonly settings: Readonly<Record<string, unknown>>
}

const ADAPTERS: ReadonlyMap<string, (cloud: CloudAccount) => Provider> = new Map([
  ['simulated', createSimulatedProvider],
])

/** The provider names that `createProvider` takes. */
export const PROVIDER_NAMES: readonly string[] = [...ADAPTERS.keys()]

/**
 * Makes the adapter of a cloud. Cheap, so it may be called for each use: connections are pooled below it and shared by
 * all adapters. Throws `invalid` for a provider nobody knows and for settings its adapter refuses.
 */
export function createProvider(cloud: CloudAccount): Provider {
  const adapter = ADAPTERS.get(cloud.provider)
  if (!adapter) {
    throw new ProviderError('invalid', `There is no provider named ${JSON.stringify(cloud.provider.slice(0, 100))}.`, {
      evidence: { known: PROVIDER_NAMES },
    })
  }
  return adapter(cloud)
}
