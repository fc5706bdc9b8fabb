/** The installation as a whole. For operators. */
import { createRoute, z } from '@hono/zod-openapi'
import { changeOnce } from '../../store/idempotency.ts'
import { readInstallation, setAutomaticRemoval } from '../../store/installation.ts'
import { countOld } from '../../store/reseal.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody } from '../route.ts'
import { body, fields, isoOrNull, json, MomentOut } from '../schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Installation = z
  .strictObject({
    id: z.string().openapi({ description: 'Every machine of ours carries it in its tags.' }),
    automatic_removal: z.boolean().openapi({
      description:
        'Whether rules may delete machines. Off after a restore from backup: only what a person ends is deleted then.',
    }),
    restored_at: MomentOut.nullable(),
    old_seals: z.int().openapi({
      description: 'Secrets that an older master key than the current one sealed; at 0 the old one may go.',
    }),
    sequence: z.int(),
  })
  .openapi('Installation')
const Envelope = z.strictObject({ installation: Installation })
const InstallationChange = fields({ automatic_removal: z.boolean().optional() }).openapi('InstallationChange')

// Routes -------------------------------------------------------------------------------------------------------------

const common = { path: '/api/installation' as const, tags: ['installation'] }

const get = createRoute({
  method: 'get',
  ...common,
  summary: 'Read the installation',
  ...guarded('operator'),
  responses: { 200: json('The installation.', Envelope), ...errors },
})

const changing = {
  ...common,
  ...guardedBody('operator'),
  request: { ...changeHeaders, ...body('installation', InstallationChange) },
  responses: { 200: json('Changed; what is left out stays as it is.', Envelope), ...errors },
}
const patch = createRoute({ method: 'patch', summary: 'Let rules delete machines, or not', ...changing })
const put = createRoute({ method: 'put', summary: 'The same as PATCH', ...changing })

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/installation`. */
export function routeInstallation(app: Api): void {
  app.openapi(get, async (c) => c.json({ installation: await shown(c) }, 200))
  app.openapi(patch, async (c) => c.json({ installation: await change(c, c.req.valid('json')) }, 200))
  app.openapi(put, async (c) => c.json({ installation: await change(c, c.req.valid('json')) }, 200))
}

async function shown(c: ApiContext): Promise<z.infer<typeof Installation>> {
  const { store, envelope } = c.get('deps')
  const { id, automatic_removal, restored_at, sequence } = await readInstallation(store.db)
  tellVersion(c, sequence)
  const old_seals = await countOld(store.db, envelope)
  return { id, automatic_removal, restored_at: isoOrNull(restored_at), old_seals, sequence }
}

async function change(
  c: ApiContext,
  { automatic_removal }: z.infer<typeof InstallationChange>,
): Promise<z.infer<typeof Installation>> {
  const { store } = c.get('deps')
  const { id } = await readInstallation(store.db)
  await changeOnce(
    store,
    callerOf(c),
    await requestKey(c),
    { status: 200, resource_type: 'installation', resource_id: id },
    (trx) => setAutomaticRemoval(trx, callerOf(c), automatic_removal, ifMatch(c)),
  )
  return shown(c)
}
