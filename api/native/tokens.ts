/** Tokens: who may ask, and what. For operators; the text of a token is given once. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import { changeOnce } from '../../store/idempotency.ts'
import { findProject, findToken, insertToken, listTokens, newTokenText, revokeToken } from '../../store/projects.ts'
import { type Api, callerOf } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { requestKey } from '../request.ts'
import { errors, guarded, guardedBody, writeHeaders } from '../route.ts'
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

// Schema -------------------------------------------------------------------------------------------------------------

const ROLES = ['operator', 'member', 'reader', 'monitor'] as const

const Token = z
  .strictObject({
    id: z.string(),
    project: z.string(),
    user: z.string(),
    role: z.enum(ROLES),
    grants: z.array(z.string()),
    created_at: MomentOut,
    expires_at: MomentOut.nullable(),
    revoked_at: MomentOut.nullable(),
  })
  .openapi('Token')
const TokenInput = fields({
  project: Word,
  user: Name.optional().openapi({ description: 'Made when new; default: the role.' }),
  role: z.enum(ROLES),
  grants: z
    .array(z.enum(['act']))
    .max(1)
    .default([]),
  expires_at: Moment.optional(),
}).openapi('TokenInput')
const NewToken = z
  .strictObject({ ...Token.shape, text: z.string().openapi({ description: 'The token itself: given here only.' }) })
  .openapi('NewToken')
const TokenParams = z.strictObject({ token_id: Id })

type Row = NonNullable<Awaited<ReturnType<typeof findToken>>>
const render = (row: Row) => ({
  ...row,
  created_at: iso(row.created_at),
  expires_at: isoOrNull(row.expires_at),
  revoked_at: isoOrNull(row.revoked_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const post = createRoute({
  method: 'post',
  path: '/api/tokens',
  tags: ['tokens'],
  summary: 'Make a token',
  ...guardedBody('operator'),
  request: { ...writeHeaders, ...body('token', TokenInput) },
  responses: {
    201: json('Made. A repeat with the same key gives the text again.', z.strictObject({ token: NewToken })),
    ...errors,
  },
})

const list = createRoute({
  method: 'get',
  path: '/api/tokens',
  tags: ['tokens'],
  summary: 'List tokens of all projects, newest first',
  ...guarded('operator'),
  request: { query: fields(page) },
  responses: { 200: json('A page.', z.strictObject({ tokens: z.array(Token), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/tokens/{token_id}',
  tags: ['tokens'],
  summary: 'Read a token, without its text',
  ...guarded('operator'),
  request: { params: TokenParams },
  responses: { 200: json('The token.', z.strictObject({ token: Token })), ...errors },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/tokens/{token_id}',
  tags: ['tokens'],
  summary: 'Revoke a token',
  ...guarded('operator'),
  request: { ...writeHeaders, params: TokenParams },
  responses: { 204: { description: 'It is valid no longer.' }, ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/tokens`. */
export function routeTokens(app: Api): void {
  app.openapi(post, async (c) => {
    const { store, envelope } = c.get('deps')
    const input = c.req.valid('json')
    const id = newId()
    const text = newTokenText()
    const sealed_secret = envelope.seal(text, id)
    const answer = await changeOnce(
      store,
      callerOf(c),
      await requestKey(c),
      { status: 201, resource_type: 'token', resource_id: id, sealed_secret },
      async (trx) => {
        const project = await findProject(trx, { name: input.project })
        if (!project) throw invalid([{ path: 'body.project', reason: 'there is no project of this name' }])
        const expires_at = input.expires_at ? new Date(input.expires_at) : null
        const { role, grants } = input
        await insertToken(trx, { id, text, project_id: project.id, user: input.user ?? role, role, grants, expires_at })
      },
    )
    const token = await findToken(store.db, answer.resource_id)
    if (!token || !answer.sealed_secret) throw notFound('token', answer.resource_id)
    c.header('Location', `/api/tokens/${token.id}`)
    return c.json({ token: { ...render(token), text: envelope.open(answer.sealed_secret, token.id) } }, 201)
  })

  app.openapi(list, async (c) => {
    const { limit, cursor } = c.req.valid('query')
    const rows = await listTokens(c.get('deps').store.db, { limit: limit + 1, before: beforeId('tokens', cursor) })
    return c.json({ tokens: rows.slice(0, limit).map(render), next: nextCursor('tokens', rows, limit) }, 200)
  })

  app.openapi(get, async (c) => {
    const { token_id } = c.req.valid('param')
    const token = await findToken(c.get('deps').store.db, token_id)
    if (!token) throw notFound('token', token_id)
    return c.json({ token: render(token) }, 200)
  })

  app.openapi(remove, async (c) => {
    const { token_id } = c.req.valid('param')
    const answer = { status: 204, resource_type: 'token', resource_id: token_id }
    await changeOnce(c.get('deps').store, callerOf(c), await requestKey(c), answer, async (trx) => {
      if (!(await revokeToken(trx, token_id))) throw notFound('token', token_id)
    })
    return c.body(null, 204)
  })
}
