/** From a cloud's row to its provider: credentials opened, adapters kept while the row says the same. */

import type { AttemptError } from '../domain/record.ts'
import { type Provider, ProviderError } from '../providers/provider.ts'
import { createProvider } from '../providers/registry.ts'
import type { CloudTraits } from '../store/attempts.ts'
import type { Store } from '../store/database.ts'
import type { Envelope } from '../store/envelope.ts'
import type { CloudRow } from '../store/order-plan.ts'

export interface Clouds {
  /** The adapter of a cloud, by its row. */
  provider(cloud: CloudRow): Promise<Provider>
  /** The row and adapter of a cloud, by id. */
  byId(cloud_id: string): Promise<{ cloud: CloudRow; provider: Provider }>
  /** What its adapter declares; needs no credential. */
  traits(cloud: CloudRow): CloudTraits
}

/** Opens the way to the clouds of the record. */
export function openClouds(store: Store, envelope: Envelope): Clouds {
  const kept = new Map<string, { made_of: string; provider: Provider }>()

  const keep = (cloud: CloudRow, credential: string | null): Provider => {
    const made_of = JSON.stringify([cloud.provider, cloud.endpoint, cloud.settings, cloud.credential_id])
    const known = kept.get(cloud.id)
    if (known?.made_of === made_of) return known.provider
    const provider = createProvider({
      provider: cloud.provider,
      endpoint: cloud.endpoint,
      credential,
      settings: cloud.settings,
    })
    kept.set(cloud.id, { made_of, provider })
    return provider
  }

  const provider = async (cloud: CloudRow): Promise<Provider> => {
    if (cloud.credential_id === null) return keep(cloud, null)
    const row = await store.db
      .selectFrom('credentials')
      .select('sealed')
      .where('id', '=', cloud.credential_id)
      .executeTakeFirst()
    return keep(cloud, row ? envelope.open(row.sealed, cloud.credential_id) : null)
  }

  return {
    provider,
    async byId(cloud_id) {
      const cloud = await store.db.selectFrom('clouds').selectAll().where('id', '=', cloud_id).executeTakeFirstOrThrow()
      return { cloud, provider: await provider(cloud) }
    },
    traits(cloud) {
      const known = kept.get(cloud.id)
      const { capabilities } =
        known?.provider ??
        createProvider({
          provider: cloud.provider,
          endpoint: cloud.endpoint,
          credential: null,
          settings: cloud.settings,
        })
      return capabilities
    },
  }
}

/** What a provider call threw, as it is kept with an attempt: a class of the closed list and a sentence of ours. */
export function attemptError(error: unknown, at: Date): AttemptError & { retry_after_ms?: number } {
  if (!(error instanceof ProviderError)) throw error
  return {
    class: error.class,
    message: error.message,
    at: at.toISOString(),
    evidence: error.evidence,
    ...(error.retry_after_ms === undefined ? {} : { retry_after_ms: error.retry_after_ms }),
  }
}
