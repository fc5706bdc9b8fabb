/** What the files of the configuration directory must look like. Nothing a file holds gets into what is said of it. */
import { z } from '@hono/zod-openapi'
import { jsonProblem } from '../../domain/json.ts'
import type { Attributes, InventoryFile, Maps, PcmCloud, RoleFile } from '../../domain/pcm/configuration.ts'
import { extraProblems } from '../../domain/pcm/extra.ts'
import { adapterOf, PROVIDER_TYPES } from '../../domain/pcm/provider-type.ts'
import { Secret } from '../../domain/secret.ts'
import type { ConfiguredCloud } from '../../store/cloud-files.ts'
import { cloudShape } from '../native/cloud-view.ts'
import { Word } from '../schemas.ts'

// Schema -------------------------------------------------------------------------------------------------------------

const NAMES_MAX = 500

const Text = z.string().regex(/^\P{Cc}{1,500}$/u, { error: 'is not one line of text of at most 500 characters' })
const Anything = z.record(z.string(), z.unknown(), { error: 'is not an object' })
const Entry = z.union([Text, z.looseObject({ id: Text.nullish() })], {
  error: 'is neither a name nor an object whose id is one',
})
const NameMap = z
  .record(Text, Entry)
  .refine((map) => Object.keys(map).length <= NAMES_MAX, { error: `has more than ${NAMES_MAX} names` })
const Extra = z.unknown().superRefine((extra, context) => {
  for (const { path, reason } of extraProblems(extra, new Set(PROVIDER_TYPES)))
    context.addIssue({ code: 'custom', message: reason, path: path.split('.').slice(1) })
})
const ExtraOut = Extra.transform((extra) => extra as RoleFile['extra'])

const defaults = {
  size: Text.nullish(),
  image: Text.nullish(),
  environment: Text.nullish(),
  subnet: Text.nullish(),
  name: Text.nullish(),
  extra: ExtraOut.optional(),
}
const maps = {
  sizes: NameMap.default({}),
  images: NameMap.default({}),
  subnets: NameMap.default({}),
  defaults: z.looseObject(defaults).default({}),
}

const cloud = {
  ...maps,
  provider: z.enum(PROVIDER_TYPES as [string, ...string[]]),
  host_domain: Text.nullish(),
  simulated: z.strictObject({ endpoint: cloudShape.endpoint, api_key: cloudShape.credential.optional() }).optional(),
  settings: cloudShape.settings.default({}),
  priority: cloudShape.priority.default(0),
  enabled: cloudShape.enabled.default(true),
  allocation: cloudShape.allocation.default(null),
  openstack_auth_url: cloudShape.endpoint.optional(),
  aws_endpoint: cloudShape.endpoint.optional(),
}
const Cloud = z
  .looseObject(cloud)
  .refine((file) => file.simulated || file.provider !== 'simulated', { error: 'is missing', path: ['simulated'] })
  .refine((file) => file.simulated || file.provider !== 'openstack' || file.openstack_auth_url, {
    error: 'is missing',
    path: ['openstack_auth_url'],
  })
  .refine((file) => file.simulated || file.provider !== 'aws' || file.aws_endpoint, {
    error: 'is missing',
    path: ['aws_endpoint'],
  })

const Allowed = z
  .array(Text)
  .nullish()
  .transform((names) => names ?? null)
const role = { sizes: Allowed, images: Allowed, clouds: Allowed, extra: ExtraOut.default({}) }

const inventory = { url: cloudShape.endpoint, username: Text.nullish(), password: z.string().max(10_000).nullish() }

// Files --------------------------------------------------------------------------------------------------------------

/** What the record is to know of a cloud, without the names, which need other files as well. */
export type Account = Omit<ConfiguredCloud, 'name' | 'file' | 'sizes' | 'images' | 'prices'>

export interface CloudContent {
  readonly cloud: Omit<PcmCloud, 'of_provider'>
  readonly account: Account
}

/** What each kind of file gives. */
export interface Contents {
  readonly services: Attributes
  readonly inventory: InventoryFile
  readonly sizes: Attributes
  readonly images: Attributes
  readonly providers: Maps
  readonly clouds: CloudContent
  readonly roles: RoleFile
}
export type FileKind = keyof Contents

/** What a file gives, and fields of it that nobody reads; or what is wrong with it. */
export type ParsedFile<Kind extends FileKind> =
  | { readonly content: Contents[Kind]; readonly unread: readonly string[] }
  | { readonly broken: string }

/** Fields that are a provider's own, all of them taken for secrets but for the address. */
const OF_PROVIDER = /^(openstack|aws)_/

const readers: { readonly [Kind in FileKind]: (json: unknown, name: string) => z.ZodSafeParseResult<Contents[Kind]> } =
  {
    services: (json) => Anything.safeParse(json),
    inventory: (json) => z.looseObject(inventory).transform(inventoryOf).safeParse(json),
    sizes: (json) => Anything.safeParse(json),
    images: (json) => Anything.safeParse(json),
    providers: (json) => z.looseObject(maps).transform(mapsOf).safeParse(json),
    clouds: (json, name) => Cloud.transform((file) => cloudOf(name, file)).safeParse(json),
    roles: (json) =>
      z
        .looseObject(role)
        .transform(({ sizes, images, clouds, extra }) => ({ sizes, images, clouds, extra }))
        .safeParse(json),
  }
const FIELDS: Readonly<Partial<Record<FileKind, object>>> = { inventory, providers: maps, clouds: cloud, roles: role }
/** These name things in addresses. */
const WORDS: readonly FileKind[] = ['clouds', 'providers']

/** Reads the text of one file. */
export function parseFile<Kind extends FileKind>(kind: Kind, name: string, text: string): ParsedFile<Kind> {
  if (!(WORDS.includes(kind) ? Word : Text).safeParse(name).success || jsonProblem({ [name]: 0 }, ''))
    return { broken: 'its name is not one that can be used' }
  const json = parseJson(text)
  if ('broken' in json) return json
  const wrong = jsonProblem(json.value, 'file')
  if (wrong) return { broken: `${wrong.path}: ${wrong.reason}` }
  const parsed = readers[kind](json.value, name)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    const path = issue!.path.map(String).join('.')
    return { broken: `${path ? `${path}: ` : ''}${issue!.message}` }
  }
  return { content: parsed.data, unread: unreadFields(kind, json.value as object) }
}

/** The message of a parser quotes the text: only the place is taken from it. */
function parseJson(text: string): { value: unknown } | { broken: string } {
  try {
    return { value: JSON.parse(text) }
  } catch (error) {
    const place = /line \d+ column \d+/.exec((error as Error).message)?.[0]
    return { broken: `is not JSON${place ? `, see ${place}` : ''}` }
  }
}

function unreadFields(kind: FileKind, json: object): string[] {
  const fields = FIELDS[kind]
  if (!fields) return []
  const unread = Object.keys(json).filter(
    (key) => !Object.hasOwn(fields, key) && !(kind === 'clouds' && OF_PROVIDER.test(key)),
  )
  const { defaults: own } = json as { defaults?: object }
  return [
    ...unread,
    ...Object.keys(own ?? {}).flatMap((key) => (Object.hasOwn(defaults, key) ? [] : [`defaults.${key}`])),
  ]
}

type MapsIn = z.output<z.ZodObject<typeof maps>>

const mapsOf = ({
  sizes,
  images,
  subnets,
  defaults: { size, image, environment, subnet, name, extra },
}: MapsIn): Maps => ({
  sizes,
  images,
  subnets,
  defaults: { size, image, environment, subnet, name, extra },
})

function inventoryOf({ url, username, password }: z.output<z.ZodObject<typeof inventory>>): InventoryFile {
  return { url, username: username ?? null, password: password ? new Secret(password) : null }
}

function cloudOf(name: string, file: z.output<typeof Cloud>): CloudContent {
  const { provider, host_domain, priority, enabled, allocation } = file
  return {
    cloud: { ...mapsOf(file), name, provider, host_domain: host_domain ?? null, passes_through: true },
    account: { ...accountOf(file), priority, enabled, allocation },
  }
}

/** Where a cloud is and how we are let in. A simulated one plays the provider type of its file. */
function accountOf(file: z.output<typeof Cloud>): Pick<Account, 'provider' | 'endpoint' | 'credential' | 'settings'> {
  const { provider, simulated, settings } = file
  if (simulated) {
    const { endpoint, api_key } = simulated
    const presents_as = provider === 'simulated' ? {} : { presents_as: provider }
    const credential = api_key === undefined ? null : new Secret(api_key)
    return { provider: 'simulated', endpoint, credential, settings: { ...settings, ...presents_as } }
  }
  const { openstack_auth_url, aws_endpoint } = file
  const own = Object.entries(file).filter(([key]) => key.startsWith(`${provider}_`) && !Object.hasOwn(cloud, key))
  return {
    provider: adapterOf(provider)!,
    endpoint: (provider === 'aws' ? aws_endpoint : openstack_auth_url)!,
    credential: own.length ? new Secret(JSON.stringify(Object.fromEntries(own))) : null,
    settings,
  }
}
