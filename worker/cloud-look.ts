/** How the API looks at a machine: it has no adapters of its own, and is told what they said. */

import type { Clouds } from '../activities/clouds.ts'
import type { ApiDeps, Looked } from '../api/context.ts'
import { ProviderError } from '../providers/provider.ts'
import { realNow, type Store } from '../store/database.ts'

const RETRY_AFTER_S = 5

/** Asks a cloud's own account for one machine. */
export function createLook(store: Store, clouds: Clouds): (cloud_id: string, provider_id: string) => Promise<Looked> {
  return async (cloud_id, provider_id) => {
    const asked_at = await realNow(store.db)
    try {
      const { provider } = await clouds.byId(cloud_id, null)
      const { adoption: can_adopt, call_timeout_ms } = provider.capabilities
      const machine = await provider.get(provider_id, AbortSignal.timeout(call_timeout_ms))
      return { machine, asked_at, can_adopt }
    } catch (error) {
      return refusal(error)
    }
  }
}

/** Asks an account of a cloud for the console of one machine. */
export function createConsoleLog(clouds: Clouds): NonNullable<ApiDeps['consoleLog']> {
  return async (cloud_id, credential_id, provider_id) => {
    try {
      const { provider } = await clouds.byId(cloud_id, credential_id)
      return {
        text: await provider.consoleLog(provider_id, AbortSignal.timeout(provider.capabilities.call_timeout_ms)),
      }
    } catch (error) {
      return refusal(error)
    }
  }
}

function refusal(error: unknown): { refused: string; reason: string; retry_after_s: number } {
  if (!(error instanceof ProviderError)) throw error
  const retry_after_s = Math.ceil((error.retry_after_ms ?? 0) / 1_000) || RETRY_AFTER_S
  return { refused: error.class, reason: error.message, retry_after_s }
}
