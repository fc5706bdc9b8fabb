/** Who asks, and whether the role allows it. In front of every route but the public ones. */
import { createMiddleware } from 'hono/factory'
import { DomainError } from '../domain/errors.ts'
import { ensureDefaultIdentity, findIdentity } from '../store/projects.ts'
import type { ApiContext, ApiDeps, ApiEnv, Identity } from './context.ts'

/** What a route asks for: `act` is a write that a token with the grant `act` may do whatever its role is. */
export type Permission = 'read' | 'write' | 'act' | 'operator'

const TOKEN_LENGTH_MAX = 512

/** One middleware for each permission; it looks the token up at every request, so that revoking works at once. */
export function authenticate(permission: Permission) {
  return createMiddleware<ApiEnv>(async function authenticated(c, next) {
    const identity = await identify(c)
    if (!allows(identity, permission)) {
      const needed = permission === 'operator' ? 'operator' : 'member or operator'
      throw new DomainError('forbidden', `a token of role ${identity.role} may not do this; it takes ${needed}`)
    }
    c.set('identity', identity)
    await next()
  })
}

const allows = (identity: Identity, permission: Permission): boolean =>
  permission === 'read' ||
  identity.role === 'operator' ||
  (permission !== 'operator' && identity.role === 'member') ||
  (permission === 'act' && identity.grants.includes('act'))

async function identify(c: ApiContext): Promise<Identity> {
  const deps = c.get('deps')
  if (deps.auth === 'none') return defaultIdentity(deps)
  const token = tokenOf(c)
  const identity = token === null ? undefined : await findIdentity(deps.store.db, token)
  if (!identity) {
    const reason = token === null ? 'a token is needed' : 'this token is not valid'
    throw new DomainError('unauthenticated', `${reason}: send it as "Authorization: Bearer …" or "X-Auth-Token: …"`)
  }
  return identity
}

/** Bearer, X-Auth-Token, or Basic with the token as password. */
function tokenOf(c: ApiContext): string | null {
  const [, scheme, value] = /^\s*(\S+)\s+(\S+)\s*$/.exec(c.req.header('authorization') ?? '') ?? []
  let token = c.req.header('x-auth-token')
  if (scheme?.toLowerCase() === 'bearer') token = value
  if (scheme?.toLowerCase() === 'basic') {
    const text = Buffer.from(value!, 'base64').toString('utf8')
    token = text.slice(text.indexOf(':') + 1)
  }
  return token && token.length <= TOKEN_LENGTH_MAX ? token : null
}

/** Made once per record; a record that was away is asked again. */
const defaults = new WeakMap<object, Promise<Identity>>()
function defaultIdentity({ store }: ApiDeps): Promise<Identity> {
  const known = defaults.get(store) ?? ensureDefaultIdentity(store)
  defaults.set(store, known)
  known.catch(() => defaults.delete(store))
  return known
}
