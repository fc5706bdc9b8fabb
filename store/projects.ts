/** Who may ask: projects, users, tokens. Only the hash of a token is kept. */
import { createHash, randomBytes } from 'node:crypto'
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import type { Role } from '../domain/record.ts'
import type { Store, Trx } from './database.ts'
import { write } from './database.ts'
import type { Tables } from './tables.ts'

const TOKEN_BYTES = 32

/** A fresh token: 256 bits of chance, so that a plain hash is enough to keep. */
export const newTokenText = (): string => `hft_${randomBytes(TOKEN_BYTES).toString('base64url')}`

const hashOf = (token: string): Buffer => createHash('sha256').update(token).digest()

export interface TokenIdentity {
  readonly project_id: string
  readonly user_id: string
  readonly role: Role
  readonly grants: readonly string[]
}

/** Whose live token this is; undefined: nobody's. Never cached: a revoked token ends at once. */
export function findIdentity(db: Kysely<Tables>, token: string): Promise<TokenIdentity | undefined> {
  return db
    .selectFrom('tokens')
    .select(['project_id', 'user_id', 'role', 'grants'])
    .where('hash', '=', hashOf(token))
    .where('revoked_at', 'is', null)
    .where((where) =>
      where.or([where('expires_at', 'is', null), where('expires_at', '>', sql<Date>`clock_timestamp()`)]),
    )
    .executeTakeFirst()
}

/** The project of this name, made when it is new. */
export async function ensureProject(trx: Trx, name: string): Promise<string> {
  await trx
    .insertInto('projects')
    .values({ id: newId(), name })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
  const project = await trx.selectFrom('projects').select('id').where('name', '=', name).executeTakeFirstOrThrow()
  return project.id
}

/** The user of this name in a project, made when new. */
export async function ensureUser(trx: Trx, project_id: string, name: string): Promise<string> {
  await trx
    .insertInto('users')
    .values({ id: newId(), project_id, name })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
  const user = await trx
    .selectFrom('users')
    .select('id')
    .where('project_id', '=', project_id)
    .where('name', '=', name)
    .executeTakeFirstOrThrow()
  return user.id
}

export interface NewToken {
  readonly id?: string
  readonly project_id: string
  readonly user: string
  readonly role: Role
  readonly grants?: readonly string[]
  readonly expires_at?: Date | null
  /** The token itself, where it is not to be a fresh one. */
  readonly text?: string
}

/** Makes a token; its text is returned here and nowhere else. */
export async function insertToken(trx: Trx, token: NewToken): Promise<{ token_id: string; text: string }> {
  const token_id = token.id ?? newId()
  const text = token.text ?? newTokenText()
  const user_id = await ensureUser(trx, token.project_id, token.user)
  await trx
    .insertInto('tokens')
    .values({
      id: token_id,
      project_id: token.project_id,
      user_id,
      role: token.role,
      grants: [...(token.grants ?? [])],
      hash: hashOf(text),
      expires_at: token.expires_at ?? null,
    })
    .execute()
  return { token_id, text }
}

/**
 * For commands and set-up: makes a token, and its project and user when new. A given text that is a token already is
 * left as it is.
 */
export function createToken(
  store: Store,
  token: Omit<NewToken, 'project_id' | 'user'> & { readonly project: string; readonly user?: string },
): Promise<string> {
  return write(store, async (trx) => {
    const project_id = await ensureProject(trx, token.project)
    if (token.text && (await findIdentity(trx, token.text))) return token.text
    const { text } = await insertToken(trx, { ...token, project_id, user: token.user ?? token.role })
    return text
  })
}

/** Identity of everyone where there is no authentication: operator of project `default`. */
export function ensureDefaultIdentity(store: Store): Promise<TokenIdentity> {
  return write(store, async (trx) => {
    const project_id = await ensureProject(trx, 'default')
    const user_id = await ensureUser(trx, project_id, 'operator')
    return { project_id, user_id, role: 'operator', grants: [] }
  })
}

/** A new project; a name that is taken is a conflict. */
export async function insertProject(trx: Trx, id: string, name: string): Promise<void> {
  const made = await trx
    .insertInto('projects')
    .values({ id, name })
    .onConflict((conflict) => conflict.doNothing())
    .returning('id')
    .executeTakeFirst()
  if (!made) throw new DomainError('conflict', `there is a project named ${name} already`)
}

export function findProject(db: Kysely<Tables>, id_or_name: { id: string } | { name: string }) {
  const query = db.selectFrom('projects').selectAll()
  return 'id' in id_or_name
    ? query.where('id', '=', id_or_name.id).executeTakeFirst()
    : query.where('name', '=', id_or_name.name).executeTakeFirst()
}

/** Newest first. */
export function listProjects(db: Kysely<Tables>, page: { limit: number; before?: string | undefined }) {
  const query = db.selectFrom('projects').selectAll().orderBy('id', 'desc').limit(page.limit)
  return (page.before ? query.where('id', '<', page.before) : query).execute()
}

const tokens = (db: Kysely<Tables>) =>
  db
    .selectFrom('tokens')
    .innerJoin('projects', 'projects.id', 'tokens.project_id')
    .innerJoin('users', 'users.id', 'tokens.user_id')
    .select([
      'tokens.id',
      'projects.name as project',
      'users.name as user',
      'tokens.role',
      'tokens.grants',
      'tokens.created_at',
      'tokens.expires_at',
      'tokens.revoked_at',
    ])

export const findToken = (db: Kysely<Tables>, id: string) => tokens(db).where('tokens.id', '=', id).executeTakeFirst()

/** Tokens of all projects, newest first, without their text. */
export function listTokens(db: Kysely<Tables>, page: { limit: number; before?: string | undefined }) {
  const query = tokens(db).orderBy('tokens.id', 'desc').limit(page.limit)
  return (page.before ? query.where('tokens.id', '<', page.before) : query).execute()
}

/** Ends a token now; false: there is none. A repeat keeps the first moment. */
export async function revokeToken(trx: Trx, id: string): Promise<boolean> {
  const revoked = await trx
    .updateTable('tokens')
    .set({ revoked_at: sql<Date>`coalesce(revoked_at, clock_timestamp())` })
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst()
  return revoked !== undefined
}
