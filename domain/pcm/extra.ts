/**
 * `extra`: additions to the request to a cloud, by provider type, and to the inventory's record. What decides who a
 * machine is, and whose, is not to be changed by it.
 */
import type { Problem } from '../errors.ts'
import { jsonProblem } from '../json.ts'
import type { Attributes, Extra } from './configuration.ts'

export const INVENTORY = 'inventory'

/** Of a request to a provider, lower case and without `_` and `-`: name, size, image, count, credentials, ownership. */
const RESERVED: ReadonlySet<string> = new Set(
  [
    ['name', 'displayname', 'hostname'],
    ['size', 'sizeid', 'flavor', 'flavorid', 'flavorref', 'instancetype'],
    ['image', 'imageid', 'imageref'],
    ['count', 'mincount', 'maxcount'],
    ['credential', 'credentials', 'username', 'password', 'apikey', 'token', 'accesskeyid', 'secretaccesskey'],
    ['openstackusername', 'openstackapikey', 'openstackauthurl', 'awsaccesskeyid', 'awssecretaccesskey'],
    ['tags', 'tagspecification', 'tagspecifications', 'clienttoken', 'idempotencytoken', 'attemptid', 'installationid'],
  ].flat(),
)
/** Of an inventory's record: what machine it is about, and whether that lives. */
const RESERVED_IN_INVENTORY: ReadonlySet<string> = new Set(['name', 'fqdn', 'serialnumber', 'status'])
/** Tags by which we know our machines begin so. */
const OURS = /^holdfast/i

const plain = (key: string): string => key.toLowerCase().replaceAll(/[-_]/g, '')
const isObject = (value: unknown): value is Attributes =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** What is wrong with an `extra`, a caller's or a file's. `known`: the provider types there are. */
export function extraProblems(extra: unknown, known: ReadonlySet<string>, path = 'extra'): Problem[] {
  if (!isObject(extra)) return [{ path, reason: 'is not an object', accepted: ['an object by provider type'] }]
  const problem = jsonProblem(extra, path)
  if (problem) return [problem]
  return Object.entries(extra).flatMap(([type, member]): Problem[] => {
    const at = `${path}.${type}`
    if (!isObject(member)) return [{ path: at, reason: 'is not an object' }]
    const reserved = type === INVENTORY ? RESERVED_IN_INVENTORY : known.has(type) ? RESERVED : null
    const taken = Object.keys(member).filter((key) => reserved?.has(plain(key)))
    return [...taken.map((key) => `${at}.${key}`), ...ownershipKeys(member, at)].map((reserved_path) => ({
      path: reserved_path,
      reason: 'is reserved: it is not for extra to say',
    }))
  })
}

/** Where in it tags of ours are said. */
function ownershipKeys(value: unknown, path: string): string[] {
  if (Array.isArray(value)) return value.flatMap((item, i) => ownershipKeys(item, `${path}[${i}]`))
  if (!isObject(value)) return []
  return Object.entries(value).flatMap(([key, inner]) =>
    OURS.test(key) ? [`${path}.${key}`] : ownershipKeys(inner, `${path}.${key}`),
  )
}

/** Deep merge, the first wins: objects become one, lists and everything else are taken whole. */
export function mergeExtra(layers: readonly (Attributes | undefined)[]): Attributes {
  const merged = new Map<string, unknown>()
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer ?? {})) {
      const earlier = merged.get(key)
      if (!merged.has(key)) merged.set(key, value)
      else if (isObject(earlier) && isObject(value)) merged.set(key, mergeExtra([earlier, value]))
    }
  }
  return Object.fromEntries(merged)
}

/** What of an `extra` is for a cloud of this type, and what for the inventory; the rest is for others. */
export function extraFor(provider_type: string, extra: Extra): { provider: Attributes; inventory: Attributes } {
  const member = (type: string): Attributes => (Object.hasOwn(extra, type) ? extra[type]! : {})
  return { provider: member(provider_type), inventory: member(INVENTORY) }
}

/** Members of a request that nobody here can be meant by: told, never sent on. */
export function unknownMembers(extra: Extra, known: ReadonlySet<string>): string[] {
  const unknown = Object.keys(extra).filter((type) => type !== INVENTORY && !known.has(type))
  return unknown.map((type) => `extra.${type.slice(0, 100)}: no cloud here is of this provider type; it was ignored`)
}
