/**
 * Clouds of configuration files, and the inventory outside, taken over into the record when their files change. In between
 * the record is the truth: what an operator changes through the API stays until the file says something new.
 */
import { type Selectable, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import type { Cause } from '../domain/record.ts'
import type { Secret } from '../domain/secret.ts'
import { addCloud, type CloudFields, changeCloud, type SealedCredential } from './clouds.ts'
import { Overtaken, type Store, type Trx, write } from './database.ts'
import { type Envelope, openedOrNull } from './envelope.ts'
import { type ConfiguredInventory, importInventory } from './outside-inventory.ts'
import type { Tables } from './tables.ts'

/** What the record is to know of a cloud of a file. */
export interface ConfiguredCloud extends CloudFields {
  readonly name: string
  /** Below the configuration directory; evidence of what happens to the cloud. */
  readonly file: string
  /** The adapter's name. */
  readonly provider: string
  readonly credential: Secret | null
}

export interface FoundClouds {
  readonly clouds: readonly ConfiguredCloud[]
  /** Names of all cloud files there are, also of those that were not understood; null: that cannot be told. */
  readonly present: ReadonlySet<string> | null
  /** Null: there is no file for one. Left out: no news. */
  readonly inventory?: ConfiguredInventory | null
}

export interface Refusal {
  readonly file: string
  readonly reason: string
}

const IMPORT_LOCK = 4_805_002

type Row = Selectable<Tables['clouds']>

/**
 * Makes the record say what the files say now, and returns what of it was refused. One import at a time in the whole
 * installation, and files are read inside it, so that no process puts back what another one has replaced. What has not
 * changed is not written. A cloud whose file is gone is retired: no new orders, what runs there stays.
 */
export function importClouds(store: Store, envelope: Envelope, read: () => Promise<FoundClouds>): Promise<Refusal[]> {
  return write(store, async (trx) => {
    await sql`select pg_advisory_xact_lock(${IMPORT_LOCK})`.execute(trx)
    const { clouds, present, inventory } = await read()
    const names = clouds.map((cloud) => cloud.name)
    const rows = await trx
      .selectFrom('clouds')
      .selectAll()
      .where((where) => where.or([where('source', '=', 'file'), ...(names.length ? [where('name', 'in', names)] : [])]))
      .orderBy('id')
      .forNoKeyUpdate()
      .execute()
    const by_name = new Map(rows.map((row) => [row.name, row]))
    const refused: Refusal[] = []
    for (const cloud of clouds) {
      const reason = await importOne(trx, envelope, cloud, by_name.get(cloud.name))
      if (reason) refused.push({ file: cloud.file, reason })
    }
    for (const row of rows) {
      if (row.source === 'file' && !row.retired_at && present?.has(row.name) === false) await retire(trx, row)
    }
    if (inventory !== undefined) await importInventory(trx, envelope, inventory)
    return refused
  })
}

/** Returns why the file is refused, if it is. */
async function importOne(
  trx: Trx,
  envelope: Envelope,
  cloud: ConfiguredCloud,
  row: Row | undefined,
): Promise<string | null> {
  const { name, file, provider, credential: secret, ...fields } = cloud
  const text = stableText({ ...fields, provider, credential: secret?.reveal() ?? null })
  const taken = `there is a cloud ${name} made through the API; it stays as it is`
  if (!row) {
    const id = newId()
    const imported = envelope.seal(text, id)
    const made = { ...fields, id, name, provider, imported }
    const cause = causeOf(file, 'its file is new')
    if (!(await addCloud(trx, made, seal(envelope, secret), cause))) throw new Overtaken(taken)
    return null
  }
  if (row.source === 'api') return taken
  if (row.provider !== provider)
    return `cloud ${name} is one of provider ${row.provider} and cannot become one of ${provider}: use another name`
  if (!row.retired_at && openedOrNull(envelope, row.imported, row.id) === text) return null
  const change = {
    ...fields,
    imported: envelope.seal(text, row.id),
    retired_at: null,
    ...(secret ? {} : { credential_id: null }),
  }
  const cause = causeOf(file, row.retired_at ? 'its file is back' : 'its configuration has changed')
  const is_known = secret?.reveal() === (await credentialOf(trx, envelope, row))
  await changeCloud(trx, row, 'cloud.updated', change, is_known ? null : seal(envelope, secret), cause)
  return null
}

async function retire(trx: Trx, row: Row): Promise<void> {
  const file = `clouds/${row.name}.conf`
  const change = { enabled: false, retired_at: sql<Date>`record_now()` }
  await changeCloud(trx, row, 'cloud.retired', change, null, causeOf(file, 'its file is gone'))
}

const causeOf = (file: string, reason: string): Cause => ({ rule: 'configuration_file', reason, evidence: { file } })

function seal(envelope: Envelope, secret: Secret | null): SealedCredential | null {
  const id = newId()
  return secret && { id, sealed: envelope.seal(secret.reveal(), id) }
}

async function credentialOf(trx: Trx, envelope: Envelope, row: Row): Promise<string | null> {
  if (row.credential_id === null) return null
  const { sealed } = await trx
    .selectFrom('credentials')
    .select('sealed')
    .where('id', '=', row.credential_id)
    .executeTakeFirstOrThrow()
  return openedOrNull(envelope, sealed, row.credential_id)
}

/** The same text for the same value, however its keys are ordered. */
function stableText(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
