/** Which adapter speaks to which type of cloud. */
import type { Problem } from '../domain/errors.ts'
import { type Provider, ProviderError } from './provider.ts'
import { createSimulatedProvider, findSimulatedProblems } from './simulated/provider.ts'

/** What the record knows of a cloud, as far as an adapter needs it. The credential is in clear here. */
export interface CloudAccount {
  readonly provider: string
  readonly endpoint: string
  readonly credential: string | null
  readonly settings: Readonly<Record<string, unknown>>
}

/** A cloud as a person describes it. */
export type CloudDescription = Omit<CloudAccount, 'credential'>

interface Adapter {
  readonly create: (cloud: CloudAccount) => Provider
  readonly findProblems: (cloud: CloudDescription) => Problem[]
}

const ADAPTERS: ReadonlyMap<string, Adapter> = new Map([
  ['simulated', { create: createSimulatedProvider, findProblems: findSimulatedProblems }],
])

const NAMES = [...ADAPTERS.keys()]

/** What has to be mended in a description before an adapter can be made of it, by its fields. Calls nobody. */
export function findCloudProblems(cloud: CloudDescription): Problem[] {
  const adapter = ADAPTERS.get(cloud.provider)
  if (adapter) return adapter.findProblems(cloud)
  return [{ path: 'provider', reason: 'is not a type of cloud there is an adapter for', accepted: NAMES }]
}

/**
 * Makes the adapter of a cloud. Cheap, so it may be called for each use: connections are pooled below it and shared by
 * all adapters. Throws `invalid` for a provider nobody knows and for settings its adapter refuses.
 */
export function createProvider(cloud: CloudAccount): Provider {
  const adapter = ADAPTERS.get(cloud.provider)
  if (!adapter) {
    throw new ProviderError('invalid', `There is no provider named ${JSON.stringify(cloud.provider.slice(0, 100))}.`, {
      evidence: { known: NAMES },
    })
  }
  return adapter.create(cloud)
}
