/** What a cloud tells of itself: realms, sizes, images, in its own names. */
import { createRoute, z } from '@hono/zod-openapi'
import { findSurvey, listOffers, listRealms, type SurveyKind, type SurveyRow } from '../../store/surveys.ts'
import type { Api, ApiContext } from '../context.ts'
import { errors, guarded } from '../route.ts'
import {
  decodeCursor,
  ErrorOut,
  encodeCursor,
  fields,
  iso,
  isoOrNull,
  json,
  MomentOut,
  Next,
  page,
} from '../schemas.ts'
import { CloudParams, visible } from './clouds.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const named = { provider_id: z.string(), name: z.string() }

const Realm = z
  .strictObject({
    ...named,
    available: z.boolean(),
    since: MomentOut.openapi({ description: 'It is, or is not, available since then.' }),
  })
  .openapi('Realm')
const Size = z
  .strictObject({ ...named, vcpus: z.number(), memory_mib: z.number(), disk_gib: z.number() })
  .openapi('CloudSize')
const Image = z.strictObject(named).openapi('CloudImage')

/** How it became known: beside the list, since a cloud that does not answer takes nothing back. */
const survey = {
  seen_at: MomentOut.nullable().openapi({ description: 'When the cloud last told them; null: never.' }),
  failing_since: MomentOut.nullable().openapi({ description: 'It has not answered since; what it told last stands.' }),
  last_error: ErrorOut.nullable(),
}

const PageQuery = fields(page)

// Routes -------------------------------------------------------------------------------------------------------------

const common = {
  tags: ['clouds'],
  method: 'get' as const,
  ...guarded('read'),
  request: { params: CloudParams, query: PageQuery },
}

const realms = createRoute({
  ...common,
  path: '/api/clouds/{cloud}/realms',
  summary: 'List the realms of a cloud, and since when each is available or not',
  responses: { 200: json('A page.', z.strictObject({ realms: z.array(Realm), ...survey, next: Next })), ...errors },
})
const sizes = createRoute({
  ...common,
  path: '/api/clouds/{cloud}/sizes',
  summary: 'List the sizes of a cloud, in its own names',
  responses: { 200: json('A page.', z.strictObject({ sizes: z.array(Size), ...survey, next: Next })), ...errors },
})
const images = createRoute({
  ...common,
  path: '/api/clouds/{cloud}/images',
  summary: 'List the images of a cloud, in its own names',
  responses: { 200: json('A page.', z.strictObject({ images: z.array(Image), ...survey, next: Next })), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers what a cloud tells of itself, below `/api/clouds`. */
export function routeCloudOffers(app: Api): void {
  app.openapi(realms, async (c) => {
    const { rows, ...rest } = await listed(c, c.req.valid('param').cloud, 'realm', c.req.valid('query'), listRealms)
    const shown = rows.map(({ provider_id, name, available, since }) => ({
      provider_id,
      name,
      available,
      since: iso(since),
    }))
    return c.json({ realms: shown, ...rest }, 200)
  })

  app.openapi(sizes, async (c) => {
    const { rows, ...rest } = await listed(
      c,
      c.req.valid('param').cloud,
      'size',
      c.req.valid('query'),
      (db, id, page) => listOffers(db, id, 'size', page),
    )
    const shown = rows.map(({ provider_id, name, attributes }) => ({
      provider_id,
      name,
      vcpus: attributes.vcpus ?? 0,
      memory_mib: attributes.memory_mib ?? 0,
      disk_gib: attributes.disk_gib ?? 0,
    }))
    return c.json({ sizes: shown, ...rest }, 200)
  })

  app.openapi(images, async (c) => {
    const { rows, ...rest } = await listed(
      c,
      c.req.valid('param').cloud,
      'image',
      c.req.valid('query'),
      (db, id, page) => listOffers(db, id, 'image', page),
    )
    return c.json({ images: rows.map(({ provider_id, name }) => ({ provider_id, name })), ...rest }, 200)
  })
}

/** A page of one kind, with how it became known. */
async function listed<Row extends { readonly provider_id: string }>(
  c: ApiContext,
  name: string,
  kind: SurveyKind,
  { limit, cursor }: { limit: number; cursor?: string | undefined },
  read: (
    db: Parameters<typeof listRealms>[0],
    cloud_id: string,
    page: { limit: number; after?: string | undefined },
  ) => Promise<Row[]>,
) {
  const { db } = c.get('deps').store
  const after = cursor === undefined ? undefined : decodeCursor(`${kind}s`, /^[^\0]+$/, cursor)
  const cloud = await visible(c, name)
  const rows = await read(db, cloud.id, { limit: limit + 1, after })
  const shown = rows.slice(0, limit)
  return {
    rows: shown,
    ...renderSurvey(await findSurvey(db, cloud.id, kind)),
    next: rows.length > limit ? encodeCursor(`${kind}s`, shown.at(-1)!.provider_id) : null,
  }
}

const renderSurvey = (row: SurveyRow | undefined) => ({
  seen_at: isoOrNull(row?.seen_at),
  failing_since: isoOrNull(row?.failing_since),
  last_error: row?.last_error ?? null,
})
