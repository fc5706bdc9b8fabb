/**
 * Migrations and the check that this release may work on the schema it finds. A release expands first, a later one
 * contracts: `min_compatible` says from which release on a schema may be used.
 */
import { type Kysely, sql } from 'kysely'
import { Migrator } from 'kysely/migration'
import { DomainError } from '../domain/errors.ts'
import * as record001 from './migrations/001-record.ts'
import type { Tables } from './tables.ts'

/** The schema this release was written for. */
export const SCHEMA_VERSION = 1

const MIGRATIONS = { '001-record': { up: record001.up } }

/** Brings the schema up to date; safe to call from several processes at once. */
export async function migrate(db: Kysely<Tables>): Promise<void> {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => MIGRATIONS } })
  const { error } = await migrator.migrateToLatest()
  if (error) {
    if (/corrupted migrations|previously executed migration/.test(String(error))) return // a newer release was here
    throw error
  }
}

/** Refuses to go on where the schema is too old or too new for this release. */
export async function assertCompatible(db: Kysely<Tables>): Promise<{ installation_id: string }> {
  const { rows } = await sql<{ id: string; schema_version: number; min_compatible: number }>`
    select id, schema_version, min_compatible from installation`.execute(db)
  const found = rows[0]
  if (!found) throw new DomainError('unavailable', 'the database has no installation row: run the migrations first')
  if (found.schema_version < SCHEMA_VERSION) {
    throw new DomainError(
      'unavailable',
      `the schema is version ${found.schema_version}, this release needs ${SCHEMA_VERSION}: run the migrations`,
    )
  }
  if (found.min_compatible > SCHEMA_VERSION) {
    throw new DomainError(
      'unavailable',
      `the schema (version ${found.schema_version}) asks for a release that knows version ${found.min_compatible}; this one knows ${SCHEMA_VERSION}: upgrade Holdfast`,
    )
  }
  return { installation_id: found.id }
}
