/**
 * The installation as a whole: whether rules may delete machines, and what a restore from backup does to the record.
 *
 * A restored record is blind: clouds, receivers and readers went on without it. So it deletes nothing by rule until a
 * person says so, gives no number again that was given since the backup, and looks at everything anew.
 */
import { type Kysely, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import { type Store, type Trx, write } from './database.ts'
import { recordEvents } from './events.ts'
import { wakeOpen } from './housekeeping.ts'
import type { Caller } from './orders.ts'
import type { Tables } from './tables.ts'

/** So long the clouds are looked through for machines of attempts that may have been sent since the backup. */
const RESTORED_SETTLE_S = 30

/** The one row of the installation. */
export function readInstallation(db: Kysely<Tables>) {
  return db.selectFrom('installation').selectAll().executeTakeFirstOrThrow()
}

/** Lets rules delete machines, or not; left out: as it is. Turned on, everything open is looked at again: what was held back goes on. */
export async function setAutomaticRemoval(
  trx: Trx,
  caller: Caller,
  automatic_removal: boolean | undefined,
  if_match: number | undefined,
): Promise<void> {
  const row = await trx.selectFrom('installation').selectAll().forNoKeyUpdate().executeTakeFirstOrThrow()
  if (if_match !== undefined && if_match !== row.sequence)
    throw new DomainError('version_mismatch', `the installation is at version ${row.sequence}, not ${if_match}`)
  if (automatic_removal === undefined || row.automatic_removal === automatic_removal) return
  const sequence = row.sequence + 1
  await trx.updateTable('installation').set({ automatic_removal, sequence }).execute()
  await recordEvents(trx, [
    {
      project_id: null,
      resource_type: 'installation',
      resource_id: row.id,
      sequence,
      type: 'installation.updated',
      snapshot: { automatic_removal },
      cause: { actor: { user_id: caller.user_id, request_id: caller.request_id }, reason: 'requested' },
    },
  ])
  if (automatic_removal) await wakeOpen(trx)
}

/**
 * Marks a record that was put back from a backup, before any flow goes on with it: automatic removal goes off, what may
 * have been sent since is looked for, epochs and numbers go beyond all that were given, every project is told, and
 * every open noun is woken. Called again it does the same again.
 */
export function markRestored(store: Store): Promise<{ woken: number }> {
  return write(store, async (trx) => {
    const { id, sequence } = await trx
      .updateTable('installation')
      .set({
        automatic_removal: false,
        restored_at: sql<Date>`clock_timestamp()`,
        sequence: sql<number>`sequence + 1`,
      })
      .returning(['id', 'sequence'])
      .executeTakeFirstOrThrow()
    // An attempt the backup knows may have been sent since, and have its machine: only silence from now on means no.
    await sql`
      update launch_attempts set state = 'unknown', next_send_at = null,
        settle_at = clock_timestamp() + ${RESTORED_SETTLE_S} * interval '1 s'
      where state in ('open', 'sent', 'unknown') and gone_at is null`.execute(trx)
    await goBeyond(trx)
    const told = await tellRestored(trx, id, sequence)
    // Readers ask from where they were: they have to find a newest event there, even before the first pass of stamping.
    await sql`update events set position = nextval('event_position') where id = any(${told})`.execute(trx)
    return { woken: await wakeOpen(trx) }
  })
}

/**
 * Raises what is counted to the milliseconds since 1970, which no counter of ours has reached: a cursor, a delivery or an
 * epoch of the time that was lost then names nothing, instead of something else.
 */
async function goBeyond(trx: Trx): Promise<void> {
  const beyond = sql`(extract(epoch from clock_timestamp()) * 1000)::bigint`
  await sql`update clouds set watch_epoch = greatest(watch_epoch, ${beyond})`.execute(trx)
  await sql`update sender_shards set epoch = greatest(epoch, ${beyond})`.execute(trx)
  await sql`
    select setval(counter, greatest(nextval(counter), ${beyond})) from unnest(array['event_position'::regclass,
      pg_get_serial_sequence('events', 'number')::regclass, pg_get_serial_sequence('deliveries', 'id')::regclass]) as counter`.execute(
    trx,
  )
}

/** One event for the installation, and one for each project, so that every hook and reader hears of it. */
async function tellRestored(trx: Trx, installation_id: string, sequence: number): Promise<string[]> {
  const projects = await trx.selectFrom('projects').select(['id', 'name']).orderBy('id').execute()
  const { rows } = await sql<{ project_id: string; sequence: number; last_event: string | null }>`
    select projects.id as project_id,
      (select coalesce(max(sequence), 0) from events where resource_type = 'project' and resource_id = projects.id) as sequence,
      (select events.id from events where project_id = projects.id and position is not null order by position desc limit 1) as last_event
    from projects`.execute(trx)
  const known = new Map(rows.map((row) => [row.project_id, row]))
  const cause = {
    rule: 'restored',
    reason:
      'the record was put back from a backup: what was told after its last event is not in it, and sequences go on from there',
  }
  return recordEvents(trx, [
    {
      project_id: null,
      resource_type: 'installation',
      resource_id: installation_id,
      sequence,
      type: 'installation.restored',
      snapshot: { automatic_removal: false },
      cause,
    },
    ...projects.map(({ id, name }) => ({
      project_id: id,
      resource_type: 'project' as const,
      resource_id: id,
      sequence: known.get(id)!.sequence + 1,
      type: 'project.restored',
      snapshot: { name, last_event: known.get(id)!.last_event },
      cause,
    })),
  ])
}
