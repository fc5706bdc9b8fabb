/** Clouds as the native wire shows and takes them. */
import { z } from '@hono/zod-openapi'
import { retiredReason, type ShownCloud } from '../../store/clouds.ts'
import { ErrorOut, fields, Int4, iso, isoOrNull, MomentOut, Word } from '../schemas.ts'

const NAMES_MAX = 500
const SETTINGS_BYTES_MAX = 65_536

export const Cloud = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    name: z.string(),
    provider: z.string(),
    endpoint: z.string().nullable().openapi({ description: 'For operators.' }),
    credential: z.boolean().openapi({ description: 'Whether there is one; it is never shown.' }),
    settings: z.record(z.string(), z.unknown()).nullable().openapi({ description: 'For operators.' }),
    sizes: z.record(z.string(), z.string()).openapi({ description: 'Our name to the name at the cloud.' }),
    images: z.record(z.string(), z.string()),
    prices: z.record(z.string(), z.number()),
    priority: z.int(),
    enabled: z.boolean(),
    disabled_reason: z.string().nullable().openapi({ description: 'Where a rule of ours disabled it.' }),
    allocation: z.int().nullable().openapi({ description: 'Instances at most; null: no limit of ours.' }),
    allocation_used: z.int(),
    source: z.enum(['api', 'file']),
    state: z.enum(['unknown', 'ok', 'unreachable', 'refused']),
    stale_since: MomentOut.nullable(),
    last_error: ErrorOut.nullable(),
    sequence: z.int(),
    created_at: MomentOut,
  })
  .openapi('Cloud')

const Names = z
  .record(z.string().min(1).max(200), z.string().min(1).max(500))
  .refine((names) => Object.keys(names).length <= NAMES_MAX, { error: `has more than ${NAMES_MAX} names` })

export const cloudShape = {
  endpoint: z
    .url({ protocol: /^https?$/, error: 'is not an http or https address' })
    .max(2_000)
    .refine((text) => !URL.canParse(text) || new URL(text).username === '', { error: 'must not hold a user name' }),
  credential: z.string().min(1).max(65_536).openapi({ description: 'Kept sealed and never shown.' }),
  settings: z
    .record(z.string(), z.unknown())
    .refine((value) => Buffer.byteLength(JSON.stringify(value)) <= SETTINGS_BYTES_MAX, { error: 'is too long' }),
  sizes: Names,
  images: Names,
  prices: z
    .record(z.string().min(1).max(200), z.number().min(0).max(1_000_000_000))
    .refine((prices) => Object.keys(prices).length <= NAMES_MAX, { error: `has more than ${NAMES_MAX} names` })
    .openapi({ description: 'What a size costs, by our name of it, in a unit of yours.' }),
  priority: z.int().min(-1_000_000).max(1_000_000),
  enabled: z.boolean(),
  allocation: Int4.min(0).nullable(),
} as const

export const CloudInput = fields({
  name: Word,
  provider: z.string().max(100),
  endpoint: cloudShape.endpoint,
  credential: cloudShape.credential.optional(),
  settings: cloudShape.settings.default({}),
  sizes: cloudShape.sizes.default({}),
  images: cloudShape.images.default({}),
  prices: cloudShape.prices.default({}),
  priority: cloudShape.priority.default(0),
  enabled: cloudShape.enabled.default(true),
  allocation: cloudShape.allocation.default(null),
}).openapi('CloudInput')

export const CloudChange = fields({
  endpoint: cloudShape.endpoint.optional(),
  credential: cloudShape.credential.optional(),
  settings: cloudShape.settings.optional(),
  sizes: cloudShape.sizes.optional(),
  images: cloudShape.images.optional(),
  prices: cloudShape.prices.optional(),
  priority: cloudShape.priority.optional(),
  enabled: cloudShape.enabled.optional(),
  allocation: cloudShape.allocation.optional(),
}).openapi('CloudChange')

export const Grant = z.strictObject({ cloud: z.string(), project: z.string() }).openapi('CloudGrant')

/** What only operators see is null for others. */
export const renderCloud = (row: ShownCloud, operator: boolean): z.infer<typeof Cloud> => ({
  id: row.id,
  href: `/api/clouds/${row.name}`,
  name: row.name,
  provider: row.provider,
  endpoint: operator ? row.endpoint : null,
  credential: row.credential_id !== null,
  settings: operator ? row.settings : null,
  sizes: row.sizes,
  images: row.images,
  prices: row.prices,
  priority: row.priority,
  enabled: row.enabled,
  disabled_reason: retiredReason(row),
  allocation: row.allocation,
  allocation_used: row.allocation_used,
  source: row.source,
  state: row.state,
  stale_since: isoOrNull(row.stale_since),
  last_error: row.last_error,
  sequence: row.sequence,
  created_at: iso(row.created_at),
})
