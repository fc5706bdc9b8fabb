/** From a cloud's row to its provider: credentials opened, adapters kept while the row says the same. */
import { setTimeout as delay } from 'node:timers/promises'
import { SpanKind, trace } from '@opentelemetry/api'
import type { AttemptError } from '../domain/record.ts'
import { inSpan } from '../domain/tracing.ts'
import { type Capabilities, type Provider, ProviderError } from '../providers/provider.ts'
import { createProvider } from '../providers/registry.ts'
import type { CloudTraits } from '../store/attempts.ts'
import { takeTurn } from '../store/call-turns.ts'
import { isAway, type Store } from '../store/database.ts'
import type { Envelope } from '../store/envelope.ts'
import type { CloudRow } from '../store/order-plan.ts'

/** Share of a call's time limit that it may wait for its turn; looks are not turned away by all there is to be made. */
const PATIENCE = 0.4
const READS: ReadonlySet<string> = new Set(['list', 'get'])
const AWAY_MS = 500

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
    const adapter = createProvider({
      provider: cloud.provider,
      endpoint: cloud.endpoint,
      credential,
      settings: cloud.settings,
    })
    const turn = inTurn(store, cloud, adapter.capabilities)
    const watch = watched(cloud.name, onCall)
    const provider = wrapped(adapter, (call, job) => turn(call, () => watch(call, job)))
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

/** Something done around each call of a provider. */
type Around = (call: string, job: () => Promise<unknown>) => Promise<unknown>

function wrapped(provider: Provider, around: Around): Provider {
  return new Proxy(provider, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function' || typeof name !== 'string') return value
      return (...args: unknown[]) => around(name, () => value.apply(target, args))
    },
  })
}

/**
 * No more calls than the cloud takes, whichever processes make them. A turn that comes too late for the call's own time
 * limit, which counts from before the wait, is not waited for: the call was not made, and says when to come again.
 */
function inTurn(store: Store, { id, name }: CloudRow, { calls_per_s, call_timeout_ms }: Capabilities): Around {
  if (calls_per_s === null) return (_, job) => job()
  const interval_ms = 1_000 / calls_per_s
  return async (call, job) => {
    const patience_ms = READS.has(call) ? call_timeout_ms : call_timeout_ms * PATIENCE
    const turn = await takeTurn(store.db, id, interval_ms, patience_ms).catch((error: unknown) => {
      if (!isAway(error)) throw error
      return { taken: false, wait_ms: AWAY_MS }
    })
    if (!turn.taken)
      throw new ProviderError('throttled', `Cloud ${name} takes ${calls_per_s} calls a second; others come first.`, {
        retry_after_ms: Math.ceil(turn.wait_ms * (1 + Math.random())), // those who were turned away do not all come again at once
      })
    await delay(turn.wait_ms)
    return job()
  }
}

/** Each call is timed, and has a span where it belongs to one. */
function watched(cloud: string, onCall: OnCall): Around {
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
  return (call, job) => {
    const timed = () => time(call, job)
    const attributes = { 'holdfast.cloud': cloud, 'holdfast.call': call }
    return trace.getActiveSpan() ? inSpan(`cloud ${call}`, attributes, timed, SpanKind.CLIENT) : timed()
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
