/** From a cloud's row to its provider: credentials opened, adapters kept while the row says the same. */

import { SpanKind, trace } from '@opentelemetry/api'
import type { AttemptError } from '../domain/record.ts'
import { inSpan } from '../domain/tracing.ts'
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

/** Told of every call of a cloud that ended: `ok` or the class of its error. */
export type OnCall = (cloud: string, call: string, outcome: string, seconds: number) => void

/** Opens the way to the clouds of the record. */
export function openClouds(store: Store, envelope: Envelope, onCall: OnCall = () => {}): Clouds {
  const kept = new Map<string, { made_of: string; provider: Provider }>()

  const keep = (cloud: CloudRow, credential: string | null): Provider => {
    const made_of = JSON.stringify([cloud.provider, cloud.endpoint, cloud.settings, cloud.credential_id])
    const known = kept.get(cloud.id)
    if (known?.made_of === made_of) return known.provider
    const provider = watched(
      cloud.name,
      createProvider({
        provider: cloud.provider,
        endpoint: cloud.endpoint,
        credential,
        settings: cloud.settings,
      }),
      onCall,
    )
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

/** The same provider, each call of it timed, and a span where it belongs to one. */
function watched(cloud: string, provider: Provider, onCall: OnCall): Provider {
  const time = async (call: string, job: () => Promise<unknown>): Promise<unknown> => {
    const begun_ms = performance.now()
    let outcome = 'ok'
    try {
      return await job()
    } catch (error) {
      outcome = error instanceof ProviderError ? error.class : 'bug'
      throw error
    } finally {
      onCall(cloud, call, outcome, (performance.now() - begun_ms) / 1_000)
    }
  }
  return new Proxy(provider, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function' || typeof name !== 'string') return value
      return (...args: unknown[]) => {
        const job = () => time(name, () => value.apply(target, args))
        const attributes = { 'holdfast.cloud': cloud, 'holdfast.call': name }
        return trace.getActiveSpan() ? inSpan(`cloud ${name}`, attributes, job, SpanKind.CLIENT) : job()
      }
    },
  })
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
