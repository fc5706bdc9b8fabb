/**
 * What a cloud tells of its realms, sizes and images, asked for now and then. A survey that fails proves nothing: what
 * was told last stands, and since when it is not answered is told beside it.
 */
import { type Kysely, type Selectable, sql } from 'kysely'
import type { AttemptError } from '../domain/record.ts'
import { wakeWaiting } from './clouds.ts'
import { type Store, type Trx, write } from './database.ts'
import type { CloudRow } from './order-plan.ts'
import { type CloudNote, tellCloud } from './orphans.ts'
import type { CloudSurveysTable, Tables } from './tables.ts'
import { requireEpoch } from './watch-epoch.ts'

export type SurveyKind = CloudSurveysTable['kind']

/** One realm, size or image as its cloud tells it. */
export interface Surveyed {
  readonly provider_id: string
  readonly name: string
  /** Of a realm. */
  readonly available?: boolean
  /** Of a size. */
  readonly attributes?: Readonly<Record<string, number>>
}

/** Entries of one kind that are kept at most. */
const ENTRIES_MAX = 10_000

/** Stores what a survey begun at `asked_at` (real time) found of a kind, or why it found nothing. */
export async function storeSurvey(
  store: Store,
  cloud: CloudRow,
  kind: SurveyKind,
  asked_at: Date,
  found: { readonly entries: readonly Surveyed[] } | { readonly error: AttemptError },
): Promise<void> {
  await write(store, async (trx) => {
    await requireEpoch(trx, cloud, kind === 'realm')
    if ('error' in found) {
      const last_error = JSON.stringify(found.error)
      await trx
        .insertInto('cloud_surveys')
        .values({ cloud_id: cloud.id, kind, last_error, failing_since: sql<Date>`record_now()` })
        .onConflict((conflict) =>
          conflict.columns(['cloud_id', 'kind']).doUpdateSet({
            last_error,
            failing_since: sql<Date>`coalesce(cloud_surveys.failing_since, record_now())`,
          }),
        )
        .execute()
      return
    }
    // Told twice is told once.
    const entries = [...new Map(found.entries.map((entry) => [entry.provider_id, entry])).values()]
    if (kind === 'realm') await storeRealms(trx, cloud, entries, asked_at)
    else await storeOffers(trx, cloud, kind, entries.slice(0, ENTRIES_MAX))
    await trx
      .insertInto('cloud_surveys')
      .values({ cloud_id: cloud.id, kind, seen_at: sql<Date>`record_now()` })
      .onConflict((conflict) =>
        conflict.columns(['cloud_id', 'kind']).doUpdateSet({ seen_at: sql<Date>`record_now()`, failing_since: null }),
      )
      .execute()
  })
}

/** A realm that is not named any more is as good as closed. A change is an event of the cloud; the first sight is none. */
async function storeRealms(trx: Trx, cloud: CloudRow, entries: readonly Surveyed[], asked_at: Date): Promise<void> {
  const known = await trx.selectFrom('realms').selectAll().where('cloud_id', '=', cloud.id).execute()
  const named = new Map(entries.map((entry) => [entry.provider_id, entry]))
  const notes: CloudNote[] = []
  for (const realm of known) {
    const entry = named.get(realm.provider_id)
    const available = entry?.available ?? false
    if (available === realm.available && (!entry || entry.name === realm.name)) continue
    await trx
      .updateTable('realms')
      .set({ name: entry?.name ?? realm.name, available, ...(available === realm.available ? {} : SINCE_NOW) })
      .where('cloud_id', '=', cloud.id)
      .where('provider_id', '=', realm.provider_id)
      .execute()
    if (available === realm.available) continue
    const words = ['unavailable', 'available']
    notes.push({
      type: 'cloud.realm_changed',
      // From and to of the event itself are states of the cloud, which has not changed.
      snapshot: { realm: realm.name, from: words[Number(realm.available)], to: words[Number(available)] },
      cause: {
        rule: 'surveyed',
        reason: entry
          ? `the cloud tells realm ${realm.name} as ${words[Number(available)]}`
          : `the cloud does not name realm ${realm.name} any more`,
        evidence: { realm: realm.provider_id, named: entry !== undefined, observed_at: asked_at.toISOString() },
      },
    })
  }
  const fresh = entries.filter(({ provider_id }) => !known.some((realm) => realm.provider_id === provider_id))
  if (fresh.length)
    await trx
      .insertInto('realms')
      .values(
        fresh.map(({ provider_id, name, available = true }) => ({ cloud_id: cloud.id, provider_id, name, available })),
      )
      .execute()
  await tellCloud(trx, cloud, notes)
  if (notes.some(({ snapshot }) => snapshot.to === 'available')) await wakeWaiting(trx, cloud.id)
}

const SINCE_NOW = { since: sql<Date>`record_now()` }

async function storeOffers(
  trx: Trx,
  cloud: CloudRow,
  kind: 'size' | 'image',
  entries: readonly Surveyed[],
): Promise<void> {
  const rows = JSON.stringify(entries.map(({ attributes = {}, ...entry }) => ({ ...entry, attributes })))
  await sql`
    with told as (
      select * from jsonb_to_recordset(${rows}::jsonb) as told (provider_id text, name text, attributes jsonb)
    ), dropped as (
      delete from cloud_offers where cloud_id = ${cloud.id} and kind = ${kind}
        and provider_id not in (select provider_id from told)
    )
    insert into cloud_offers (cloud_id, kind, provider_id, name, attributes)
    select ${cloud.id}::uuid, ${kind}, provider_id, name, attributes from told
    on conflict (cloud_id, kind, provider_id) do update set name = excluded.name, attributes = excluded.attributes
      where (cloud_offers.name, cloud_offers.attributes) is distinct from (excluded.name, excluded.attributes)`.execute(
    trx,
  )
}

// Reading ------------------------------------------------------------------------------------------------------------

export type SurveyRow = Selectable<CloudSurveysTable>

/** Ids and names of the realms that a cloud told as unavailable. */
export async function closedRealms(db: Kysely<Tables>, cloud_id: string): Promise<string[]> {
  const rows = await db
    .selectFrom('realms')
    .select(['provider_id', 'name'])
    .where('cloud_id', '=', cloud_id)
    .where('available', '=', false)
    .execute()
  return rows.flatMap(({ provider_id, name }) => [provider_id, name])
}

/** When a cloud was last asked for a kind, and how that went; undefined: never. */
export function findSurvey(db: Kysely<Tables>, cloud_id: string, kind: SurveyKind): Promise<SurveyRow | undefined> {
  return db
    .selectFrom('cloud_surveys')
    .selectAll()
    .where('cloud_id', '=', cloud_id)
    .where('kind', '=', kind)
    .executeTakeFirst()
}

interface OfferPage {
  readonly limit: number
  readonly after?: string | undefined
}

/** Realms of a cloud, by its own ids. */
export function listRealms(db: Kysely<Tables>, cloud_id: string, { limit, after }: OfferPage) {
  const rows = db.selectFrom('realms').selectAll().where('cloud_id', '=', cloud_id).orderBy('provider_id').limit(limit)
  return (after === undefined ? rows : rows.where('provider_id', '>', after)).execute()
}

/** Sizes or images of a cloud, by its own ids. */
export function listOffers(db: Kysely<Tables>, cloud_id: string, kind: 'size' | 'image', { limit, after }: OfferPage) {
  const rows = db
    .selectFrom('cloud_offers')
    .selectAll()
    .where('cloud_id', '=', cloud_id)
    .where('kind', '=', kind)
    .orderBy('provider_id')
    .limit(limit)
  return (after === undefined ? rows : rows.where('provider_id', '>', after)).execute()
}
