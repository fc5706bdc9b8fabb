/**
 * Who watches a cloud. A watcher takes a new epoch at every start and every write of it requires it: a watcher that was
 * replaced, and does not know it yet, writes nothing.
 */
import { type Kysely, sql } from 'kysely'
import type { Store, Trx } from './database.ts'
import type { CloudRow } from './order-plan.ts'
import type { Tables } from './tables.ts'

/** The watcher was replaced by another; it has to stop. */
export class StaleWatcher extends Error {
  override readonly name = 'StaleWatcher'
}

/** Begins a watch: a new epoch. Undefined: no such cloud. */
export function beginWatch(store: Store, cloud_name: string): Promise<CloudRow | undefined> {
  return store.db
    .updateTable('clouds')
    .set({ watch_epoch: sql<number>`watch_epoch + 1` })
    .where('name', '=', cloud_name)
    .returningAll()
    .executeTakeFirst()
}

/** Locks the cloud against a newer watch for the length of the transaction; `to_change`: it is about to be changed itself. */
export async function requireEpoch(trx: Trx, cloud: CloudRow, to_change = false): Promise<CloudRow> {
  const found = trx
    .selectFrom('clouds')
    .selectAll()
    .where('id', '=', cloud.id)
    .where('watch_epoch', '=', cloud.watch_epoch)
  const row = await (to_change ? found.forNoKeyUpdate() : found.forShare()).executeTakeFirst()
  if (!row) throw new StaleWatcher(`the watch of cloud ${cloud.name} was taken over`)
  return row
}

/** What a watch goes by; when an operator changes it, the watch begins anew. */
const WATCHED_BY = ['provider', 'endpoint', 'credential_id', 'settings', 'enabled', 'allocation', 'priority'] as const

/** Whether an operator has changed the cloud since its watch began. */
export async function cloudChanged(db: Kysely<Tables>, cloud: CloudRow): Promise<boolean> {
  const row = await db.selectFrom('clouds').select(WATCHED_BY).where('id', '=', cloud.id).executeTakeFirst()
  return JSON.stringify(row) !== JSON.stringify(Object.fromEntries(WATCHED_BY.map((field) => [field, cloud[field]])))
}
