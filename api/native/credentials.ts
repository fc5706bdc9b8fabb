/** Credentials: accounts at clouds that a project brings along. Their secrets come in and are never shown again. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import { cloudsForOrders } from '../../store/clouds.ts'
import {
  changeCredential,
  dropCredential,
  findCredential,
  insertCredential,
  listCredentials,
  type ShownCredential,
} from '../../store/credentials.ts'
import { changeOnce } from '../../store/idempotency.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import {
  beforeId,
  body,
  fields,
  Id,
  iso,
  isoOrNull,
  json,
  Moment,
  MomentOut,
  Name,
  Next,
  nextCursor,
  page,
  Word,
} from '../schemas.ts'
import { CredentialSecret } from './credential-input.ts'
import { notGranted } from './order-input.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Credential = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    name: z.string(),
    cloud: z.string(),
    order_id: z.string().nullable().openapi({ description: 'The order it came with, and ends with.' }),
    state: z.enum(['ok', 'refused', 'expired']).openapi({ description: 'Unless ok, what needs it waits.' }),
    version: z.int().openapi({ description: 'Of the secret: how often it was replaced, and one.' }),
    machines: z.int().openapi({ description: 'That it is needed for.' }),
    expires_at: MomentOut.nullable(),
    refused_at: MomentOut.nullable(),
    sequence: z.int(),
    created_at: MomentOut,
  })
  .openapi('Credential')
const Envelope = z.strictObject({ credential: Credential })
const Params = z.strictObject({ credential_id: Id })

const Input = fields({
  name: Name,
  cloud: Word,
  secret: CredentialSecret,
  expires_at: Moment.nullable().optional(),
}).openapi('CredentialInput')
const Change = fields({
  name: Name.optional(),
  secret: CredentialSecret.optional(),
  expires_at: Moment.nullable().optional(),
}).openapi('CredentialChange')

const render = (row: ShownCredential): z.infer<typeof Credential> => ({
  id: row.id,
  href: `/api/credentials/${row.id}`,
  name: row.name,
  cloud: row.cloud,
  order_id: row.order_id,
  state: row.state,
  version: row.version,
  machines: row.machines,
  expires_at: isoOrNull(row.expires_at),
  refused_at: isoOrNull(row.refused_at),
  sequence: row.sequence,
  created_at: iso(row.created_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['credentials'] }

const post = createRoute({
  method: 'post',
  path: '/api/credentials',
  ...common,
  summary: 'Keep a credential of an account at a cloud',
  ...guardedBody('write'),
  request: { ...writeHeaders, ...body('credential', Input) },
  responses: { 201: json('Kept.', Envelope), ...errors },
})

const list = createRoute({
  method: 'get',
  path: '/api/credentials',
  ...common,
  summary: 'List credentials, newest first',
  ...guarded('read'),
  request: { query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ credentials: z.array(Credential), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/credentials/{credential_id}',
  ...common,
  summary: 'Read a credential, without its secret',
  ...guarded('read'),
  request: { params: Params },
  responses: { 200: json('The credential.', Envelope), ...errors },
})

const changing = {
  path: '/api/credentials/{credential_id}',
  ...common,
  ...guardedBody('write'),
  request: { ...changeHeaders, params: Params, ...body('credential', Change) },
  responses: {
    200: json('Changed; what waited for it goes on. What is left out stays as it is.', Envelope),
    ...errors,
  },
} as const
const patch = createRoute({ method: 'patch', summary: 'Replace the secret, the term or the name', ...changing })
const put = createRoute({ method: 'put', summary: 'The same as PATCH', ...changing })

const remove = createRoute({
  method: 'delete',
  path: '/api/credentials/{credential_id}',
  ...common,
  summary: 'Erase a credential; 409 while machines or open orders need it',
  ...guarded('write'),
  request: { ...changeHeaders, params: Params },
  responses: { 204: { description: 'It is erased.' }, ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/credentials`. */
export function routeCredentials(app: Api): void {
  app.openapi(post, async (c) => {
    const { envelope, store } = c.get('deps')
    const { cloud: cloud_name, secret, expires_at, name } = c.req.valid('json')
    const caller = callerOf(c)
    const granted = await cloudsForOrders(store.db, caller.project_id)
    const cloud = granted.find((one) => one.name === cloud_name)
    if (!cloud) throw invalid([notGranted('body.cloud', granted)])
    const id = newId()
    const credential = {
      id,
      name,
      cloud_id: cloud.id,
      sealed: envelope.seal(secret, id),
      expires_at: moment(expires_at),
    }
    const answer = { status: 201, resource_type: 'credential', resource_id: id }
    const given = await changeOnce(store, caller, await requestKey(c), answer, (trx) =>
      insertCredential(trx, caller, credential),
    )
    const made = await show(c, given.resource_id)
    c.header('Location', made.href)
    return c.json({ credential: made }, 201)
  })

  app.openapi(list, async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const query = { limit: limit + 1, before: beforeId('credentials', cursor) }
    const rows = await listCredentials(c.get('deps').store.db, c.get('identity').project_id, query)
    return c.json({ credentials: rows.slice(0, limit).map(render), next: nextCursor('credentials', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => c.json({ credential: await show(c, c.req.valid('param').credential_id) }, 200))

  const change = async (c: ApiContext, id: string, { secret, expires_at, name }: z.infer<typeof Change>) => {
    const { envelope, store } = c.get('deps')
    const caller = callerOf(c)
    const changes = {
      ...(name === undefined ? {} : { name }),
      ...(secret === undefined ? {} : { sealed: envelope.seal(secret, id) }),
      ...(expires_at === undefined ? {} : { expires_at: moment(expires_at) }),
    }
    const answer = { status: 200, resource_type: 'credential', resource_id: id }
    await changeOnce(store, caller, await requestKey(c), answer, (trx) =>
      changeCredential(trx, caller, id, changes, ifMatch(c)),
    )
    return show(c, id)
  }
  app.openapi(patch, async (c) =>
    c.json({ credential: await change(c, c.req.valid('param').credential_id, c.req.valid('json')) }, 200),
  )
  app.openapi(put, async (c) =>
    c.json({ credential: await change(c, c.req.valid('param').credential_id, c.req.valid('json')) }, 200),
  )

  app.openapi(remove, async (c) => {
    const { credential_id } = c.req.valid('param')
    const caller = callerOf(c)
    const answer = { status: 204, resource_type: 'credential', resource_id: credential_id }
    await changeOnce(c.get('deps').store, caller, await requestKey(c), answer, (trx) =>
      dropCredential(trx, caller, credential_id, ifMatch(c)),
    )
    return c.body(null, 204)
  })
}

const moment = (text: string | null | undefined): Date | null => (text ? new Date(text) : null)

async function show(c: ApiContext, id: string): Promise<z.infer<typeof Credential>> {
  const row = await findCredential(c.get('deps').store.db, c.get('identity').project_id, { id })
  if (!row) throw notFound('credential', id)
  tellVersion(c, row.sequence)
  return render(row)
}
