/**
 * What the files of the configuration directory say, read and checked: what the rules of this folder work on. Our names
 * (abstract ones) are mapped to a cloud's by its own file over that of its provider type.
 */
import type { Secret } from '../secret.ts'
import { providerTypeOf } from './provider-type.ts'

export type Attributes = Readonly<Record<string, unknown>>

/** The name at the cloud; or attributes, among them `id` where the name at the cloud is another. */
export type MapEntry = string | Attributes
export type NameMap = Readonly<Record<string, MapEntry>>

/** Additions to the request to a cloud, by provider type; and those to the inventory's record, as `inventory`. */
export type Extra = Readonly<Record<string, Attributes>>

export interface Defaults {
  readonly size?: string | null | undefined
  readonly image?: string | null | undefined
  readonly environment?: string | null | undefined
  readonly subnet?: string | null | undefined
  /** Template of a name, for the inventory. */
  readonly name?: string | null | undefined
  readonly extra?: Extra | undefined
}

/** What files of clouds and of provider types have in common. */
export interface Maps {
  readonly sizes: NameMap
  readonly images: NameMap
  readonly subnets: NameMap
  readonly defaults: Defaults
}

/** A cloud of a file, or one made through the API in the same shape. */
export interface PcmCloud extends Maps {
  readonly name: string
  /** Type of provider: `openstack`, `aws`, `simulated`. */
  readonly provider: string
  readonly host_domain: string | null
  /** What the file of its provider type says. */
  readonly of_provider: Maps
  /** It takes every size and image that has a file, mapped or under its own name. */
  readonly passes_through: boolean
}

export const RESTRICTIONS = ['sizes', 'images', 'clouds'] as const

/** What a role allows (null: everything) and adds. */
export interface RoleFile extends Readonly<Record<(typeof RESTRICTIONS)[number], readonly string[] | null>> {
  readonly extra: Extra
}

/** An outside inventory. */
export interface InventoryFile {
  readonly url: string
  readonly username: string | null
  readonly password: Secret | null
}

export interface Configuration {
  /** Other versions of the API and where they are. */
  readonly services: Attributes
  readonly inventory: InventoryFile | null
  readonly sizes: ReadonlyMap<string, Attributes>
  readonly images: ReadonlyMap<string, Attributes>
  readonly providers: ReadonlyMap<string, Maps>
  readonly clouds: ReadonlyMap<string, PcmCloud>
  readonly roles: ReadonlyMap<string, RoleFile>
}

export const NO_MAPS: Maps = { sizes: {}, images: {}, subnets: {}, defaults: {} }

export const EMPTY_CONFIGURATION: Configuration = {
  services: {},
  inventory: null,
  sizes: new Map(),
  images: new Map(),
  providers: new Map(),
  clouds: new Map(),
  roles: new Map(),
}

/** A cloud's own maps, then those of its provider type: the first that says something wins. */
export const layersOf = (cloud: PcmCloud): readonly [Maps, Maps] => [cloud, cloud.of_provider]

/** What is needed of a cloud of the record. */
export interface RecordedCloud {
  readonly name: string
  readonly source: 'api' | 'file'
  readonly provider: string
  readonly settings: object
  readonly sizes: NameMap
  readonly images: NameMap
}

/** A cloud of the record as its file says; one that has no file (any more) as the record says. */
export function cloudOfRecord(configuration: Configuration, row: RecordedCloud): PcmCloud {
  const file = row.source === 'file' ? configuration.clouds.get(row.name) : undefined
  if (file) return file
  const { name, sizes, images } = row
  const maps = { ...NO_MAPS, sizes, images, of_provider: NO_MAPS, passes_through: false }
  return { ...maps, name, provider: providerTypeOf(row), host_domain: null }
}
