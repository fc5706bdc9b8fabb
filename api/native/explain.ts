/** "Why is it where it is?", for each noun and any moment there are events of. */
import { createRoute, z } from '@hono/zod-openapi'
import { listClouds } from '../../store/clouds.ts'
import { explain } from '../../store/explain.ts'
import type { ExplainedNoun } from '../../store/explain-waits.ts'
import type { Api, ApiContext } from '../context.ts'
import { invalid, notFound } from '../errors.ts'
import { errors, guarded } from '../route.ts'
import { fields, Id, iso, json, Moment, MomentOut, Word } from '../schemas.ts'
import { EventOut, renderEvent, scopeOf } from './events.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const Origin = z.strictObject({
  kind: z.enum(['request', 'observation', 'rule', 'dropped']).openapi({
    description: 'What stands at the root: a request, something observed, a rule of ours, or an event dropped since.',
  }),
  event_id: z.string(),
  at: MomentOut,
  sentence: z.string(),
})

const Explanation = z
  .strictObject({
    resource_type: z.string(),
    resource_id: z.string(),
    name: z.string().nullable(),
    at: MomentOut,
    sentence: z.string().openapi({ description: 'All of it for people.' }),
    state: z.string(),
    state_since: MomentOut,
    wish: z.string().nullable(),
    waits_for: z
      .strictObject({
        what: z.string(),
        code: z.string().nullable().openapi({ description: 'Of the blocker, if one holds it up.' }),
        since: z.string().nullable(),
        until: z.string().nullable().openapi({ description: 'When it is looked at again at the latest.' }),
      })
      .nullable(),
    chain: z.array(EventOut).openapi({ description: 'The newest event, what caused it, and so on back to the root.' }),
    origin: Origin,
    history: z
      .array(z.strictObject({ event: EventOut, because: z.array(z.string()), origin: Origin }))
      .openapi({ description: 'Its events up to then, newest first; `because`: ids of the causes, nearest first.' }),
    causes: z.array(EventOut).openapi({ description: 'Events of other resources that `because` names.' }),
  })
  .openapi('Explanation')

// Routes -------------------------------------------------------------------------------------------------------------

/** Resources with an id in their address, and with events. */
export const NOUNS = [
  { noun: 'order', tag: 'launch orders', path: '/api/launch-orders/{id}' },
  { noun: 'instance', tag: 'instances', path: '/api/instances/{id}' },
  { noun: 'deployment', tag: 'deployments', path: '/api/deployments/{id}' },
  { noun: 'lease', tag: 'leases', path: '/api/leases/{id}' },
  { noun: 'hook', tag: 'hooks', path: '/api/hooks/{id}' },
] as const

const question = { query: fields({ at: Moment.optional().openapi({ description: 'A past moment; default: now.' }) }) }
const answer = { 200: json('The explanation.', z.strictObject({ explanation: Explanation })), ...errors }

const ofCloud = createRoute({
  method: 'get',
  path: '/api/clouds/{cloud}/explain',
  tags: ['clouds'],
  summary: 'Why a cloud is in its state',
  ...guarded('read'),
  request: { params: z.strictObject({ cloud: Word }), ...question },
  responses: answer,
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `…/explain` of all nouns. */
export function routeExplain(app: Api): void {
  for (const { noun, tag, path } of NOUNS) {
    const route = createRoute({
      method: 'get',
      path: `${path}/explain` as const,
      tags: [tag],
      summary: `Why it is in its state: ${noun}`,
      ...guarded('read'),
      request: { params: z.strictObject({ id: Id }), ...question },
      responses: answer,
    })
    app.openapi(route, async (c) => {
      const { id } = c.req.valid('param')
      return c.json({ explanation: await answerFor(c, noun, id, c.req.valid('query').at) }, 200)
    })
  }
  app.openapi(ofCloud, async (c) => {
    const { role, project_id } = c.get('identity')
    const name = c.req.valid('param').cloud
    const [cloud] = await listClouds(c.get('deps').store.db, { name, ...(role === 'operator' ? {} : { project_id }) })
    if (!cloud) throw notFound('cloud', name)
    return c.json({ explanation: await answerFor(c, 'cloud', cloud.id, c.req.valid('query').at) }, 200)
  })
}

async function answerFor(
  c: ApiContext,
  noun: ExplainedNoun,
  id: string,
  at: string | undefined,
): Promise<z.infer<typeof Explanation>> {
  const found = await explain(c.get('deps').store.db, scopeOf(c), { noun, id }, at === undefined ? null : new Date(at))
  if (found === 'in_future') throw invalid([{ path: 'query.at', reason: 'lies in the future' }])
  if (!found) throw notFound(noun, at === undefined ? id : `${id} at ${at}`)
  const origin = (root: (typeof found)['origin']) => ({ ...root, at: iso(root.at) })
  return {
    ...found,
    at: iso(found.at),
    state_since: iso(found.state_since),
    chain: found.chain.map(renderEvent),
    origin: origin(found.origin),
    history: found.history.map((entry) => ({
      ...entry,
      event: renderEvent(entry.event),
      origin: origin(entry.origin),
    })),
    causes: found.causes.map(renderEvent),
  }
}
