/** A change of the master key: everything that an older key sealed is sealed anew, a piece at each round of housekeeping. */
import { type Kysely, sql } from 'kysely'
import { type Store, type Trx, write } from './database.ts'
import type { Envelope } from './envelope.ts'
import type { Tables } from './tables.ts'

/** Where sealed values are: their row's key, and the context they are sealed for. A new one belongs in this list. */
const PLACES = [
  { table: 'credentials', column: 'sealed', key: 'id', context: 'id::text' },
  { table: 'hook_secrets', column: 'sealed', key: 'id', context: 'hook_id::text' },
  { table: 'ssh_keys', column: 'sealed', key: 'instance_id', context: 'instance_id::text' },
  { table: 'launch_orders', column: 'sealed_user_data', key: 'id', context: "'user_data'" },
  { table: 'instances', column: 'sealed_user_data', key: 'id', context: "'user_data'" },
  { table: 'clouds', column: 'imported', key: 'id', context: 'id::text' },
  { table: 'inventory_account', column: 'sealed', key: 'singleton', context: "'inventory_account'" },
  {
    table: 'idempotency_keys',
    column: 'sealed_secret',
    key: "project_id::text || ' ' || key",
    context: 'resource_id::text',
  },
] as const
type Place = (typeof PLACES)[number]

const AT_ONCE = 200

const sealedBefore = ({ column }: Place, head: Buffer) =>
  sql`${sql.ref(column)} is not null and substring(${sql.ref(column)} from 1 for ${head.length}) <> ${head}`

/** Seals some of what an older key sealed with the current one; returns how much. */
export async function resealOld(store: Store, envelope: Envelope): Promise<number> {
  let resealed = 0
  for (const place of PLACES) resealed += await write(store, (trx) => resealPlace(trx, place, envelope))
  return resealed
}

async function resealPlace(trx: Trx, place: Place, envelope: Envelope): Promise<number> {
  const { table, column, key, context } = place
  const { rows } = await sql<{ key: string; context: string; sealed: Buffer }>`
    select (${sql.raw(key)})::text as key, ${sql.raw(context)} as context, ${sql.ref(column)} as sealed from ${sql.table(table)}
    where ${sealedBefore(place, envelope.head)} limit ${AT_ONCE} for update skip locked`.execute(trx)
  for (const row of rows) {
    const anew = envelope.seal(envelope.open(row.sealed, row.context), row.context)
    await sql`update ${sql.table(table)} set ${sql.ref(column)} = ${anew} where (${sql.raw(key)})::text = ${row.key}`.execute(
      trx,
    )
  }
  return rows.length
}

/** How many values an older key than the current one sealed. */
export async function countOld(db: Kysely<Tables>, envelope: Envelope): Promise<number> {
  const counts = PLACES.map(
    (place) => sql`(select count(*)::int from ${sql.table(place.table)} where ${sealedBefore(place, envelope.head)})`,
  )
  const { rows } = await sql<{ count: number }>`select ${sql.join(counts, sql` + `)} as count`.execute(db)
  return rows[0]!.count
}
