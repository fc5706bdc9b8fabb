/** Who asks, and whether the role allows it. In front of every route but the public ones. */
import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
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

const SCRAPERS_MAX = 16
/** A token that is known already waits no longer for a record that hangs. */
const KNOWN_TOKEN_MS = 1_000

/**
 * For figures, which matter most while the record is away: a token that was let in before is let in again, as long as
 * the record does not say otherwise.
 */
export function authenticateScraper() {
  const known = new Set<string>()
  return createMiddleware<ApiEnv>(async function scraping(c, next) {
    const token = tokenOf(c) ?? ''
    const hash = createHash('sha256').update(token).digest('base64')
    try {
      const asked = identify(c)
      const identity = await (known.has(hash)
        ? Promise.race([asked, delay(KNOWN_TOKEN_MS, null, { ref: false })])
        : asked)
      if (identity) {
        if (known.size >= SCRAPERS_MAX) known.clear()
        known.add(hash)
        c.set('identity', identity)
      }
    } catch (error) {
      if (error instanceof DomainError) known.delete(hash)
      if (!known.has(hash)) throw error
    }
    await next()
  })
}

/** Looks again whose token it is, for an answer that goes on for long; throws when it is nobody's any more. */
export async function renewIdentity(c: ApiContext): Promise<void> {
  c.set('identity', await identify(c))
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
