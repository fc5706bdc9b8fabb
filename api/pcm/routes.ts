/**
 * PCM API v2: clouds, sizes and images by our names, instances at a cloud. `/clouds/`, `/cloud/` and `/locations/` are the
 * same. Unknown fields are left aside.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { createRoute, z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import { DomainError } from '../../domain/errors.ts'
import type { Attributes } from '../../domain/pcm/configuration.ts'
import { cloudOfRecord } from '../../domain/pcm/configuration.ts'
import { fullName, inventoryStatus } from '../../domain/pcm/inventory.ts'
import { describeOffer, type Kind, type LiveItem, listOffers } from '../../domain/pcm/names.ts'
import { providerTypeOf } from '../../domain/pcm/provider-type.ts'
import { resolveRequest } from '../../domain/pcm/request.ts'
import { pcmStatus, SETTABLE } from '../../domain/pcm/status.ts'
import { requestAction } from '../../store/actions.ts'
import { listClouds, type ShownCloud } from '../../store/clouds.ts'
import { answered, changeOnce } from '../../store/idempotency.ts'
import { findByName } from '../../store/inventory.ts'
import type { AcceptedOrder } from '../../store/orders.ts'
import {
  acceptPcmInstance,
  findPcmInstance,
  hasPcmInstances,
  listPcmInstances,
  type PcmInstance,
} from '../../store/pcm.ts'
import { listOffers as listTold } from '../../store/surveys.ts'
import { type Api, type ApiContext, callerOf } from '../context.ts'
import { notFound } from '../errors.ts'
import { requestKey } from '../request.ts'
import { errors, guarded } from '../route.ts'
import { iso, json, UUID, Word } from '../schemas.ts'
import {
  addRoute,
  Cloud,
  Clouds,
  type Handler,
  Index,
  Instance,
  InstanceInput,
  Offer,
  type Place,
  Services,
  StatusInput,
} from './document.ts'
import { PCM, pcmJson } from './errors.ts'

const V2 = `${PCM}/v2`
const INSTANCES_MAX = 1_000
const OFFERS_MAX = 10_000
const JSON_TYPE = 'application/json'
const WAIT_S_MAX = 60
/** A caller who does not wait is kept for so long, that they have the name an inventory outside gives. */
const NAME_WAIT_S = 3
const WAIT_POLL_MS = 100
const CONSOLE_BYTES_MAX = 65_536

const inventoryName = createRoute({
  method: 'get',
  path: '/api/inventory/{name}',
  tags: ['inventory'],
  summary: 'Read a name the built-in inventory gave',
  ...guarded('read'),
  request: { params: z.strictObject({ name: z.string() }) },
  responses: { 200: json('The name.', z.strictObject({ inventory: z.looseObject({}) })), ...errors },
})

/** Registers `/pcm_api` and `/api/inventory`. */
export function routePcm(app: Api): void {
  const get = (place: Place, summary: string, schema: z.ZodType, handler: Handler) =>
    addRoute(app, { ...place, method: 'get', summary, answers: { 200: json('What was asked for.', schema) } }, handler)

  get({ path: PCM }, 'Services there are, this one among them', Services, (c) => {
    const { services } = c.get('configuration')
    return pcmJson(c, { ...services, v2api: new URL(V2, c.req.url).href }, 200)
  })
  get({ path: V2 }, 'Where the nouns are', Index, (c) =>
    pcmJson(c, { clouds: `${V2}/clouds`, images: `${V2}/images`, sizes: `${V2}/sizes` }, 200),
  )
  for (const kind of ['sizes', 'images'] as const) {
    const one = `${kind}/{${singular(kind)}}`
    get({ path: `${V2}/${kind}` }, `List the ${kind} of the configuration`, z.array(Offer), (c) =>
      pcmJson(c, [...c.get('configuration')[kind].values()], 200),
    )
    get({ path: `${V2}/${one}` }, `Read one of the ${kind} of the configuration`, Offer, (c) =>
      pcmJson(c, requireConfigured(c, kind), 200),
    )
    get(ofCloud(`/${kind}`), `List the ${kind} of a cloud`, z.array(Offer), listOffersOf(kind))
    get(ofCloud(`/${one}`), `Read one of the ${kind} of a cloud`, Offer, readOfferOf(kind))
  }
  get({ path: `${V2}/clouds` }, 'List clouds: their names, or with `?view=status` how they are', Clouds, async (c) => {
    const clouds = await listClouds(c.get('deps').store.db, { project_id: projectOf(c) })
    const view = c.req.query('view')
    return pcmJson(c, view === 'status' ? clouds.map(statusOf) : clouds.map(({ name }) => name), 200)
  })
  const readCloud: Handler = async (c) => pcmJson(c, { ...statusOf(await requireCloud(c)), service: 'compute' }, 200)
  get(ofCloud(''), 'Read a cloud: how it is, and since when', Cloud, readCloud)

  const all = ofCloud('/instances')
  const one = ofCloud('/instances/{instance_id}')
  const shown = (description: string) => json(description, Instance)
  const list: Handler = async (c) => {
    const { id } = await requireCloudInUse(c)
    const rows = await listPcmInstances(c.get('deps').store.db, c.get('identity').project_id, id, INSTANCES_MAX)
    return pcmJson(c, rows.map(render), 200)
  }
  get(all, 'List instances of a cloud, newest first', z.array(Instance), list)
  addRoute(
    app,
    {
      ...all,
      method: 'post',
      summary: 'Make an instance',
      body: InstanceInput,
      before: jsonOnly,
      answers: { 201: shown('The cloud knows it.'), 202: shown('Accepted.') },
    },
    create,
  )
  const read: Handler = async (c) => pcmJson(c, render(await requireInstance(c)), 200)
  get(one, 'Read an instance', Instance, read)
  addRoute(
    app,
    {
      ...one,
      method: 'delete',
      summary: 'End an instance',
      answers: { 202: shown('It will be.'), 204: { description: 'It is gone.' } },
    },
    remove,
  )
  addRoute(
    app,
    {
      ...one,
      method: 'put',
      summary: 'Set the status of an instance: stop, start or reboot it',
      body: StatusInput,
      before: jsonOnly,
      answers: { 202: shown('It will be.') },
    },
    update,
  )
  addRoute(
    app,
    {
      ...ofCloud('/instances/{instance_id}/console_log'),
      method: 'get',
      summary: 'Read what an instance wrote to its console, the last 64 KiB',
      answers: {
        200: {
          description: 'The text; `?length=N`: its last lines.',
          content: { 'text/plain': { schema: z.string() } },
        },
      },
    },
    consoleLog,
  )

  app.openapi(inventoryName, async (c) => {
    const { name } = c.req.valid('param')
    // The record has no texts with a zero byte, and cannot be asked for one.
    const row = name.includes('\0')
      ? undefined
      : await findByName(c.get('deps').store.db, c.get('identity').project_id, name)
    if (!row) throw notFound('name', name)
    return c.json({ inventory: renderName(row) }, 200)
  })
}

/** Clouds have three words. */
const ofCloud = (rest: string): Place => ({
  path: `${V2}/clouds/{cloud}${rest}`,
  aliases: ['cloud', 'locations'].map((word) => `${V2}/${word}/{cloud}${rest}`),
})

// Clouds -------------------------------------------------------------------------------------------------------------

const missing = (message: string): DomainError => new DomainError('not_found', message)
const singular = (kind: Kind): 'size' | 'image' => (kind === 'sizes' ? 'size' : 'image')
const nameOf = (c: ApiContext, kind: Kind): string => c.req.param(singular(kind)) ?? ''

/** The project whose clouds a caller sees; undefined: those of all. */
const projectOf = (c: ApiContext): string | undefined => {
  const { role, project_id } = c.get('identity')
  return role === 'operator' ? undefined : project_id
}

const cloudName = (c: ApiContext): string => c.req.param('cloud') ?? ''

/** The cloud of the address, where the project may use it; undefined: whoever may. */
async function findCloud(c: ApiContext, project_id: string | undefined): Promise<ShownCloud | undefined> {
  const name = cloudName(c)
  if (!Word.safeParse(name).success) return undefined
  const [cloud] = await listClouds(c.get('deps').store.db, { name, project_id })
  return cloud
}

/** The cloud of the address, where the caller may use it or has instances there: those outlive a grant. */
async function findCloudInUse(c: ApiContext): Promise<ShownCloud | undefined> {
  const granted = await findCloud(c, projectOf(c))
  if (granted) return granted
  const cloud = await findCloud(c, undefined)
  if (!cloud) return undefined
  const used = await hasPcmInstances(c.get('deps').store.db, c.get('identity').project_id, cloud.id)
  return used ? cloud : undefined
}

const requireCloud = (c: ApiContext) => orNone(c, findCloud(c, projectOf(c)))
const requireCloudInUse = (c: ApiContext) => orNone(c, findCloudInUse(c))

async function orNone(c: ApiContext, looked: Promise<ShownCloud | undefined>): Promise<ShownCloud> {
  const cloud = await looked
  if (!cloud) throw missing(`No such cloud "${cloudName(c)}"`)
  return cloud
}

/** A cloud and how it is (W23). */
function statusOf(cloud: ShownCloud): Attributes {
  const status = !cloud.enabled
    ? 'disabled'
    : cloud.state === 'unreachable' || cloud.state === 'refused'
      ? 'unavailable'
      : cloud.stale_since
        ? 'degraded'
        : 'ok'
  const since = (cloud.stale_since ?? cloud.created_at).toISOString()
  return { name: cloud.name, provider: providerTypeOf(cloud), status, since }
}

function requireConfigured(c: ApiContext, kind: Kind): Attributes {
  const name = nameOf(c, kind)
  const found = c.get('configuration')[kind].get(name)
  if (!found) throw missing(`No such ${singular(kind)} "${name}"`)
  return found
}

async function offers(c: ApiContext, kind: Kind) {
  const row = await requireCloud(c)
  const configuration = c.get('configuration')
  const told = await listTold(c.get('deps').store.db, row.id, kind === 'sizes' ? 'size' : 'image', {
    limit: OFFERS_MAX,
  })
  const live = told.map(({ provider_id, name, attributes }): LiveItem => ({ ...attributes, id: provider_id, name }))
  return { configuration, cloud: cloudOfRecord(configuration, row), live: live.length ? live : null }
}

const listOffersOf =
  (kind: Kind): Handler =>
  async (c) => {
    const { configuration, cloud, live } = await offers(c, kind)
    return pcmJson(c, listOffers(configuration, cloud, kind, live), 200)
  }

const readOfferOf =
  (kind: Kind): Handler =>
  async (c) => {
    const { configuration, cloud, live } = await offers(c, kind)
    const name = nameOf(c, kind)
    const offer = describeOffer(configuration, cloud, kind, name, live)
    if (!offer) throw missing(`No such ${singular(kind)} "${name}" in cloud ${cloud.name}`)
    return pcmJson(c, offer, 200)
  }

// Instances ----------------------------------------------------------------------------------------------------------

const instanceId = (c: ApiContext): string => (c.req.param('instance_id') ?? '').toLowerCase()

async function findInstance(c: ApiContext, cloud: ShownCloud): Promise<PcmInstance | undefined> {
  const id = instanceId(c)
  if (!UUID.test(id)) return undefined
  return findPcmInstance(c.get('deps').store.db, c.get('identity').project_id, cloud.id, id)
}

async function requireInstance(c: ApiContext): Promise<PcmInstance> {
  const cloud = await requireCloudInUse(c)
  const found = await findInstance(c, cloud)
  if (!found) throw missing(`Instance ${instanceId(c).slice(0, 200)} does not exist in cloud ${cloud.name}`)
  return found
}

/** An instance as PCM shows it; what is not known is left out. */
function render(row: PcmInstance): Attributes {
  const ip_address = row.public_addresses[0] ?? row.private_addresses[0]
  const name = row.given_name
  const shown = {
    name,
    id: row.id,
    role: row.roles ?? [],
    size: row.size,
    image: row.image,
    environment: row.environment,
    subnet: row.subnet,
    status: pcmStatus(row.state, row.raw_state),
    ip_address,
    host: row.host_domain && name ? fullName(name, row.host_domain, row.request_id !== null) : undefined,
  }
  return Object.fromEntries(Object.entries(shown).filter(([, value]) => value !== null && value !== undefined))
}

function renderName(row: NonNullable<Awaited<ReturnType<typeof findByName>>>): Attributes {
  return {
    ...row.extra,
    name: row.name,
    fqdn: fullName(row.name!, row.host_domain, row.request_id !== null),
    status: inventoryStatus(row.state),
    serial_number: row.provider_id,
    roles: row.roles.toSorted().join(','),
    environment: row.environment,
    cloud: row.cloud,
    size: row.size,
    image: row.image,
    subnet: row.subnet,
    ip_address: row.public_addresses[0] ?? row.private_addresses[0] ?? null,
    instance: `/api/instances/${row.instance_id}`,
    created_at: iso(row.created_at),
  }
}

/** A body of another type than JSON is not read. */
async function jsonOnly(c: ApiContext, next: () => Promise<void>): Promise<void> {
  const type = (c.req.header('content-type') ?? JSON_TYPE).split(';')[0]!.trim().toLowerCase()
  if (type !== JSON_TYPE)
    throw new DomainError(
      'unsupported_media_type',
      `a body of type ${type.slice(0, 100)} is not read; send application/json`,
    )
  await next()
}

async function readBody(c: ApiContext): Promise<Attributes> {
  const body: unknown = await c.req.json().catch(() => undefined)
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw new DomainError('invalid_request', 'the body must be a JSON object')
  return body as Attributes
}

/** So many seconds the caller waits, by `Prefer: wait=N` or `?wait=N`. */
function waitOf(c: ApiContext): number {
  const preferred = /(?:^|[,;\s])wait=(\d{1,5})\b/i.exec(c.req.header('prefer') ?? '')?.[1]
  const seconds = Number(preferred ?? c.req.query('wait') ?? 0)
  return Number.isFinite(seconds) ? Math.min(WAIT_S_MAX, Math.max(0, seconds)) : 0
}

/** Asks until it is so, or the time is up; undefined: it is not. */
async function waitFor<T>(c: ApiContext, wait_s: number, ask: () => Promise<T | undefined>): Promise<T | undefined> {
  const until = performance.now() + wait_s * 1_000
  for (;;) {
    const found = await ask()
    if (found !== undefined || performance.now() >= until || c.get('deps').leaving?.aborted) return found
    await delay(WAIT_POLL_MS)
  }
}

async function create(c: ApiContext): Promise<Response> {
  const deps = c.get('deps')
  const { store } = deps
  const caller = callerOf(c)
  const row = await requireCloud(c)
  const [granted] = await listClouds(store.db, { name: row.name, project_id: caller.project_id })
  if (!granted) throw missing(`No such cloud "${row.name}"`)
  const configuration = c.get('configuration')
  const cloud = cloudOfRecord(configuration, row)
  const request = resolveRequest(configuration, cloud, await readBody(c))
  const order = {
    cloud_id: row.id,
    provider_type: cloud.provider,
    request,
    template: cloud.defaults.name ?? cloud.of_provider.defaults.name ?? null,
    host_domain: cloud.host_domain,
  }
  const answer = { status: 202, resource_type: 'instance', resource_id: newId() }
  let accepted: AcceptedOrder | undefined
  const given = await changeOnce(store, caller, await requestKey(c), answer, async (trx) => {
    const made = await acceptPcmInstance(trx, caller, order)
    accepted = made.accepted
    return { resource_id: made.instance_id }
  })
  if (!given.repeated && accepted) deps.onAccepted?.(accepted)
  const find = () => findPcmInstance(store.db, caller.project_id, row.id, given.resource_id)
  const until = async (is_so: (found: PcmInstance) => boolean) => {
    const found = await find()
    return found && is_so(found) ? found : undefined
  }
  const asked_s = waitOf(c)
  if (asked_s < NAME_WAIT_S)
    await waitFor(c, NAME_WAIT_S, () => until(({ given_name, state }) => given_name !== null || state === 'failed'))
  const known = await waitFor(c, asked_s, () => until((found) => found.is_known_there || found.state === 'failed'))
  // The first request was answered with the instance where its caller did not wait, or the cloud had taken it.
  const was_accepted = given.repeated && (asked_s === 0 || known?.is_known_there)
  if (known?.state === 'failed' && !was_accepted) throw refused(known)
  const shown = known ?? (await find())
  if (!shown) throw missing(`Instance ${given.resource_id} does not exist in cloud ${row.name}`)
  c.header('Location', `${V2}/clouds/${row.name}/instances/${shown.id}`)
  const warnings = request.warnings.length ? { warnings: request.warnings } : {}
  return pcmJson(c, { ...render(shown), ...warnings }, known?.is_known_there ? 201 : 202)
}

/** The cloud did not take it while its caller waited. */
function refused({ last_error }: PcmInstance): DomainError {
  const full = last_error?.class === 'capacity' || last_error?.class === 'quota'
  const message = last_error?.message ?? 'the instance could not be created'
  return new DomainError(full ? 'capacity_exceeded' : 'unavailable', message)
}

async function remove(c: ApiContext): Promise<Response> {
  const { store } = c.get('deps')
  const caller = callerOf(c)
  const key = await requestKey(c)
  if (!(await answered(store.db, caller.project_id, key))) {
    const instance = await requireInstance(c)
    if (instance.state === 'terminated')
      throw missing(`Instance ${instance.id} does not exist in cloud ${cloudName(c)}`)
    await requestAction(store, caller, instance.id, { kind: 'terminate' }, key)
  }
  const gone = await waitFor(c, waitOf(c), async () => {
    const cloud = await findCloudInUse(c)
    const found = cloud && (await findInstance(c, cloud))
    return !found || found.state === 'terminated' || undefined
  })
  return gone ? c.body(null, 204) : pcmJson(c, render(await requireInstance(c)), 202)
}

/** The whole body is looked at before anything of it is done. */
async function update(c: ApiContext): Promise<Response> {
  const { store } = c.get('deps')
  const instance = await requireInstance(c)
  const body = await readBody(c)
  const [field] = Object.keys(body).filter((key) => key !== 'status')
  if (field !== undefined) throw new DomainError('invalid_request', `Cannot update field "${field.slice(0, 100)}"`)
  if (!('status' in body)) return pcmJson(c, render(instance), 202)
  const status = typeof body.status === 'string' ? body.status : JSON.stringify(body.status)
  const asked = typeof body.status === 'string' && Object.hasOwn(SETTABLE, status) ? SETTABLE[status] : undefined
  if (!asked) throw new DomainError('invalid_request', `Cannot update to status "${status.slice(0, 100)}"`)
  await requestAction(store, callerOf(c), instance.id, asked, await requestKey(c))
  const shown = render(await requireInstance(c))
  return pcmJson(c, { ...shown, ...(asked.kind === 'reboot' ? { status } : {}) }, 202)
}

async function consoleLog(c: ApiContext): Promise<Response> {
  const instance = await requireInstance(c)
  const { consoleLog: ask } = c.get('deps')
  const none = missing(`Instance ${instance.id} has no console log`)
  if (!instance.provider_id || !instance.cloud_id || !ask) throw none
  const told = await ask(instance.cloud_id, instance.credential_id, instance.provider_id)
  if ('refused' in told) {
    if (told.refused === 'not_found' || told.refused === 'invalid') throw none
    throw new DomainError('unavailable', told.reason, { retry_after_s: told.retry_after_s })
  }
  const lines = Number(c.req.query('length'))
  const clean = Buffer.from(told.text, 'utf8').subarray(-CONSOLE_BYTES_MAX).toString('utf8').replaceAll('\0', '')
  const text =
    Number.isInteger(lines) && lines > 0
      ? clean
          .split('\n')
          .slice(-lines - 1)
          .join('\n')
      : clean
  return c.body(text, 200, { 'content-type': 'text/plain; charset=utf-8' })
}
