/** Asking a cloud for its realms, sizes and images: beside the watch of its machines, which it never holds up. */
import { setTimeout as delay } from 'node:timers/promises'
import { type Provider, ProviderError } from '../providers/provider.ts'
import { realNow, type Store } from '../store/database.ts'
import type { CloudRow } from '../store/order-plan.ts'
import { type Surveyed, type SurveyKind, storeSurvey } from '../store/surveys.ts'
import { StaleWatcher } from '../store/watch-epoch.ts'
import { attemptError } from './clouds.ts'

const PERIOD_MS = 300_000
/** What was not answered is asked for again sooner. */
const RETRY_MS = 30_000

const ASK: Readonly<Record<SurveyKind, (provider: Provider, signal: AbortSignal) => Promise<Surveyed[]>>> = {
  realm: async (provider, signal) =>
    (await provider.realms(signal)).map(({ id, name, available }) => ({ provider_id: id, name, available })),
  size: async (provider, signal) =>
    (await provider.sizes(signal)).map(({ id, name, vcpus, memory_mib, disk_gib }) => ({
      provider_id: id,
      name,
      attributes: { vcpus, memory_mib, disk_gib },
    })),
  image: async (provider, signal) => (await provider.images(signal)).map(({ id, name }) => ({ provider_id: id, name })),
}

export interface Surveyor {
  /** Begins a survey where one is due and none is under way; it goes on by itself. Throws what nobody expected of the last. */
  look(): void
  /** Waits for the end of a survey under way. */
  end(): Promise<void>
}

/** Surveys one cloud for the length of a watch: at its beginning, then now and then. */
export function createSurveyor(store: Store, cloud: CloudRow, provider: Provider, signal: AbortSignal): Surveyor {
  let due_at = performance.now()
  let running: Promise<void> | undefined
  let failure: unknown

  const ask = async (kind: SurveyKind): Promise<boolean> => {
    const asked_at = await realNow(store.db)
    const call = AbortSignal.any([signal, AbortSignal.timeout(provider.capabilities.call_timeout_ms)])
    try {
      const entries = await ASK[kind](provider, call)
      await storeSurvey(store, cloud, kind, asked_at, { entries })
      return true
    } catch (error) {
      if (!(error instanceof ProviderError)) throw error
      if (!signal.aborted) await storeSurvey(store, cloud, kind, asked_at, { error: attemptError(error, asked_at) })
      return false
    }
  }

  const survey = async (): Promise<void> => {
    let answered = true
    for (const kind of ['realm', 'size', 'image'] as const) {
      // The cloud's own rate comes first: between a list and the next there is room for one call.
      await delay(provider.capabilities.list_interval_ms, undefined, { signal }).catch(() => {})
      if (signal.aborted) return
      answered = (await ask(kind)) && answered
    }
    if (!answered) due_at = performance.now() + RETRY_MS
  }

  return {
    look() {
      if (failure) throw failure
      if (running || signal.aborted || performance.now() < due_at) return
      due_at = performance.now() + PERIOD_MS
      running = survey()
        .catch((error: unknown) => {
          // Whoever took the watch over surveys as well.
          if (!(error instanceof StaleWatcher)) failure = error
        })
        .finally(() => {
          running = undefined
        })
    },
    async end() {
      await running
    },
  }
}
