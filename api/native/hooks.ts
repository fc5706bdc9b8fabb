/** Hooks: where events are sent. */
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import { checkHookUri, URI_LENGTH_MAX } from '../../domain/hook-address.ts'
import type { Trx } from '../../store/database.ts'
import {
  deleteHook,
  disableHook,
  enableHook,
  findHook,
  type Hook,
  type HookRequest,
  insertHook,
  listHooks,
  updateHook,
} from '../../store/hooks.ts'
import { changeOnce } from '../../store/idempotency.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { ifMatch, requestKey, tellVersion } from '../request.ts'
import { changeHeaders, errors, guarded, guardedBody, writeHeaders } from '../route.ts'
import { body, fields, Id, iso, isoOrNull, json, MomentOut, Next } from '../schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const FILTER_TYPES_MAX = 50
const GAPS_MAX = 20
const [GAP_MS_MIN, GAP_MS_MAX] = [1_000, 24 * 3_600_000]
const SCHEDULE_MS_MAX = 7 * GAP_MS_MAX

const EventType = z
  .string()
  .max(128)
  .regex(/^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$/, {
    error: 'is not a type of event; accepted: instance.state_changed, instance.*, *',
  })
const HookFilter = fields({
  types: z.array(EventType).min(1).max(FILTER_TYPES_MAX).optional(),
  resource_type: z.enum(['order', 'instance', 'deployment', 'lease', 'hook', 'credential', 'project']).optional(),
  resource_id: Id.optional(),
  deployment_id: Id.optional(),
}).openapi('HookFilter')

const Schedule = z
  .array(z.int().min(GAP_MS_MIN).max(GAP_MS_MAX))
  .min(1)
  .max(GAPS_MAX)
  .refine((gaps_ms) => gaps_ms.reduce((sum, gap_ms) => sum + gap_ms, 0) <= SCHEDULE_MS_MAX, {
    error: `is longer than ${SCHEDULE_MS_MAX} ms in all`,
  })

const shape = {
  uri: z.string().min(1).max(URI_LENGTH_MAX),
  description: z.string().max(1_000).nullable().optional(),
  filter: HookFilter.optional().openapi({ description: 'Which events; default: all of the project.' }),
  timeout_ms: z.int().min(1_000).max(30_000).optional(),
  in_flight_max: z.int().min(1).max(64).optional(),
  schedule_ms: Schedule.nullable().optional().openapi({
    description: 'Gaps between the attempts of a delivery that fails; null: 14 of them, over three days.',
  }),
} as const
const HookInput = fields(shape).openapi('HookInput')
const HookChange = fields({ ...shape, uri: shape.uri.optional() }).openapi('HookChange')

const HookOut = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    uri: z.string(),
    description: z.string().nullable(),
    version: z.string(),
    format: z.string(),
    filter: z.record(z.string(), z.unknown()),
    state: z.enum(['unverified', 'active', 'paused', 'disabled', 'deleted']),
    state_reason: z.string().nullable(),
    paused_until: MomentOut.nullable(),
    timeout_ms: z.int(),
    in_flight_max: z.int(),
    schedule_ms: z.array(z.int()).nullable(),
    failures_in_row: z.int(),
    last_success_at: MomentOut.nullable(),
    last_failure_at: MomentOut.nullable(),
    sequence: z.int(),
    created_at: MomentOut,
    secret: z.string().optional().openapi({ description: 'Signs what is sent; given in the answer to POST only.' }),
  })
  .openapi('Hook')
const HookEnvelope = z.strictObject({ hook: HookOut })
const HookParams = z.strictObject({ hook_id: Id })

const render = (row: Hook): z.infer<typeof HookOut> => ({
  id: row.id,
  href: `/api/hooks/${row.id}`,
  uri: row.uri,
  description: row.description,
  version: row.version,
  format: row.format,
  filter: { ...row.filter },
  state: row.state,
  state_reason: row.state_reason,
  paused_until: isoOrNull(row.paused_until),
  timeout_ms: row.timeout_ms,
  in_flight_max: row.in_flight_max,
  schedule_ms: row.schedule_ms,
  failures_in_row: row.failures_in_row,
  last_success_at: isoOrNull(row.last_success_at),
  last_failure_at: isoOrNull(row.last_failure_at),
  sequence: row.sequence,
  created_at: iso(row.created_at),
})

// Routes -------------------------------------------------------------------------------------------------------------

const common = { tags: ['hooks'] }

const post = createRoute({
  method: 'post',
  path: '/api/hooks',
  ...common,
  summary: 'Make a hook',
  ...guardedBody('write'),
  request: { ...writeHeaders, ...body('hook', HookInput) },
  responses: {
    200: json('The same hook is there already; its secret is not repeated.', HookEnvelope),
    201: json('Made, with its secret.', HookEnvelope),
    ...errors,
  },
})

const list = createRoute({
  method: 'get',
  path: '/api/hooks',
  ...common,
  summary: 'List the hooks of the project, newest first: at most 50, so there are no pages',
  ...guarded('read'),
  request: { query: fields({}) },
  responses: { 200: json('All of them.', z.strictObject({ hooks: z.array(HookOut), next: Next })), ...errors },
})

const get = createRoute({
  method: 'get',
  path: '/api/hooks/{hook_id}',
  ...common,
  summary: 'Read a hook',
  ...guarded('read'),
  request: { params: HookParams },
  responses: { 200: json('The hook.', HookEnvelope), ...errors },
})

const changing = {
  path: '/api/hooks/{hook_id}',
  ...common,
  ...guardedBody('write'),
  request: { ...changeHeaders, params: HookParams, ...body('hook', HookChange) },
  responses: { 200: json('Changed; what is left out stays as it is.', HookEnvelope), ...errors },
} as const
const patch = createRoute({ method: 'patch', summary: 'Change a hook', ...changing })
const put = createRoute({ method: 'put', summary: 'The same as PATCH', ...changing })

const acting = { ...common, ...guarded('write'), request: { ...changeHeaders, params: HookParams } } as const
const remove = createRoute({
  method: 'delete',
  path: '/api/hooks/{hook_id}',
  summary: 'Delete a hook: what is pending is cancelled, the log stays for the retention time',
  ...acting,
  responses: { 204: { description: 'It is gone.' }, ...errors },
})
const enable = createRoute({
  method: 'post',
  path: '/api/hooks/{hook_id}/enable',
  summary: 'Send again, beginning with what was parked',
  ...acting,
  responses: { 200: json('It is active.', HookEnvelope), ...errors },
})
const disable = createRoute({
  method: 'post',
  path: '/api/hooks/{hook_id}/disable',
  summary: 'Send no more; events are parked in order',
  ...acting,
  responses: { 200: json('It is disabled.', HookEnvelope), ...errors },
})

// Handlers -----------------------------------------------------------------------------------------------------------

/** Registers `/api/hooks`. */
export function routeHooks(app: Api): void {
  app.openapi(post, async (c) => {
    const { hook, status } = await make(c, c.req.valid('json'))
    c.header('Location', hook.href)
    return c.json({ hook }, status)
  })

  app.openapi(list, async (c) => {
    const rows = await listHooks(c.get('deps').store.db, c.get('identity').project_id)
    return c.json({ hooks: rows.map(render), next: null }, 200)
  })

  app.openapi(get, async (c) => c.json({ hook: await show(c, c.req.valid('param').hook_id) }, 200))

  const change = async (c: ApiContext, hook_id: string, input: z.infer<typeof HookChange>) => {
    const uri = input.uri === undefined ? undefined : checkHookUri(input.uri, c.get('deps').hook_allow)
    await once(c, hook_id, 200, (trx, request) => updateHook(trx, request, { ...input, uri }))
    return show(c, hook_id)
  }
  app.openapi(patch, async (c) => {
    return c.json({ hook: await change(c, c.req.valid('param').hook_id, c.req.valid('json')) }, 200)
  })
  app.openapi(put, async (c) => {
    return c.json({ hook: await change(c, c.req.valid('param').hook_id, c.req.valid('json')) }, 200)
  })

  app.openapi(remove, async (c) => {
    const { hook_id } = c.req.valid('param')
    await once(c, hook_id, 204, async (trx, request) => {
      if (!(await deleteHook(trx, request))) throw notFound('hook', hook_id)
    })
    return c.body(null, 204)
  })

  app.openapi(enable, async (c) => {
    const { hook_id } = c.req.valid('param')
    await once(c, hook_id, 200, enableHook)
    return c.json({ hook: await show(c, hook_id) }, 200)
  })

  app.openapi(disable, async (c) => {
    const { hook_id } = c.req.valid('param')
    await once(c, hook_id, 200, (trx, request) => disableHook(trx, { ...request, reason: 'by a person' }))
    return c.json({ hook: await show(c, hook_id) }, 200)
  })
}

/** Makes a hook; the answer to a repeat of the same key holds the secret again, while the key lives. */
async function make(
  c: ApiContext,
  input: z.infer<typeof HookInput>,
): Promise<{ hook: z.infer<typeof HookOut>; status: 200 | 201 }> {
  const { store, envelope, hook_allow } = c.get('deps')
  const { project_id, user_id } = callerOf(c)
  const uri = checkHookUri(input.uri, hook_allow)
  const id = newId()
  const answer = { status: 201, resource_type: 'hook', resource_id: id }
  const given = await changeOnce(store, callerOf(c), await requestKey(c), answer, async (trx) => {
    const cause = causeOf(c)
    const { hook, secret, created } = await insertHook(trx, { ...input, id, uri, project_id, user_id, cause }, envelope)
    if (!created || !secret) return { status: 200, resource_id: hook.id }
    return { sealed_secret: envelope.seal(secret, hook.id) }
  })
  const hook = await show(c, given.resource_id)
  if (given.status === 200) return { hook, status: 200 }
  const secret = given.sealed_secret ? { secret: envelope.open(given.sealed_secret, hook.id) } : {}
  return { hook: { ...hook, ...secret }, status: 201 }
}

const causeOf = (c: ApiContext) => {
  const { user_id, request_id } = callerOf(c)
  return { actor: { user_id, request_id }, reason: 'requested' }
}

async function once(
  c: ApiContext,
  hook_id: string,
  status: number,
  change: (trx: Trx, request: HookRequest) => Promise<unknown>,
): Promise<void> {
  const expected_sequence = ifMatch(c)
  const request = {
    project_id: c.get('identity').project_id,
    id: hook_id,
    cause: causeOf(c),
    ...(expected_sequence === undefined ? {} : { expected_sequence }),
  }
  const answer = { status, resource_type: 'hook', resource_id: hook_id }
  await changeOnce(c.get('deps').store, callerOf(c), await requestKey(c), answer, async (trx) => {
    await change(trx, request)
  })
}

async function show(c: ApiContext, hook_id: string): Promise<z.infer<typeof HookOut>> {
  const hook = await findHook(c.get('deps').store.db, c.get('identity').project_id, hook_id)
  if (!hook) throw notFound('hook', hook_id)
  tellVersion(c, hook.sequence)
  return render(hook)
}
