/** Names in one file that another file should know. What is wrong is told, and works as far as it can. */
import { type Configuration, type Maps, RESTRICTIONS } from './configuration.ts'
import { INVENTORY } from './extra.ts'
import { knownNames, knownSubnets } from './names.ts'
import { knownTypes } from './request.ts'

export interface Warning {
  /** Below the configuration directory. */
  readonly file: string
  readonly reason: string
}

/** Everything in the files that names what is not there. */
export function crossReferences(configuration: Configuration): Warning[] {
  const { clouds, providers, roles } = configuration
  return [
    ...[...providers].flatMap(([type, maps]) => ofMaps(configuration, `providers/${type}.conf`, maps)),
    ...[...clouds].flatMap(([name, cloud]) => ofMaps(configuration, `clouds/${name}.conf`, cloud)),
    ...[...clouds].flatMap(([name]) => ofDefaults(configuration, name)),
    ...[...roles.keys()].flatMap((role) => ofRole(configuration, role)),
  ]
}

function ofMaps(configuration: Configuration, file: string, maps: Maps): Warning[] {
  const strangers = (['sizes', 'images'] as const).flatMap((kind) =>
    Object.keys(maps[kind])
      .filter((name) => !configuration[kind].has(name))
      .map((name) => ({ file, reason: `maps ${kind.slice(0, -1)} ${name}, which no file in ${kind}/ describes` })),
  )
  return [...strangers, ...ofExtra(configuration, file, maps.defaults.extra ?? {})]
}

/** Defaults count where they are used: at a cloud, its own or its provider's. */
function ofDefaults(configuration: Configuration, name: string): Warning[] {
  const cloud = configuration.clouds.get(name)!
  const known = {
    size: knownNames(configuration, cloud, 'sizes'),
    image: knownNames(configuration, cloud, 'images'),
    subnet: knownSubnets(cloud),
  }
  const provider = { file: `providers/${cloud.provider}.conf`, maps: cloud.of_provider }
  return [{ file: `clouds/${name}.conf`, maps: cloud as Maps }, provider].flatMap(({ file, maps }) =>
    (['size', 'image', 'subnet'] as const).flatMap((field): Warning[] => {
      const value = maps.defaults[field] ?? null
      if (value === null || known[field].includes(value)) return []
      return [{ file, reason: `its default ${field} ${value} is not known at cloud ${name}` }]
    }),
  )
}

function ofRole(configuration: Configuration, role: string): Warning[] {
  const file = `roles/${role}.conf`
  const maps = [...configuration.clouds.values(), ...configuration.providers.values()]
  const known = {
    sizes: new Set([...configuration.sizes.keys(), ...maps.flatMap((entry) => Object.keys(entry.sizes))]),
    images: new Set([...configuration.images.keys(), ...maps.flatMap((entry) => Object.keys(entry.images))]),
    clouds: null, // may have been made through the API
  }
  const { extra, ...allowed } = configuration.roles.get(role)!
  const strangers = RESTRICTIONS.flatMap((rule) =>
    (allowed[rule] ?? [])
      .filter((name) => known[rule]?.has(name) === false)
      .map((name) => ({ file, reason: `allows ${rule.slice(0, -1)} ${name}, which is not known` })),
  )
  return [...strangers, ...ofExtra(configuration, file, extra)]
}

function ofExtra(configuration: Configuration, file: string, extra: object): Warning[] {
  const known = knownTypes(configuration)
  return Object.keys(extra)
    .filter((type) => type !== INVENTORY && !known.has(type))
    .map((type) => ({ file, reason: `extra.${type} is for a provider type that nobody here knows` }))
}
