/** The inventory: which machine has which name. The built-in one names by template and counter, never twice the same. */
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { nameOf, nameStem } from '../domain/pcm/naming.ts'
import { Overtaken, type Trx } from './database.ts'
import type { Tables } from './tables.ts'

export interface InventoryEntry {
  readonly cloud: string
  readonly environment: string | null
  readonly roles: readonly string[]
  readonly subnet: string | null
  readonly host_domain: string | null
  readonly extra: Readonly<Record<string, unknown>>
}

/** Takes the next name of a template that no machine of the project ever had. */
export async function takeName(
  trx: Trx,
  project_id: string,
  template: string,
  entry: Pick<InventoryEntry, 'cloud' | 'environment' | 'roles'>,
): Promise<string> {
  const stem = nameStem(template, entry)
  for (;;) {
    const { last } = await trx
      .insertInto('name_counters')
      .values({ project_id, stem, last: 1 })
      .onConflict((conflict) =>
        conflict.columns(['project_id', 'stem']).doUpdateSet({ last: sql<number>`name_counters.last + 1` }),
      )
      .returning('last')
      .executeTakeFirstOrThrow()
    const name = nameOf(stem, last)
    const taken = await trx
      .selectFrom('inventory')
      .select('id')
      .where('project_id', '=', project_id)
      .where('name', '=', name)
      .executeTakeFirst()
    if (!taken) return name
  }
}

/** Records what a name was given to, or by which request an inventory outside is to be asked for one. */
export async function recordName(
  trx: Trx,
  project_id: string,
  given: { readonly name: string } | { readonly request_id: string },
  instance_id: string,
  entry: InventoryEntry,
): Promise<void> {
  const { roles, extra, ...plain } = entry
  await trx
    .insertInto('inventory')
    .values({
      id: newId(),
      project_id,
      ...given,
      instance_id,
      ...plain,
      roles: [...roles],
      extra: JSON.stringify(extra),
    })
    .execute()
    .catch(takenMeanwhile)
}

const UNIQUE_VIOLATION = '23505'
/** Somebody took the name after it was looked for. */
export function takenMeanwhile(error: unknown): never {
  if ((error as { code?: unknown }).code === UNIQUE_VIOLATION) throw new Overtaken('the name was given meanwhile')
  throw error
}

/** What a record tells of the machine of an entry. */
export const MACHINE = [
  'instances.state',
  'instances.size',
  'instances.image',
  'instances.provider_id',
  'instances.public_addresses',
  'instances.private_addresses',
] as const

/** The record of a name; undefined: it was never given in this project. */
export function findByName(db: Kysely<Tables>, project_id: string, name: string) {
  return db
    .selectFrom('inventory')
    .innerJoin('instances', 'instances.id', 'inventory.instance_id')
    .selectAll('inventory')
    .select(MACHINE)
    .where('inventory.project_id', '=', project_id)
    .where('inventory.name', '=', name)
    .executeTakeFirst()
}
