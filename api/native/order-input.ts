/** A launch order as people write it, and the check of its names against what the project may use. */
import { z } from '@hono/zod-openapi'
import type { Problem } from '../../domain/errors.ts'
import { HEALINGS, PLACEMENTS, RETRY_CLASSES } from '../../domain/launch-order.ts'
import type { CloudNames } from '../../store/clouds.ts'
import type { Envelope } from '../../store/envelope.ts'
import type { CheckedEntry } from '../../store/orders.ts'
import { invalid } from '../errors.ts'
import { fields, Moment, Name, Word } from '../schemas.ts'
import { OrderCredentials } from './credential-input.ts'

const ITEMS_MAX = 1_000
const CLOUDS_MAX = 20
const RETRIES_MAX = 1_000
const USER_DATA_BYTES_MAX = 65_536
const EXTRA_BYTES_MAX = 65_536

const bytes = (text: string): number => Buffer.byteLength(text, 'utf8')

const Clouds = z
  .array(Word)
  .min(1)
  .max(CLOUDS_MAX)
  .refine((names) => new Set(names).size === names.length, { error: 'names a cloud twice' })
/** Given to a machine; never shown. */
export const UserData = z
  .string()
  .refine((text) => bytes(text) <= USER_DATA_BYTES_MAX, { error: `is longer than ${USER_DATA_BYTES_MAX} bytes` })
const ExtraInput = z
  .record(z.string().min(1).max(200), z.record(z.string(), z.unknown()))
  .refine((extra) => bytes(JSON.stringify(extra)) <= EXTRA_BYTES_MAX, {
    error: `is longer than ${EXTRA_BYTES_MAX} bytes`,
  })
  .openapi({ description: 'Additions for providers, by their type; each sees its own.' })
const NameAtCloud = z.string().min(1).max(200)

/** What is asked of a provider for one instance besides its name, size and image. */
export const specShape = {
  key_name: NameAtCloud.optional().openapi({ description: 'A key the provider knows, for the first login.' }),
  realm: NameAtCloud.optional(),
  vcpus: z.int().min(1).max(100_000).optional().openapi({ description: 'In place of what the size has.' }),
  memory_mib: z.int().min(1).max(1_000_000_000).optional(),
  disk_gib: z.int().min(1).max(1_000_000_000).optional(),
} as const

const Entry = fields({
  external_id: z.string().min(1).max(200).optional().openapi({ description: 'Your own id of it.' }),
  name: Name.optional(),
  clouds: Clouds.optional().openapi({ description: 'The only ones it may go to.' }),
  size: NameAtCloud.optional(),
  image: NameAtCloud.optional(),
  user_data: UserData.optional(),
  ...specShape,
  extra: ExtraInput.optional(),
}).openapi('LaunchOrderEntry')
type Entry = z.infer<typeof Entry>

export const RetryBudget = z.partialRecord(z.enum(RETRY_CLASSES), z.int().min(0).max(RETRIES_MAX))

/** The fields; `policyFits` belongs behind them. */
export const orderShape = {
  name: Name,
  deployment: Name.optional().openapi({
    description: 'Name of the deployment; made when new. Default: one of its own.',
  }),
  count: z.int().min(1).max(ITEMS_MAX).default(1),
  policy: z.enum(['all', 'at_least', 'any']).default('all').openapi({
    description: 'How many must run. Where that cannot be met everything is undone.',
  }),
  at_least: z.int().min(1).max(ITEMS_MAX).optional().openapi({ description: 'With policy `at_least`.' }),
  clouds: Clouds.optional().openapi({
    description: 'In order of preference. Default: all that offer size and image, by priority.',
  }),
  size: NameAtCloud,
  image: NameAtCloud,
  user_data: UserData.optional().openapi({ description: 'Given to the machines; kept sealed and never shown.' }),
  extra: ExtraInput.optional(),
  priority: z.int().min(-1_000).max(1_000).optional(),
  hold: z.boolean().optional().openapi({
    description: 'Wait for the clouds to change their minds where all refuse, instead of giving up.',
  }),
  placement: z.enum(PLACEMENTS).optional().openapi({
    description: 'In which order its clouds are tried: as listed (default), evenly over all, or the cheapest first.',
  }),
  retry_budget: RetryBudget.optional().openapi({
    description: 'How many more tries each instance gets after errors of a class, over all its clouds.',
  }),
  healing: z.enum(HEALINGS).optional().openapi({
    description: 'What is done for a machine that dies after it ran; default: none.',
  }),
  healing_max: z.int().min(1).max(ITEMS_MAX).optional().openapi({
    description: 'How many of its deployment may be healed at once; default: a fifth.',
  }),
} as const

/** `at_least` stands with its policy and is no more than there are. */
export const policyFits = (order: { policy: string; at_least?: number | undefined; count: number }): boolean =>
  order.policy === 'at_least' ? (order.at_least ?? order.count + 1) <= order.count : order.at_least === undefined

export const POLICY_ERROR = {
  error: 'goes with policy "at_least" only, where it is needed and at most `count`',
  path: ['at_least'],
}

/** An order: so many alike, or instances that differ. */
export const OrderInput = fields({
  ...orderShape,
  count: orderShape.count.unwrap().optional().openapi({ description: 'Default: 1, or as many as `instances`.' }),
  deadline_at: Moment.optional().openapi({
    description: 'By then as many must run as the policy says, else all is undone; what does not run then is given up.',
  }),
  credentials: OrderCredentials.optional(),
  instances: z
    .array(Entry)
    .min(1)
    .max(ITEMS_MAX)
    .optional()
    .openapi({ description: 'One by one; what is left out is as the order says for all.' }),
})
  .refine(({ count, instances }) => !instances || (count ?? instances.length) === instances.length, {
    error: 'is not the number of `instances`',
    path: ['count'],
  })
  .refine((order) => policyFits({ ...order, count: countOf(order) }), POLICY_ERROR)
  .openapi('LaunchOrderInput')

/** How many instances are asked for. */
export const countOf = (order: { count?: number | undefined; instances?: readonly unknown[] | undefined }): number =>
  order.count ?? order.instances?.length ?? 1

/** What of an order names things that are to be there. */
export interface NamedOrder {
  readonly clouds?: readonly string[] | undefined
  readonly size: string
  readonly image: string
  readonly instances?: readonly Pick<Entry, 'external_id' | 'clouds' | 'size' | 'image'>[] | undefined
}

export interface CheckedNames {
  readonly clouds: readonly CloudNames[]
  /** For each of `instances`: its places in `clouds`; undefined: all. */
  readonly cloud_indexes: readonly (readonly number[] | undefined)[]
}

/** Which clouds an order goes to; a 400 that names what there is where it asks for something else. */
export function checkNames(order: NamedOrder, granted: readonly CloudNames[], path = 'body'): CheckedNames {
  const problems: Problem[] = []
  const clouds = order.clouds ? chosen(order.clouds, granted, `${path}.clouds`, problems) : granted
  const { instances = [] } = order
  const twice = instances.findIndex(
    ({ external_id }, i) => external_id !== undefined && instances.findIndex((e) => e.external_id === external_id) < i,
  )
  if (twice >= 0) problems.push({ path: `${path}.instances[${twice}].external_id`, reason: 'is there twice' })
  const used = instances.length
    ? instances.map((entry, i) => {
        const at = `${path}.instances[${i}]`
        const mine = entry.clouds ? chosen(entry.clouds, clouds, `${at}.clouds`, problems) : clouds
        const names = { size: entry.size ?? order.size, image: entry.image ?? order.image }
        return offering(names, mine, (entry.clouds ?? order.clouds) !== undefined, granted, at, problems)
      })
    : [offering(order, clouds, order.clouds !== undefined, granted, path, problems)]
  if (problems.length) throw invalid(problems.slice(0, PROBLEMS_MAX) as [Problem, ...Problem[]])
  const all = clouds.filter((cloud) => used.some((mine) => mine.includes(cloud)))
  return {
    clouds: all,
    cloud_indexes: instances.map((_, i) =>
      used[i]!.length === all.length ? undefined : used[i]!.map((cloud) => all.indexOf(cloud)),
    ),
  }
}

const PROBLEMS_MAX = 20

/** What is wrong with the name of a cloud that is not among these. */
export const notGranted = (path: string, granted: readonly { readonly name: string }[]): Problem => ({
  path,
  reason: 'is not a cloud this project may use',
  accepted: granted.map(({ name }) => name),
})

function chosen(
  names: readonly string[],
  from: readonly CloudNames[],
  path: string,
  problems: Problem[],
): CloudNames[] {
  return names.flatMap((name, i) => {
    const cloud = from.find((one) => one.name === name)
    if (cloud) return [cloud]
    problems.push(notGranted(`${path}[${i}]`, from))
    return []
  })
}

type Names = { readonly size: string; readonly image: string }

/** The clouds that have size and image; all of them must, where they were named. */
function offering(
  names: Names,
  clouds: readonly CloudNames[],
  named: boolean,
  granted: readonly CloudNames[],
  path: string,
  problems: Problem[],
): CloudNames[] {
  const found = clouds.filter((cloud) => offers(cloud, names))
  if (!named && !found.length) problems.push(...noneOffers(names, granted, path))
  if (!named) return found
  for (const cloud of clouds) {
    for (const kind of ['size', 'image'] as const) {
      const accepted = Object.keys(cloud[`${kind}s`])
      if (!accepted.includes(names[kind]))
        problems.push({ path: `${path}.${kind}`, reason: `cloud ${cloud.name} has no such ${kind}`, accepted })
    }
  }
  return found
}

const offers = (cloud: CloudNames, order: Names): boolean =>
  Object.hasOwn(cloud.sizes, order.size) && Object.hasOwn(cloud.images, order.image)

function noneOffers(order: Names, granted: readonly CloudNames[], path: string): Problem[] {
  if (!granted.length) return [{ path: `${path}.clouds`, reason: 'this project may use no cloud yet' }]
  const problems = (['size', 'image'] as const).flatMap((kind): Problem[] => {
    const names = [...new Set(granted.flatMap((cloud) => Object.keys(cloud[`${kind}s`])))]
    const reason = `no cloud of this project has such ${kind === 'size' ? 'a size' : 'an image'}`
    return names.includes(order[kind]) ? [] : [{ path: `${path}.${kind}`, reason, accepted: names }]
  })
  const both = { path: `${path}.image`, reason: 'no cloud of this project has both this size and this image' }
  return problems.length ? problems : [both]
}

/** An entry for the record, its user data sealed. */
export function toEntry(
  { user_data, clouds: _names, key_name, realm, vcpus, memory_mib, disk_gib, ...entry }: Entry,
  cloud_indexes: readonly number[] | undefined,
  envelope: Envelope,
): CheckedEntry {
  return {
    ...entry,
    spec: { key_name, realm, vcpus, memory_mib, disk_gib },
    ...(cloud_indexes ? { cloud_indexes } : {}),
    ...(user_data === undefined ? {} : { sealed_user_data: envelope.seal(user_data, 'user_data') }),
  }
}
