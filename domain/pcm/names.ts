/** Our names of sizes, images and subnets, and the cloud's. */
import {
  type Attributes,
  type Configuration,
  layersOf,
  type MapEntry,
  type Maps,
  type PcmCloud,
} from './configuration.ts'

export type Kind = 'sizes' | 'images'

/** What a cloud itself says of a size or an image. */
export interface LiveItem {
  readonly id: string
  readonly name: string
  readonly vcpus?: number
  readonly memory_mib?: number
  readonly disk_gib?: number
}

const attributesOf = (entry: MapEntry): Attributes => (typeof entry === 'string' ? { id: entry } : entry)

/** Entries of a name, the cloud's before its provider's. */
function entriesOf(layers: readonly Maps[], kind: Kind | 'subnets', name: string): Attributes[] {
  return layers.flatMap((maps) => (Object.hasOwn(maps[kind], name) ? [attributesOf(maps[kind][name]!)] : []))
}

/** The first that is there and not null, attribute by attribute. */
export function mergeAttributes(layers: readonly Attributes[]): Attributes {
  const merged = new Map<string, unknown>()
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer)) {
      if (value !== null && value !== undefined && !merged.has(key)) merged.set(key, value)
    }
  }
  return Object.fromEntries(merged)
}

/** What a cloud calls a size or an image of ours; a name without an entry, or without an id in it, is its own. */
export function providerName(cloud: PcmCloud, kind: Kind, name: string): string {
  const { id } = mergeAttributes(entriesOf(layersOf(cloud), kind, name))
  return typeof id === 'string' ? id : name
}

/** Our names that may be asked for at a cloud: those with a file of their own, and those that its maps name. */
export function knownNames(configuration: Configuration, cloud: PcmCloud, kind: Kind): readonly string[] {
  const mapped = layersOf(cloud).flatMap((maps) => Object.keys(maps[kind]))
  const described = cloud.passes_through ? configuration[kind].keys() : []
  return [...new Set([...described, ...mapped])].toSorted()
}

/** All our names at a cloud, and what it calls them. */
export function nameMap(configuration: Configuration, cloud: PcmCloud, kind: Kind): Readonly<Record<string, string>> {
  const names = knownNames(configuration, cloud, kind)
  return Object.fromEntries(names.map((name) => [name, providerName(cloud, kind, name)]))
}

/** What sizes of ours cost at a cloud, where its files say so. */
export function pricesOf(configuration: Configuration, cloud: PcmCloud): Readonly<Record<string, number>> {
  const priced = listOffers(configuration, cloud, 'sizes', null).flatMap(({ id, price }) =>
    typeof price === 'number' && price >= 0 ? [[String(id), price] as const] : [],
  )
  return Object.fromEntries(priced)
}

/** What a cloud calls a subnet of ours. Subnets do not pass through: null, where there is no entry. */
export function subnetName(cloud: PcmCloud, name: string): string | null {
  const entries = entriesOf(layersOf(cloud), 'subnets', name)
  if (!entries.length) return null
  const { id } = mergeAttributes(entries)
  return typeof id === 'string' ? id : name
}

/** Subnets of ours that a cloud has. */
export function knownSubnets(cloud: PcmCloud): readonly string[] {
  return [...new Set(layersOf(cloud).flatMap((maps) => Object.keys(maps.subnets)))].toSorted()
}

/**
 * A size or image as a cloud offers it; undefined: it does not. What the cloud says itself comes first, then its file,
 * its provider's, ours. `live` null: the cloud was not asked.
 */
export function describeOffer(
  configuration: Configuration,
  cloud: PcmCloud,
  kind: Kind,
  name: string,
  live: readonly LiveItem[] | null,
): Attributes | undefined {
  return knownNames(configuration, cloud, kind).includes(name)
    ? describe(configuration, cloud, kind, name, live)
    : undefined
}

/** All that a cloud offers, by our names. */
export function listOffers(
  configuration: Configuration,
  cloud: PcmCloud,
  kind: Kind,
  live: readonly LiveItem[] | null,
): Attributes[] {
  const names = knownNames(configuration, cloud, kind)
  return names.map((name) => describe(configuration, cloud, kind, name, live)).filter((offer) => offer !== undefined)
}

function describe(
  configuration: Configuration,
  cloud: PcmCloud,
  kind: Kind,
  name: string,
  live: readonly LiveItem[] | null,
): Attributes | undefined {
  const provider_name = providerName(cloud, kind, name)
  // OpenStack is asked by name, AWS by id.
  const found = live?.find((item) => item.id === provider_name) ?? live?.find((item) => item.name === provider_name)
  if (live && !found) return undefined
  const entries = entriesOf(layersOf(cloud), kind, name)
  const own = configuration[kind].get(name) ?? {}
  const { id: _, provider_id: __, ...described } = mergeAttributes([liveAttributes(found), ...entries, own])
  return { id: name, provider_id: found?.id ?? provider_name, ...described }
}

const liveAttributes = (live: LiveItem | undefined): Attributes =>
  live ? { name: live.name, ram: live.memory_mib, cores: live.vcpus, disk: live.disk_gib } : {}
