/** The receipt of an order: every machine that was made for it, what became of it, and who has what is left. */
import { type Kysely, sql } from 'kysely'
import type { Tables } from './tables.ts'

/** What became of a machine. `deleted`: its cloud confirmed that it has none such any more. */
export type Fate = 'remains' | 'deleted' | 'vanished' | 'released'

/** Machines of an order, in the order they were made. */
export function listMade(db: Kysely<Tables>, order_id: string) {
  return db
    .selectFrom('launch_attempts')
    .innerJoin('instances', 'instances.id', 'launch_attempts.instance_id')
    .innerJoin('clouds', 'clouds.id', 'launch_attempts.cloud_id')
    .select([
      'launch_attempts.id as attempt_id',
      'launch_attempts.instance_id',
      'launch_attempts.provider_id',
      'launch_attempts.credential_id',
      'launch_attempts.state',
      'launch_attempts.answered_at as made_at',
      'launch_attempts.gone_at as confirmed_at',
      'clouds.name as cloud',
      'instances.wish as instance_wish',
      sql<Fate>`case when launch_attempts.released_at is not null then 'released'
        when launch_attempts.gone_at is null then 'remains' when launch_attempts.vanished then 'vanished' else 'deleted' end`.as(
        'fate',
      ),
    ])
    .where('launch_attempts.order_id', '=', order_id)
    .where('launch_attempts.provider_id', 'is not', null)
    .orderBy('launch_attempts.answered_at')
    .orderBy('launch_attempts.id')
    .execute()
}

/** Attempts of an order that never had a machine, and those of which that is not known yet. */
export async function countUnmade(
  db: Kysely<Tables>,
  order_id: string,
): Promise<{ never_made: number; unknown: number; unknown_until: Date | null }> {
  const { rows } = await sql<{ never_made: number; unknown: number; unknown_until: Date | null }>`
    select count(*) filter (where state = 'lost')::int as never_made,
      count(*) filter (where state in ('open', 'sent', 'unknown'))::int as unknown,
      max(settle_at) filter (where state in ('sent', 'unknown')) as unknown_until
    from launch_attempts where order_id = ${order_id} and provider_id is null`.execute(db)
  return rows[0]!
}
