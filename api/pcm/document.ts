/** PCM in the OpenAPI document: a route is added with its entry. What is sent is read by PCM's own rules, not by these schemas. */
import { z } from '@hono/zod-openapi'
import type { MiddlewareHandler } from 'hono'
import { PCM_STATUSES, SETTABLE } from '../../domain/pcm/status.ts'
import { authenticate } from '../auth.ts'
import type { Api, ApiContext, ApiEnv } from '../context.ts'
import { readJson } from '../request.ts'
import { ROLES, SECURITY } from '../route.ts'
import { json } from '../schemas.ts'

// Schemas ------------------------------------------------------------------------------------------------------------

const Text = z.string()
const Attributes = z.looseObject({})

export const Services = z.looseObject({ v2api: Text }).openapi('PcmServices')
export const Index = z.object({ clouds: Text, images: Text, sizes: Text }).openapi('PcmIndex')
export const Offer = Attributes.openapi('PcmOffer', { description: 'A size or an image: what its file says of it.' })
export const Cloud = z
  .object({
    name: Text,
    provider: Text,
    status: z.enum(['ok', 'degraded', 'unavailable', 'disabled']),
    since: z.iso.datetime(),
    service: z.literal('compute').optional(),
  })
  .openapi('PcmCloud')
export const Clouds = z.union([z.array(Text), z.array(Cloud)]).openapi('PcmClouds')
export const Instance = z
  .object({
    id: z.uuid(),
    name: Text.optional(),
    role: z.array(Text),
    size: Text,
    image: Text,
    environment: Text.optional(),
    subnet: Text.optional(),
    status: z.enum(PCM_STATUSES),
    ip_address: Text.optional(),
    host: Text.optional(),
    warnings: z.array(Text).optional(),
  })
  .openapi('PcmInstance', { description: 'What is not known is left out.' })
export const InstanceInput = z
  .looseObject({
    size: Text.optional(),
    image: Text.optional(),
    environment: Text.optional(),
    subnet: Text.optional(),
    role: z.union([Text, z.array(Text)]).optional(),
    extra: z.record(Text, Attributes).optional(),
  })
  .openapi('PcmInstanceInput', { description: 'What is left out is the default of the cloud, then of its provider.' })
export const StatusInput = z.object({ status: z.enum(Object.keys(SETTABLE)) }).openapi('PcmStatusInput')

const PcmError = z
  .object({ error: Text, status: Text, message: Text, details: Attributes.optional() })
  .openapi('PcmError', { description: '`?details` adds `details`, for operators.' })
const error = (description: string) => json(description, PcmError)
const ERRORS = {
  400: error('What was sent is wrong.'),
  401: error('No token, or none that is valid.'),
  403: error('The role of the token does not allow it.'),
  404: error('Not there, or of another project.'),
  409: error('Not in this state; or the `Idempotency-Key` was used for another request.'),
  413: error('The body is larger than 1 MiB.'),
  415: error('The body is no JSON.'),
  500: error('A fault of ours.'),
  503: error('The cloud, or the record, is away: repeat after `Retry-After`.'),
  507: error('The cloud has no room.'),
}

// Routes -------------------------------------------------------------------------------------------------------------

export type Handler = (c: ApiContext) => Response | Promise<Response>

/** Where a route is, with parameters as `{name}`. */
export interface Place {
  readonly path: string
  /** Other addresses of the same, which the document does not list. */
  readonly aliases?: readonly string[]
}

export interface PcmRoute extends Place {
  readonly method: 'get' | 'post' | 'put' | 'delete'
  readonly summary: string
  /** Schema of the body; left out: there is none. */
  readonly body?: z.ZodType
  /** What may come, by status. */
  readonly answers: Readonly<Record<number, { description: string; content?: object }>>
  /** Between the token and the body. */
  readonly before?: MiddlewareHandler<ApiEnv>
}

const WAITS = 'Seconds to wait for the outcome, at most 60; `Prefer: wait=N` says the same.'

/** Adds a route, guarded by what its method needs, and its entry. */
export function addRoute(app: Api, route: PcmRoute, handler: Handler): void {
  const { method, path, summary, body, answers, before, aliases = [] } = route
  const permission = method === 'get' ? 'read' : 'write'
  const between: MiddlewareHandler<ApiEnv>[] = [authenticate(permission)]
  if (before) between.push(before)
  if (body) between.push(readJson)
  const addresses = [path, ...aliases].map((address) => address.replaceAll(/\{(\w+)\}/g, ':$1'))
  app.on([method.toUpperCase()], addresses, ...between, handler)
  const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name!)
  app.openAPIRegistry.registerPath({
    method,
    path,
    summary,
    tags: ['pcm'],
    security: SECURITY,
    description: `Roles: ${ROLES[permission]}.`,
    request: {
      params: z.object(Object.fromEntries(names.map((name) => [name, Text]))),
      query: z.object({
        pretty: Text.optional(),
        details: Text.optional(),
        ...(method === 'post' || method === 'delete' ? { wait: Text.optional().openapi({ description: WAITS }) } : {}),
      }),
      ...(method === 'get'
        ? {}
        : { headers: z.object({ 'idempotency-key': Text.optional(), prefer: Text.optional() }) }),
      ...(body ? { body: { required: true, content: { 'application/json': { schema: body } } } } : {}),
    },
    responses: { ...answers, ...ERRORS },
  })
}
