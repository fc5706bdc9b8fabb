/** What the entries of all routes have in common. */
import { z } from '@hono/zod-openapi'
import { authenticate, type Permission } from './auth.ts'
import { ERROR_RESPONSES } from './errors.ts'
import { readJson } from './request.ts'

/** Schemes of the OpenAPI document; a token fits each of them. */
export const SECURITY_SCHEMES = {
  bearer: { type: 'http', scheme: 'bearer' },
  token: { type: 'apiKey', in: 'header', name: 'X-Auth-Token' },
  basic: { type: 'http', scheme: 'basic', description: 'The token as password; the user name is ignored.' },
} as const

/** Any of them will do. */
export const SECURITY: { [scheme: string]: string[] }[] = [{ bearer: [] }, { token: [] }, { basic: [] }]

/** Who has a permission. */
export const ROLES: Readonly<Record<Permission, string>> = {
  read: 'any role',
  write: 'member, operator',
  act: 'member, operator, or the grant `act`',
  operator: 'operator',
}

/** The guard of a route without a body. */
export const guarded = (permission: Permission) => ({
  security: SECURITY,
  middleware: [authenticate(permission)],
  description: `Roles: ${ROLES[permission]}.`,
})

/** The guard of a route with a JSON body: the token is looked at before the body is read. */
export const guardedBody = (permission: Permission) => ({
  security: SECURITY,
  middleware: [authenticate(permission), readJson],
  description: `Roles: ${ROLES[permission]}.`,
})

/** Headers of every write. */
export const writeHeaders = {
  headers: z.object({
    'idempotency-key': z.string().optional().openapi({ description: 'The same request again has no further effect.' }),
  }),
}

/** Headers of a write that changes something there is. */
export const changeHeaders = {
  headers: writeHeaders.headers.extend({
    'if-match': z
      .string()
      .optional()
      .openapi({ description: 'The ETag the change starts from; another version: 412.' }),
  }),
}

/** The error answers of a route, behind its own. */
export const errors = ERROR_RESPONSES
