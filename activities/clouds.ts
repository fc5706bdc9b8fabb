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
  /** The adapter of an account at a cloud: of a credential, or of the cloud's own (null). */
  provider(cloud: CloudRow, credential_id: string | null): Promise<Provider>
  /** The row of a cloud, and the adapter of an account there. */
  byId(cloud_id: string, credential_id: string | null): Promise<{ cloud: CloudRow; provider: Provider }>
  /** What its adapter declares; needs no credential. */
  traits(cloud: CloudRow): CloudTraits
}

/** Told of every call of a cloud that ended: `ok` or the class of its error. */
export type OnCall = (cloud: string, call: string, outcome: string, seconds: number) => void

/** Opens the way to the clouds of the record. */
export function openClouds(store: Store, envelope: Envelope, onCall: OnCall = () => {}): Clouds {
  const kept = new Map<string, { made_of: string; provider: Provider }>()

  const keep = (cloud: CloudRow, account: string, version: number, credential: string | null): Provider => {
    const made_of = JSON.stringify([cloud.provider, cloud.endpoint, cloud.settings, version])
    const key = `${cloud.id}/${account}`
    const known = kept.get(key)
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
    kept.set(key, { made_of, provider })
    return provider
  }

  const provider = async (cloud: CloudRow, credential_id: string | null): Promise<Provider> => {
    const account = credential_id ?? cloud.credential_id
    if (account === null) return keep(cloud, '', 0, null)
    const row = await store.db
      .selectFrom('credentials')
      .select(['sealed', 'version'])
      .where('id', '=', account)
      .executeTakeFirst()
    if (!row?.sealed) throw new ProviderError('auth', 'The credential was erased.')
    return keep(cloud, account, row.version, envelope.open(row.sealed, account))
  }

  return {
    provider,
    async byId(cloud_id, credential_id) {
      const cloud = await store.db.selectFrom('clouds').selectAll().where('id', '=', cloud_id).executeTakeFirstOrThrow()
      return { cloud, provider: await provider(cloud, credential_id) }
    },
    traits(cloud) {
      const known = kept.get(`${cloud.id}/${cloud.credential_id ?? ''}`)
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
