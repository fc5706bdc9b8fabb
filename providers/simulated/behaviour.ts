/** Which figures hold for a machine: the cloud's own, overruled by its rules, the most specific last. */
import type { Behaviour, CloudConfiguration, Place } from './configuration.ts'

/** Where a machine is or shall be; names may be null while nobody has chosen. */
export interface PlaceOfMachine {
  readonly size?: string | null | undefined
  readonly image?: string | null | undefined
  readonly realm?: string | null | undefined
  readonly host?: string | null | undefined
}

interface NamedEntry {
  readonly id: string
  readonly name: string
}

/** The catalogue's entry for an id or a name. */
export function findEntry<Entry extends NamedEntry>(entries: readonly Entry[], word: string): Entry | undefined {
  return entries.find((entry) => entry.id === word) ?? entries.find((entry) => entry.name === word)
}

/** The same place with the names used on file, so that a rule may name a size by id or by name. */
export function canonicalPlace(configuration: CloudConfiguration, place: Place): Place {
  const lists = {
    size: configuration.sizes,
    image: configuration.images,
    realm: configuration.realms,
    host: configuration.hosts,
  }
  const canonical: Place = {}
  for (const key of ['size', 'image', 'realm', 'host'] as const) {
    const word = place[key]
    if (word !== undefined) canonical[key] = findEntry<NamedEntry>(lists[key], word)?.name ?? word
  }
  return canonical
}

/** Whether everything the rule or fault names is what the machine has. */
export function placeMatches(configuration: CloudConfiguration, match: Place, machine: PlaceOfMachine): boolean {
  const wanted = canonicalPlace(configuration, match)
  return (['size', 'image', 'realm', 'host'] as const).every(
    (key) => wanted[key] === undefined || wanted[key] === machine[key],
  )
}

/** The figures that hold for a machine there. */
export function behaviourAt(configuration: CloudConfiguration, machine: PlaceOfMachine): Behaviour {
  const rules = configuration.rules
    .filter((rule) => placeMatches(configuration, rule.match, machine))
    .sort((one, other) => Object.keys(one.match).length - Object.keys(other.match).length)
  return Object.assign({}, configuration, ...rules) as Behaviour
}
