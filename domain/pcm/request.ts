/** From a request for an instance to what is asked of the cloud: defaults, names, roles, subnet, additions. */
import { DomainError, type Problem } from '../errors.ts'
import { type Attributes, type Configuration, type Extra, layersOf, type PcmCloud } from './configuration.ts'
import { extraFor, extraProblems, mergeExtra, unknownMembers } from './extra.ts'
import { knownNames, knownSubnets, providerName, subnetName } from './names.ts'
import { PROVIDER_TYPES } from './provider-type.ts'
import { readRoles, roleProblems } from './roles.ts'

/** As it came in: any JSON. */
export interface PcmRequest {
  readonly size?: unknown
  readonly image?: unknown
  readonly environment?: unknown
  readonly subnet?: unknown
  readonly role?: unknown
  readonly extra?: unknown
}

/** Our name, and the cloud's. */
export interface Choice {
  readonly name: string
  readonly provider_name: string
}

export interface ResolvedRequest {
  readonly size: Choice
  readonly image: Choice
  readonly subnet: Choice | null
  readonly environment: string | null
  readonly roles: readonly string[]
  /** Merged into the request to the cloud. */
  readonly provider_extra: Attributes
  /** Merged over the inventory's record. */
  readonly inventory_extra: Attributes
  readonly warnings: readonly string[]
}

const PROBLEMS_MAX = 20
const TEXT = /^\P{Cc}{1,200}$/u

/** Applies the configuration to a request; throws `invalid_request` with everything that is wrong with it. */
export function resolveRequest(configuration: Configuration, cloud: PcmCloud, request: PcmRequest): ResolvedRequest {
  const problems: Problem[] = []
  const [own, provider] = layersOf(cloud)

  const text = (field: 'size' | 'image' | 'environment' | 'subnet'): string | null => {
    const value = request[field] ?? own.defaults[field] ?? provider.defaults[field] ?? null
    if (value === null || (typeof value === 'string' && TEXT.test(value))) return value
    problems.push({ path: field, reason: 'is not a name', accepted: ['a text of 1 to 200 characters'] })
    return null
  }
  const named = (field: 'size' | 'image'): Choice => {
    const told = problems.length
    const name = text(field)
    const accepted = knownNames(configuration, cloud, `${field}s`)
    if (name === null && problems.length === told)
      problems.push({ path: field, reason: 'is missing, and there is no default', accepted })
    else if (name !== null && !accepted.includes(name))
      problems.push({ path: field, reason: `there is no ${field} ${name}`, accepted })
    return { name: name ?? '', provider_name: providerName(cloud, `${field}s`, name ?? '') }
  }

  const size = named('size')
  const image = named('image')
  const environment = text('environment')
  const subnet = resolveSubnet(cloud, text('subnet'), problems)
  const read = readRoles(request.role)
  if ('problem' in read) problems.push(read.problem)
  const roles = 'roles' in read ? read.roles : []
  // What is unknown was said above; a role has no say in it.
  if (!problems.length)
    problems.push(
      ...roleProblems(configuration.roles, roles, { sizes: size.name, images: image.name, clouds: cloud.name }),
    )

  const known = knownTypes(configuration)
  const asked = request.extra ?? {}
  problems.push(...extraProblems(asked, known))
  if (problems.length) throw invalidRequest(problems as [Problem, ...Problem[]])
  const extra = mergeExtra([
    asked as Extra,
    ...roles.map((role) => configuration.roles.get(role)?.extra),
    own.defaults.extra,
    provider.defaults.extra,
  ]) as Extra
  const { provider: provider_extra, inventory: inventory_extra } = extraFor(cloud.provider, extra)
  const warnings = unknownMembers(asked as Extra, known)
  return { size, image, subnet, environment, roles, provider_extra, inventory_extra, warnings }
}

function resolveSubnet(cloud: PcmCloud, name: string | null, problems: Problem[]): Choice | null {
  if (name === null) return null
  const provider_name = subnetName(cloud, name)
  if (provider_name !== null) return { name, provider_name }
  const accepted = knownSubnets(cloud)
  const reason = accepted.length
    ? `there is no subnet ${name} at this cloud`
    : 'this cloud has no subnets to choose from'
  problems.push({ path: 'subnet', reason, accepted })
  return null
}

/** The provider types that an `extra` may be for. */
export function knownTypes({ clouds, providers }: Configuration): ReadonlySet<string> {
  return new Set([...PROVIDER_TYPES, ...providers.keys(), ...[...clouds.values()].map(({ provider }) => provider)])
}

function invalidRequest(problems: readonly [Problem, ...Problem[]]): DomainError {
  const [{ path, reason, accepted }] = problems
  const hint = accepted?.length ? ` (accepted: ${accepted.slice(0, 10).join(', ')})` : ''
  return new DomainError('invalid_request', `${path}: ${reason}${hint}`, { problems: problems.slice(0, PROBLEMS_MAX) })
}
