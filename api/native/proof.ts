/** Proof of a resource's events: whoever received them checks by himself that none is missing and none was changed. */
import { createRoute, z } from '@hono/zod-openapi'
import { listClouds } from '../../store/clouds.ts'
import { findProof } from '../../store/proof.ts'
import type { Api, ApiContext } from '../context.ts'
import { notFound } from '../errors.ts'
import { errors, guarded } from '../route.ts'
import { decodeCursor, encodeCursor, fields, Id, json, Next, page, Word } from '../schemas.ts'
import { scopeOf } from './events.ts'
import { NOUNS } from './explain.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Digest = z.string().regex(/^[0-9a-f]{64}$/)

const Proof = z
  .strictObject({
    resource_type: z.string(),
    resource_id: z.string(),
    first: z.int().openapi({ description: 'Sequence of the oldest event kept.' }),
    last: z.int().openapi({ description: 'Sequence of the newest event.' }),
    count: z.int(),
    gap_free: z.boolean().openapi({ description: '`count` is all from `first` to `last`.' }),
    digest: Digest.openapi({ description: 'Of the newest event, and so of all before it.' }),
  })
  .openapi('Proof')

const Link = z
  .strictObject({
    sequence: z.int(),
    event_id: z.string(),
    digest: Digest.openapi({
      description:
        'SHA-256 of the 32 bytes of the digest before it (no bytes for sequence 1), followed by `text` as UTF-8.',
    }),
    text: z.string().openapi({
      description:
        'What is hashed: JSON which, parsed, equals the event as every other route shows it, without `cursor`.',
    }),
  })
  .openapi('ProofLink')

const SEQUENCE = /^[1-9][0-9]{0,8}$/
const CURSOR = 'proof'

const question = { query: fields({ limit: page.limit, cursor: page.cursor }) }
const answer = {
  200: json(
    'The proof, and a page of the chain, oldest first.',
    z.strictObject({ proof: Proof, chain: z.array(Link), next: Next }),
  ),
  ...errors,
}

// Routes -------------------------------------------------------------------------------------------------------------

const ofCloud = createRoute({
  method: 'get',
  path: '/api/clouds/{cloud}/proof',
  tags: ['clouds'],
  summary: 'Proof of the events of a cloud',
  ...guarded('read'),
  request: { params: z.strictObject({ cloud: Word }), ...question },
  responses: answer,
})

/** Registers `…/proof` of all nouns. */
export function routeProof(app: Api): void {
  for (const { noun, tag, path } of NOUNS) {
    const route = createRoute({
      method: 'get',
      path: `${path}/proof` as const,
      tags: [tag],
      summary: `Proof of the events: ${noun}`,
      ...guarded('read'),
      request: { params: z.strictObject({ id: Id }), ...question },
      responses: answer,
    })
    app.openapi(route, async (c) =>
      c.json(await answerFor(c, noun, c.req.valid('param').id, c.req.valid('query')), 200),
    )
  }
  app.openapi(ofCloud, async (c) => {
    const { role, project_id } = c.get('identity')
    const name = c.req.valid('param').cloud
    const [cloud] = await listClouds(c.get('deps').store.db, { name, ...(role === 'operator' ? {} : { project_id }) })
    if (!cloud) throw notFound('cloud', name)
    return c.json(await answerFor(c, 'cloud', cloud.id, c.req.valid('query')), 200)
  })
}

async function answerFor(
  c: ApiContext,
  resource_type: string,
  resource_id: string,
  { limit, cursor }: { limit: number; cursor?: string | undefined },
) {
  const after = cursor === undefined ? 0 : Number(decodeCursor(CURSOR, SEQUENCE, cursor))
  const found = await findProof(c.get('deps').store.db, scopeOf(c), { resource_type, resource_id, after, limit })
  if (!found) throw notFound(resource_type, resource_id)
  const { links: chain, ...proof } = found
  const end = chain.at(-1)?.sequence ?? proof.last
  return {
    proof: { resource_type, resource_id, ...proof, gap_free: proof.count === proof.last - proof.first + 1 },
    chain,
    next: end < proof.last ? encodeCursor(CURSOR, end) : null,
  }
}
