/**
 * Idempotency keys: stored in the transaction of the change they protect, with the hash of the request and the id of
 * what it made; the answer is rendered again from that.
 */
import type { Kysely } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import { type Store, type Trx, write } from './database.ts'
import type { Caller, RequestKey } from './orders.ts'
import type { Tables } from './tables.ts'

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
  if (!earlier.request_hash.equals(key.hash)) throw keyReused()
  return earlier
}

/**
 * The answer that a key was given before, looked up without claiming it: for changes that begin with a look elsewhere. Null:
 * none yet. Throws `key_reused`.
 */
export async function answered(
  db: Kysely<Tables>,
  project_id: string,
  key: RequestKey | null,
): Promise<KeyedAnswer | null> {
  if (!key) return null
  const earlier = await db
    .selectFrom('idempotency_keys')
    .selectAll()
    .where('project_id', '=', project_id)
    .where('key', '=', key.key)
    .executeTakeFirst()
  if (earlier && !earlier.request_hash.equals(key.hash)) throw keyReused()
  return earlier ?? null
}

const keyReused = (): DomainError =>
  new DomainError('key_reused', 'this Idempotency-Key was used for another request; use a new one')

export interface GivenAnswer extends KeyedAnswer {
  /** This is the answer of an earlier request with the same key. */
  readonly repeated: boolean
}

/**
 * One change under the request's key, in one transaction. What the change returns is corrected in the stored answer,
 * where it is known only then. The change is not made again for a repeat; a refusal stores nothing.
 */
export function changeOnce(
  store: Store,
  caller: Caller,
  key: RequestKey | null,
  answer: KeyedAnswer,
  change: ((trx: Trx) => Promise<Partial<KeyedAnswer>>) | ((trx: Trx) => Promise<void>),
): Promise<GivenAnswer> {
  return write(store, async (trx) => {
    const earlier = await claimKey(trx, caller.project_id, key, answer)
    if (earlier) return { ...earlier, repeated: true }
    const correction = (await change(trx)) ?? {}
    if (key && Object.keys(correction).length) {
      await trx
        .updateTable('idempotency_keys')
        .set(correction)
        .where('project_id', '=', caller.project_id)
        .where('key', '=', key.key)
        .execute()
    }
    return { ...answer, ...correction, repeated: false }
  })
}

/**
 * The record as functions with a transaction of their own see it from inside an open one: theirs becomes part of it.
 * So a change and the key that protects it are committed together, whoever wrote the change.
 */
export function within(store: Store, trx: Trx): Store {
  let failed: { error: unknown } | undefined
  const transaction = () => ({
    execute: async <T>(job: (trx: Trx) => Promise<T>): Promise<T> => {
      // After an error PostgreSQL refuses everything more; the outer transaction is the one to be run again.
      if (failed) throw failed.error
      try {
        return await job(trx)
      } catch (error) {
        failed = { error }
        throw error
      }
    },
  })
  const db = new Proxy(trx, {
    get(target, property) {
      if (property === 'transaction') return transaction
      const value: unknown = Reflect.get(target, property, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { ...store, db, onCommit: () => {} }
}
