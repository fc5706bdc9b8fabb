/**
 * Machines that are to be told whose they are. A row is open until the cloud confirmed it; `instance/<id>` works it off.
 * Locks: attempt, instance, tagging.
 */
import { sql } from 'kysely'
import type { Step } from '../domain/plan.ts'
import type { AttemptError } from '../domain/record.ts'
import { decideTagging, type TaggingDecision } from '../domain/tagging.ts'
import { leave, type Store, type Trx, write } from './database.ts'
import type { TaggingsTable } from './tables.ts'

/** Opens a tagging of a locked instance; the latest wish counts. */
export async function openTagging(
  trx: Trx,
  tagging: { readonly instance_id: string; readonly attempt_id: string; readonly wish: TaggingsTable['wish'] },
): Promise<void> {
  const { attempt_id, wish } = tagging
  await trx
    .insertInto('taggings')
    .values(tagging)
    .onConflict((conflict) =>
      conflict
        .column('instance_id')
        .doUpdateSet({ attempt_id, wish, tries: 0, next_try_at: sql<Date>`clock_timestamp()`, error: null }),
    )
    .execute()
}

/** Plans the tagging of a locked instance. */
export async function planTagging(
  trx: Trx,
  instance: { readonly id: string; readonly name: string; readonly cloud_id: string | null },
  cloud: string,
  now: Date,
): Promise<TaggingDecision & { readonly steps: Step[] }> {
  const row = await trx
    .selectFrom('taggings')
    .innerJoin('launch_attempts', 'launch_attempts.id', 'taggings.attempt_id')
    .select(['wish', 'gone_at', 'next_try_at', 'taggings.error'])
    .where('taggings.instance_id', '=', instance.id)
    .forNoKeyUpdate('taggings')
    .executeTakeFirst()
  const view = row && {
    wish: row.wish,
    pointless: row.wish === 'adopt' && row.gone_at !== null,
    next_try_at: row.next_try_at.getTime(),
    error: row.error?.message ?? null,
    cloud,
  }
  const decision = decideTagging(view ?? null, now.getTime())
  if (decision.drop) await trx.deleteFrom('taggings').where('instance_id', '=', instance.id).execute()
  const steps: Step[] = decision.step
    ? [
        {
          key: 'tag',
          activity: 'tagInstance',
          args: [instance.id],
          cloud: instance.cloud_id ?? '',
          summary: `${row!.wish} the machine of ${instance.name}`,
        },
      ]
    : []
  return { ...decision, steps }
}

/** A machine to be told whose it is. */
export interface TaggingToSend {
  readonly attempt_id: string
  readonly wish: TaggingsTable['wish']
  readonly cloud_id: string
  readonly credential_id: string | null
  readonly provider_id: string
}

/** What is to be told of an instance's machine; undefined: nothing (any more). */
export async function taggingToSend(store: Store, instance_id: string): Promise<TaggingToSend | undefined> {
  const row = await store.db
    .selectFrom('taggings')
    .innerJoin('launch_attempts', 'launch_attempts.id', 'taggings.attempt_id')
    .select(['attempt_id', 'wish', 'cloud_id', 'credential_id', 'provider_id'])
    .where('taggings.instance_id', '=', instance_id)
    .executeTakeFirst()
  return row && { ...row, provider_id: row.provider_id! }
}

/** What was not confirmed is asked for again after this long, then after twice as long, up to the most. */
const RETRY_FIRST_MS = 1_000
const RETRY_MAX_MS = 60_000

/** Stores what a cloud made of it; null: confirmed, or there is no such machine. Another wish meanwhile stays open. */
export async function storeTagged(
  store: Store,
  instance_id: string,
  { attempt_id, wish }: TaggingToSend,
  error: (AttemptError & { readonly retry_after_ms?: number }) | null,
): Promise<void> {
  await write(store, async (trx) => {
    await trx.selectFrom('instances').select('id').where('id', '=', instance_id).forNoKeyUpdate().execute()
    const row = await trx
      .selectFrom('taggings')
      .select('tries')
      .where('instance_id', '=', instance_id)
      .where('attempt_id', '=', attempt_id)
      .where('wish', '=', wish)
      .forNoKeyUpdate()
      .executeTakeFirst()
    if (!row) return
    if (error) {
      const { retry_after_ms, ...kept } = error
      const wait_ms = retry_after_ms ?? Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** row.tries)
      await trx
        .updateTable('taggings')
        .set({
          tries: row.tries + 1,
          error: JSON.stringify(kept),
          next_try_at: sql<Date>`clock_timestamp() + ${wait_ms} * interval '1 ms'`,
        })
        .where('instance_id', '=', instance_id)
        .execute()
      return
    }
    await trx.deleteFrom('taggings').where('instance_id', '=', instance_id).execute()
    if (wish === 'release') return
    // From now on lists have to show it.
    await trx
      .updateTable('instances')
      .set({ acknowledged_at: sql<Date>`clock_timestamp()` })
      .where('id', '=', instance_id)
      .execute()
    leave(trx, 'machines')
  })
}
