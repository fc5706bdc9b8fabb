/** Hosts of clouds, for leases to have for themselves: made known and kept by operators. */
import { createRoute, z } from '@hono/zod-openapi'
import { deleteHost, insertHost, listHosts, type ShownHost, updateHost } from '../../store/hosts.ts'
import { changeOnce } from '../../store/idempotency.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import { body, decodeCursor, fields, iso, json, MomentOut, Next, NUMBER, nextCursor, page } from '../schemas.ts'
import { CloudParams, visible } from './clouds.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const PROPERTIES_BYTES_MAX = 65_536

const HostName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$/, {
  error: 'is not the name of a host; accepted: letters, digits, dots, dashes and underscores, at most 253',
})
const Properties = z
  .record(z.string().min(1).max(200), z.unknown())
  .refine((value) => Buffer.byteLength(JSON.stringify(value)) <= PROPERTIES_BYTES_MAX, { error: 'is too long' })
const Reservable = z.boolean().openapi({
  description: 'False: it is given to no more leases; those that have booked it keep it.',
})
const Host = z
  .strictObject({
    name: z.string(),
    href: z.string(),
    cloud: z.string(),
    properties: z.record(z.string(), z.unknown()),
    reservable: z.boolean(),
    leases: z
      .array(
        z.strictObject({
          lease_id: z.string(),
          project: z.string(),
          start_at: MomentOut,
          end_at: MomentOut,
          held: z.boolean().openapi({ description: 'It has the host in fact, until its machines are gone.' }),
        }),
      )
      .openapi({ description: 'Who has booked it or holds it, by time.' }),
    sequence: z.int(),
    created_at: MomentOut,
  })
  .openapi('Host')
const HostEnvelope = z.strictObject({ host: Host })
const HostInput = fields({
  name: HostName.openapi({ description: 'As its cloud calls it.' }),
  properties: Properties.default({}),
  reservable: Reservable.default(true),
}).openapi('HostInput')
const HostChange = fields({ properties: Properties.optional(), reservable: Reservable.optional() }).openapi(
  'HostChange',
)
const HostParams = CloudParams.extend({ host: HostName })

const render = (cloud: string, row: ShownHost): z.infer<typeof Host> => ({
  name: row.name,
  href: `/api/clouds/${cloud}/hosts/${row.name}`,
  cloud,
  properties: { ...row.properties },
  reservable: row.reservable,
  leases: row.uses.map(({ start_at, end_at, ...use }) => ({
    ...use,
    start_at: iso(new Date(start_at)),
    end_at: iso(new Date(end_at)),
  })),
  sequence: row.sequence,
  created_at: iso(row.created_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['clouds'] }

const post = createRoute({
  method: 'post',
  path: '/api/clouds/{cloud}/hosts',
  ...common,
  summary: 'Make a host of a cloud known, for leases to book',
  ...guardedBody('operator'),
  request: { ...writeHeaders, params: CloudParams, ...body('host', HostInput) },
  responses: { 201: json('Made.', HostEnvelope), ...errors },
})

const list = createRoute({
  method: 'get',
  path: '/api/clouds/{cloud}/hosts',
  ...common,
  summary: 'List the hosts of a cloud in the order in which they are given out',
  ...guarded('operator'),
  request: { params: CloudParams, query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ hosts: z.array(Host), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/clouds/{cloud}/hosts/{host}',
  ...common,
  summary: 'Read a host: who has booked it, and who has it',
  ...guarded('operator'),
  request: { params: HostParams },
  responses: { 200: json('The host.', HostEnvelope), ...errors },
})

const changing = {
  path: '/api/clouds/{cloud}/hosts/{host}',
  ...common,
  ...guardedBody('operator'),
  request: { ...changeHeaders, params: HostParams, ...body('host', HostChange) },
  responses: { 200: json('Changed; what is left out stays as it is.', HostEnvelope), ...errors },
} as const
const patch = createRoute({ method: 'patch', summary: 'Change a host', ...changing })
const put = createRoute({ method: 'put', summary: 'The same as PATCH', ...changing })

const remove = createRoute({
  method: 'delete',
  path: '/api/clouds/{cloud}/hosts/{host}',
  ...common,
  summary: 'Forget a host that no lease has booked or holds',
  ...guarded('operator'),
  request: { ...changeHeaders, params: HostParams },
  responses: { 204: { description: 'It is forgotten.' }, ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/clouds/{cloud}/hosts`. */
export function routeHosts(app: Api): void {
  app.openapi(post, async (c) => {
    const cloud = await visible(c, c.req.valid('param').cloud)
    const input = c.req.valid('json')
    const answer = { status: 201, resource_type: 'cloud', resource_id: cloud.id }
    await changeOnce(c.get('deps').store, callerOf(c), await requestKey(c), answer, (trx) =>
      insertHost(trx, { ...input, cloud_id: cloud.id }),
    )
    c.header('Location', `/api/clouds/${cloud.name}/hosts/${input.name}`)
    return c.json({ host: await show(c, cloud, input.name) }, 201)
  })

  app.openapi(list, async (c) => {
    const cloud = await visible(c, c.req.valid('param').cloud)
    const { limit, cursor } = c.req.valid('query')
    const after = cursor === undefined ? undefined : Number(decodeCursor('hosts', NUMBER, cursor))
    const rows = await listHosts(c.get('deps').store.db, { cloud_id: cloud.id, after, limit: limit + 1 })
    const hosts = rows.slice(0, limit).map((row) => render(cloud.name, row))
    return c.json({ hosts, next: nextCursor('hosts', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => {
    const { cloud, host } = c.req.valid('param')
    return c.json({ host: await show(c, await visible(c, cloud), host) }, 200)
  })

  app.openapi(patch, async (c) => c.json({ host: await change(c, c.req.valid('param'), c.req.valid('json')) }, 200))
  app.openapi(put, async (c) => c.json({ host: await change(c, c.req.valid('param'), c.req.valid('json')) }, 200))

  app.openapi(remove, async (c) => {
    const params = c.req.valid('param')
    const { id: cloud_id } = await visible(c, params.cloud)
    const answer = { status: 204, resource_type: 'cloud', resource_id: cloud_id }
    await changeOnce(c.get('deps').store, callerOf(c), await requestKey(c), answer, (trx) =>
      deleteHost(trx, { cloud_id, name: params.host }, ifMatch(c)),
    )
    return c.body(null, 204)
  })
}

async function change(
  c: ApiContext,
  params: z.infer<typeof HostParams>,
  input: z.infer<typeof HostChange>,
): Promise<z.infer<typeof Host>> {
  const cloud = await visible(c, params.cloud)
  const answer = { status: 200, resource_type: 'cloud', resource_id: cloud.id }
  await changeOnce(c.get('deps').store, callerOf(c), await requestKey(c), answer, (trx) =>
    updateHost(trx, { cloud_id: cloud.id, name: params.host }, input, ifMatch(c)),
  )
  return show(c, cloud, params.host)
}

async function show(c: ApiContext, cloud: { id: string; name: string }, name: string): Promise<z.infer<typeof Host>> {
  const [row] = await listHosts(c.get('deps').store.db, { cloud_id: cloud.id, name })
  if (!row) throw notFound('host', name)
  tellVersion(c, row.sequence)
  return render(cloud.name, row)
}
