/** Roles of a server: how a request says them, and what their files allow. A role without a file allows everything. */
import type { Problem } from '../errors.ts'
import { RESTRICTIONS, type RoleFile } from './configuration.ts'

const ROLES_MAX = 100
const NAME = /^\P{Cc}{1,200}$/u

/** The roles of a request: one, several with commas between them, or a list. */
export function readRoles(input: unknown, path = 'role'): { roles: readonly string[] } | { problem: Problem } {
  const given = typeof input === 'string' ? input.split(',') : (input ?? [])
  const accepted = ['web', 'web,db', '["web","db"]']
  if (!Array.isArray(given) || given.some((role) => typeof role !== 'string'))
    return { problem: { path, reason: 'is not a role, or a list of roles', accepted } }
  const roles = [...new Set((given as string[]).map((role) => role.trim()).filter(Boolean))]
  if (roles.length > ROLES_MAX) return { problem: { path, reason: `has more than ${ROLES_MAX} roles` } }
  if (!roles.every((role) => NAME.test(role)))
    return { problem: { path, reason: 'has a role that is too long or has control characters', accepted } }
  return { roles }
}

/** What the roles' files forbid of a choice; each names role and rule. */
export function roleProblems(
  files: ReadonlyMap<string, RoleFile>,
  roles: readonly string[],
  choice: { readonly sizes: string; readonly images: string; readonly clouds: string },
): Problem[] {
  return roles.flatMap((role) =>
    RESTRICTIONS.flatMap((rule): Problem[] => {
      const allowed = files.get(role)?.[rule] ?? null
      if (allowed === null || allowed.includes(choice[rule])) return []
      const word = rule.slice(0, -1)
      const reason = `role ${role} does not allow ${word} ${choice[rule]} (rule "${rule}" of roles/${role}.conf)`
      return [{ path: word, reason, accepted: allowed }]
    }),
  )
}
