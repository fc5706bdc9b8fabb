/**
 * Idempotency keys: stored in the transaction of the change they protect, with the hash of the request and the id of
 * what it made; the answer is rendered again from that.
 */
import { DomainError } from '../domain/errors.ts'
import type { Trx } from './database.ts'
import type { RequestKey } from './orders.ts'

export interface KeyedAnswer {
  readonly status: number
  readonly resource_type: string
  readonly resource_id: string
  /** A secret given once, sealed; repeated for as long as the key lives. */
  readonly sealed_secret?: Buffer | null
}

/**
 * Claims a key for this transaction's change. Null: it is ours (or there is no key), go on. Otherwise the earlier
 * answer, to be given again. A call with the same key at the same time waits here for the first one's commit. Throws
 * `key_reused` where the key belongs to another request.
 */
export async function claimKey(
  trx: Trx,
  project_id: string,
  key: RequestKey | null,
  answer: KeyedAnswer,
): Promise<KeyedAnswer | null> {
  if (!key) return null
  const fresh = await trx
    .insertInto('idempotency_keys')
    .values({ project_id, key: key.key, request_hash: key.hash, ...answer })
    .onConflict((conflict) => conflict.doNothing())
    .returning('key')
    .executeTakeFirst()
  if (fresh) return null
  const earlier = await trx
    .selectFrom('idempotency_keys')
    .selectAll()
    .where('project_id', '=', project_id)
    .where('key', '=', key.key)
    .executeTakeFirstOrThrow()
  if (!earlier.request_hash.equals(key.hash)) {
    throw new DomainError('key_reused', 'this Idempotency-Key was used for another request; use a new one')
  }
  return earlier
}
