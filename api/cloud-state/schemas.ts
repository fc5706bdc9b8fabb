/** The Cloud State wire: what is read and shown there. Unknown fields of what comes in are left aside. */
import { createHash } from 'node:crypto'
import { z } from '@hono/zod-openapi'
import { CLOUD_STATE_WORDS, cloudStateWord, sshKeyHref } from '../../domain/cloud-state.ts'
import { DomainError, type Problem } from '../../domain/errors.ts'
import { checkHookUri, URI_LENGTH_MAX } from '../../domain/hook-address.ts'
import type { Extra } from '../../domain/launch-order.ts'
import type { ShownCallback } from '../../store/callbacks.ts'
import type { CloudStateEntry, CloudStateInstance } from '../../store/cloud-state.ts'
import type { CloudNames } from '../../store/clouds.ts'
import type { ApiDeps } from '../context.ts'
import { invalid } from '../errors.ts'
import { chooseCredentials, OrderCredentials } from '../native/credential-input.ts'
import { checkNames, UserData } from '../native/order-input.ts'
import { ErrorOut, iso, isoOrNull, MomentOut, Name } from '../schemas.ts'

const INSTANCES_MAX = 1_000
const PROBLEMS_MAX = 20

/** The caller's own id, in any case; kept in lower case. */
export const Uuid = z
  .string()
  .toLowerCase()
  .regex(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, { error: 'is not a uuid' })
  .openapi({ format: 'uuid' })

export const CallbackUri = z.string().min(1).max(URI_LENGTH_MAX).openapi({
  description: 'Told of each change of the instance: its state, its addresses. The rules of hooks hold for it.',
})

const NameAtCloud = z.string().min(1).max(200)
const Figure = z.coerce.number().int().min(1).max(1_000_000_000)

/** One instance to launch (CloudStateInstance.launch). */
export const InstanceInput = z
  .object({
    uuid: Uuid.optional().openapi({ description: 'Yours; made when left out.' }),
    name: Name,
    image_id: NameAtCloud,
    hwp_id: NameAtCloud.openapi({
      description:
        "The hardware profile: a size, by our name or the cloud's own; one that differs by cloud needs its cloud.",
    }),
    hwp_memory: Figure.optional().openapi({ description: 'MiB, in place of what the profile has.' }),
    hwp_cpu: Figure.optional(),
    hwp_storage: Figure.optional().openapi({ description: 'GiB.' }),
    keyname: NameAtCloud.optional().openapi({ description: 'A key the cloud knows. Left out: one is made.' }),
    user_data: UserData.optional(),
    realm_id: NameAtCloud.optional(),
    cloud: NameAtCloud.optional().openapi({ description: 'Where; left out: as the order says.' }),
    callback: CallbackUri.optional(),
  })
  .openapi('CloudStateInstanceInput')
export type InstanceInput = z.infer<typeof InstanceInput>

const Policy = z.union([z.enum(['any', 'all']), z.object({ at_least: z.int().min(1).max(INSTANCES_MAX) })])

/** What an order says for all its instances. */
const common = {
  cloud: NameAtCloud.optional(),
  clouds: z.array(NameAtCloud).min(1).max(20).optional().openapi({ description: 'In order of preference.' }),
  callback: CallbackUri.optional(),
  priority: z.int().min(-1_000).max(1_000).optional(),
  user_data: UserData.optional(),
  credentials_id: z
    .union([Uuid, z.array(Uuid).min(1).max(20)])
    .optional()
    .openapi({
      description: 'Accounts to use, by the id they are kept under.',
    }),
  credentials: OrderCredentials.optional().openapi({ description: 'The same, or accounts for this order alone.' }),
} as const

export const OrderInput = z
  .object({
    name: Name.default('launch order'),
    ...common,
    policy: Policy.default('any').openapi({
      description: 'How many must run; where that cannot be met all is undone.',
    }),
    count: z
      .int()
      .min(1)
      .max(INSTANCES_MAX)
      .optional()
      .openapi({ description: 'So many like the one instance given.' }),
    instances: z.array(InstanceInput).min(1).max(INSTANCES_MAX),
  })
  .refine(({ count, instances }) => count === undefined || instances.length === 1 || instances.length === count, {
    error: 'is not the number of `instances`',
    path: ['count'],
  })
  .refine(({ count, instances }) => (count ?? 1) === 1 || instances.length !== 1 || instances[0]!.uuid === undefined, {
    error: 'stands for one instance; leave it out, or name each instance',
    path: ['instances', 0, 'uuid'],
  })
  .refine(
    ({ policy, count, instances }) => typeof policy === 'string' || policy.at_least <= (count ?? instances.length),
    { error: 'is more than there are', path: ['policy', 'at_least'] },
  )
  .openapi('CloudStateOrderInput')
export type OrderInput = z.infer<typeof OrderInput>

/** An order of one. */
export const SingleInput = InstanceInput.extend({
  priority: common.priority,
  credentials_id: common.credentials_id,
  credentials: common.credentials,
}).openapi('CloudStateSingleInput')

type Kind = 'sizes' | 'images'

/** What a cloud's own name of a size or image is called by us. */
const atCloud = (cloud: CloudNames, kind: Kind, name: string): string | undefined =>
  Object.entries(cloud[kind]).find(([, theirs]) => theirs === name)?.[0]

/** Our name of a size or image; the caller may use a cloud's own as well, where it means the same at all clouds meant. */
function ours(clouds: readonly CloudNames[], kind: Kind, name: string, path: string, problems: Problem[]): string {
  if (clouds.some((cloud) => Object.hasOwn(cloud[kind], name))) return name
  const found = clouds.flatMap((cloud) => {
    const our_name = atCloud(cloud, kind, name)
    return our_name === undefined ? [] : { cloud: cloud.name, our_name }
  })
  if (new Set(found.map(({ our_name }) => our_name)).size > 1) {
    const meanings = found.map(({ cloud, our_name }) => `${our_name} at cloud ${cloud}`)
    problems.push({ path, reason: `is ${meanings.join(', ')}: name the cloud` })
  }
  return found[0]?.our_name ?? name
}

/** Sizes and images of instances by our names, each as the clouds it may go to call them. */
function ourNames(
  instances: readonly InstanceInput[],
  named: readonly string[] | undefined,
  granted: readonly CloudNames[],
) {
  const problems: Problem[] = []
  const names = instances.map(({ cloud, hwp_id, image_id }, i) => {
    const may_use = cloud === undefined ? named : [cloud]
    const clouds = may_use ? granted.filter(({ name }) => may_use.includes(name)) : granted
    return {
      size: ours(clouds, 'sizes', hwp_id, `body.instances[${i}].hwp_id`, problems),
      image: ours(clouds, 'images', image_id, `body.instances[${i}].image_id`, problems),
    }
  })
  if (problems.length) throw invalid(problems.slice(0, PROBLEMS_MAX) as [Problem, ...Problem[]])
  return names
}

/** The address of a callback, as hooks may have one. */
export function checkCallback(uri: string, { hook_allow }: ApiDeps, path: string): string {
  try {
    return checkHookUri(uri, hook_allow)
  } catch (error) {
    if (!(error instanceof DomainError) || !error.problems.length) throw error
    throw invalid(error.problems.map((problem) => ({ ...problem, path })) as [Problem, ...Problem[]])
  }
}

const FIELDS: Readonly<Record<string, string>> = { size: 'hwp_id', image: 'image_id', external_id: 'uuid' }

/** Tells what is wrong with an order by the names its fields have here. */
function inTheseWords<T>(check: () => T): T {
  try {
    return check()
  } catch (error) {
    if (!(error instanceof DomainError) || !error.problems.length) throw error
    const problems = error.problems.map((problem) => ({
      ...problem,
      path: problem.path.replace(/\.(size|image|external_id)$/, (_, field: string) => `.${FIELDS[field]}`),
    }))
    throw invalid(problems as [Problem, ...Problem[]])
  }
}

/** Checks an order against what the project may use, and the addresses of its callbacks; for the record. */
export async function checkOrder(input: OrderInput, granted: readonly CloudNames[], project_id: string, deps: ApiDeps) {
  const { instances: given, count, policy, cloud, clouds: named, priority } = input
  const instances = given.length === 1 && count ? Array.from({ length: count }, () => given[0]!) : given
  const several = instances.length > given.length
  const order_clouds = named ?? (cloud === undefined ? undefined : [cloud])
  const names = ourNames(given, order_clouds, granted)
  const named_order = {
    clouds: order_clouds,
    ...names[0]!,
    instances: instances.map((entry, i) => ({
      ...(entry.uuid === undefined ? {} : { external_id: entry.uuid }),
      ...(entry.cloud === undefined ? {} : { clouds: [entry.cloud] }),
      ...names[several ? 0 : i]!,
    })),
  }
  const { clouds, cloud_indexes } = inTheseWords(() => checkNames(named_order, granted))
  const uris = new Map<string, string>()
  const uriOf = (uri: string): string => {
    const checked = uris.get(uri) ?? checkCallback(uri, deps, 'body.callback')
    uris.set(uri, checked)
    return checked
  }
  const entries = instances.map(({ uuid, ...entry }, i): CloudStateEntry => {
    const { size, image } = named_order.instances[i]!
    const name = several ? `${entry.name}-${i + 1}` : entry.name
    const callback = entry.callback ?? input.callback
    const user_data = entry.user_data ?? input.user_data
    return {
      name,
      size,
      image,
      ...(uuid === undefined ? {} : { external_id: uuid }),
      // Without the uuid: one made here is the same content when it comes back.
      content_hash: hashOf({ ...entry, name, callback, user_data, clouds: order_clouds }),
      spec: {
        ...(entry.keyname === undefined ? {} : { key_name: entry.keyname }),
        ...(entry.realm_id === undefined ? {} : { realm: entry.realm_id }),
        ...(entry.hwp_cpu === undefined ? {} : { vcpus: entry.hwp_cpu }),
        ...(entry.hwp_memory === undefined ? {} : { memory_mib: entry.hwp_memory }),
        ...(entry.hwp_storage === undefined ? {} : { disk_gib: entry.hwp_storage }),
      },
      ...(cloud_indexes[i] ? { cloud_indexes: cloud_indexes[i] } : {}),
      ...(user_data === undefined ? {} : { sealed_user_data: deps.envelope.seal(user_data, 'user_data') }),
      ...(callback === undefined ? {} : { callback: uriOf(callback) }),
    }
  })
  const by_id = [input.credentials_id ?? []].flat().map((id) => ({ id }))
  const accounts = [...by_id, ...(input.credentials ?? [])]
  const chosen = await chooseCredentials(accounts, clouds, project_id, deps)
  return {
    ...chosen,
    name: input.name,
    count: entries.length,
    policy: typeof policy === 'string' ? policy : ('at_least' as const),
    ...(typeof policy === 'string' ? {} : { at_least: policy.at_least }),
    cloud_ids: clouds.map(({ id }) => id),
    size: named_order.size,
    image: named_order.image,
    extra: {} satisfies Extra,
    ...(priority === undefined ? {} : { priority }),
    sealed_user_data: null,
    entries,
  }
}

/** The same content has the same hash, in whatever order its fields came. */
function hashOf(content: Readonly<Record<string, unknown>>): Buffer {
  const known = Object.entries(content).filter(([, value]) => value !== undefined)
  return createHash('sha256')
    .update(JSON.stringify(known.toSorted(([a], [b]) => (a < b ? -1 : 1))))
    .digest()
}

// Shown --------------------------------------------------------------------------------------------------------------

export const InstanceOut = z
  .strictObject({
    id: z.string(),
    uuid: z.string(),
    href: z.string(),
    name: z.string(),
    state: z.enum(CLOUD_STATE_WORDS),
    image_id: z.string(),
    hwp_id: z.string(),
    hwp_memory: z.int().nullable(),
    hwp_cpu: z.int().nullable(),
    hwp_storage: z.int().nullable(),
    realm_id: z.string().nullable(),
    cloud: z.string().nullable(),
    public_address: z.string().nullable(),
    private_address: z.string().nullable(),
    external_key: z.string().nullable().openapi({ description: "The cloud's own id." }),
    keyname: z.string().nullable(),
    ssh_key: z.strictObject({ name: z.string(), fingerprint: z.string(), href: z.string() }).nullable(),
    last_error: ErrorOut.nullable(),
    last_checked_at: MomentOut.nullable(),
    stale: z.boolean().openapi({ description: 'Its cloud cannot be reached; the state is the last known.' }),
    launch_order: z.strictObject({ id: z.string(), href: z.string() }),
    callbacks: z.array(z.strictObject({ id: z.string(), href: z.string(), action: z.string() })),
    created_at: MomentOut,
  })
  .openapi('CloudStateInstance')

/** An instance as Cloud State shows it. */
export const renderInstance = (row: CloudStateInstance): z.infer<typeof InstanceOut> => ({
  id: row.id,
  uuid: row.external_id ?? row.id,
  href: `/api/cloud_state/instances/${row.id}`,
  name: row.name,
  state: cloudStateWord(row.state),
  image_id: row.image,
  hwp_id: row.size,
  hwp_memory: row.spec.memory_mib ?? null,
  hwp_cpu: row.spec.vcpus ?? null,
  hwp_storage: row.spec.disk_gib ?? null,
  realm_id: row.spec.realm ?? null,
  cloud: row.cloud,
  public_address: row.public_addresses[0] ?? null,
  private_address: row.private_addresses[0] ?? null,
  external_key: row.provider_id,
  keyname: row.spec.key_name ?? row.key_made_name,
  ssh_key:
    row.key_made_name && row.fingerprint
      ? { name: row.key_made_name, fingerprint: row.fingerprint, href: sshKeyHref(row.id) }
      : null,
  last_error: row.last_error,
  last_checked_at: isoOrNull(row.last_checked_at),
  stale: row.stale ?? false,
  launch_order: { id: row.order_id, href: `/api/cloud_state/launch_orders/${row.order_id}` },
  callbacks: row.callbacks.map(({ id, uri }) => ({ id, href: `/api/cloud_state/callbacks/${id}`, action: uri })),
  created_at: iso(row.created_at),
})

export const CallbackOut = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    instance_id: z.string(),
    instance_uuid: z.string(),
    action: z.string().openapi({ description: 'The address that is told.' }),
    state: z.enum(['unverified', 'active', 'paused', 'disabled', 'deleted']).openapi({
      description: 'Of the lane that all callbacks to this address share; its hook says more.',
    }),
    hook: z.string(),
    created_at: MomentOut,
  })
  .openapi('CloudStateCallback')

/** A callback as Cloud State shows it. */
export const renderCallback = (row: ShownCallback): z.infer<typeof CallbackOut> => ({
  id: row.id,
  href: `/api/cloud_state/callbacks/${row.id}`,
  instance_id: row.instance_id,
  instance_uuid: row.uuid,
  action: row.uri,
  state: row.lane_state,
  hook: `/api/hooks/${row.hook_id}`,
  created_at: iso(row.created_at),
})
