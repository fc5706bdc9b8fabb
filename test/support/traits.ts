import type { CloudTraits } from '../../store/attempts.ts'

/** What a cloud with idempotency tokens declares, where nothing is to be late. */
export const TRAITS: CloudTraits = {
  idempotency_tokens: true,
  settle_ms: 60_000,
  list_lag_ms: 0,
  call_timeout_ms: 1_000,
  boot_timeout_ms: 60_000,
}
