/** The data API of one cloud: what a provider offers its customers, under `/clouds/:cloud`. */
import { Hono } from 'hono'
import { z } from 'zod'
import { findEntry } from './behaviour.ts'
import { type Call, handleCall } from './calls.ts'
import type { Verb } from './configuration.ts'
import type { Subject } from './faults.ts'
import type { Command, MachineRow, MachineVerb } from './records.ts'
import { ATTEMPT_TAG, TOKEN_HEADER } from './tags.ts'
import { consoleText, listMachines, showMachine, type TagFilter } from './view.ts'
import { type Environment, type Reply, refusal, type WireContext } from './wire.ts'
import type { Cloud, World } from './world.ts'

const TAG_KEY = /^[\w.-]+$/
const createRequest = z.object({
  name: z.string().min(1).max(255),
  size: z.string(),
  image: z.string(),
  user_data: z.string().nullish(),
  realm: z.string().nullish(),
  host: z.string().nullish(),
  extra: z.record(z.string(), z.unknown()).nullish(),
  tags: z.record(z.string(), z.string()).default({}),
})
const tagRequest = z.object({ tags: z.record(z.string().regex(TAG_KEY), z.string()) })
const rebootRequest = z.object({ kind: z.enum(['soft', 'hard']).default('soft') })

/** Routes of the data API. */
export function machineRoutes(world: World): Hono<Environment> {
  const routes = new Hono<Environment>()

  routes.get('/:cloud', (context) => {
    const cloud = world.cloud(context.req.param('cloud'))
    if (!cloud) return context.json({ error: { code: 'noSuchCloud', message: 'There is no cloud of this name.' } }, 404)
    const { presents_as, idempotency_tokens, tags, console_log, hosts, list, rate_limit } = cloud.configuration
    const settings = {
      ...{ idempotency_tokens, tags, console_log, hosts: hosts.length > 0, list_lag_ms: list.lag_ms },
      calls_per_s: rate_limit?.calls_per_s ?? null,
    }
    return context.json({ name: cloud.name, presents_as, settings })
  })

  routes.post('/:cloud/machines', (context) =>
    handleCall(world, context, 'create', (cloud, account, body, request_seq) =>
      prepareCreate(cloud, account, context, body, request_seq),
    ),
  )
  routes.get('/:cloud/machines', (context) =>
    handleCall(world, context, 'list', (cloud, account) => prepareList(world, cloud, account, context)),
  )
  routes.get('/:cloud/machines/:id', (context) =>
    handleCall(world, context, 'get', (cloud) =>
      readMachine(world, cloud, context, 'get', (machine) => ({
        status: 200,
        body: { machine: showMachine(cloud.configuration, machine) },
      })),
    ),
  )
  routes.get('/:cloud/machines/:id/console', (context) =>
    handleCall(world, context, 'console', (cloud) =>
      readMachine(world, cloud, context, 'console', (machine) =>
        cloud.configuration.console_log
          ? { status: 200, body: { text: consoleText(machine) } }
          : refusal(cloud, 'invalid', 'This cloud has no console log.'),
      ),
    ),
  )
  const change = (context: WireContext, verb: MachineVerb) =>
    handleCall(world, context, verb, (cloud, _, body, request_seq) =>
      prepareChange(world, cloud, context, verb, body, request_seq),
    )
  routes.post('/:cloud/machines/:id/start', (context) => change(context, 'start'))
  routes.post('/:cloud/machines/:id/stop', (context) => change(context, 'stop'))
  routes.post('/:cloud/machines/:id/reboot', (context) => change(context, 'reboot'))
  routes.delete('/:cloud/machines/:id', (context) => change(context, 'delete'))
  for (const [method, verb] of [
    ['PUT', 'tag'],
    ['DELETE', 'untag'],
  ] as const) {
    routes.on(method, '/:cloud/machines/:id/tags', (context) =>
      handleCall(world, context, verb, (cloud, _, body, request_seq) =>
        prepareTags(world, cloud, context, verb, body, request_seq),
      ),
    )
  }

  for (const verb of ['sizes', 'images', 'realms', 'hosts'] as const) {
    routes.get(`/:cloud/${verb}`, (context) =>
      handleCall(world, context, verb, () => ({
        subject: { verb },
        perform: () => ({
          status: 200,
          body: { [verb]: world.cloud(context.req.param('cloud'))?.configuration[verb] ?? [] },
        }),
      })),
    )
  }
  return routes
}

function prepareCreate(
  cloud: Cloud,
  account: string,
  context: WireContext,
  body: string,
  request_seq: number,
): Call | Reply {
  const parsed = createRequest.safeParse(parseJson(body))
  if (!parsed.success) return refusal(cloud, 'invalid', z.prettifyError(parsed.error))
  const { name, tags, extra, user_data } = parsed.data
  const { configuration } = cloud
  const size = findEntry(configuration.sizes, parsed.data.size)?.name
  const image = findEntry(configuration.images, parsed.data.image)?.name
  const realm_wanted = stringOf(parsed.data.realm ?? extra?.realm ?? extra?.availability_zone)
  const realm = realm_wanted === null ? undefined : findEntry(configuration.realms, realm_wanted)
  const host_wanted = stringOf(parsed.data.host ?? extra?.host)
  const host = host_wanted === null ? undefined : findEntry(configuration.hosts, host_wanted)
  if (!configuration.accept_any_names) {
    if (!size) return refusal(cloud, 'invalid', `There is no size ${parsed.data.size}.`)
    if (!image) return refusal(cloud, 'invalid', `There is no image ${parsed.data.image}.`)
    if (realm_wanted !== null && !realm) return refusal(cloud, 'invalid', `There is no realm ${realm_wanted}.`)
    if (host_wanted !== null && !host) return refusal(cloud, 'invalid', `There is no host ${host_wanted}.`)
  }
  if (realm && !realm.available) return refusal(cloud, 'capacity', `Realm ${realm.name} is not available.`)
  if (user_data && user_data.length > 65_535) return refusal(cloud, 'invalid', 'User data is too long.')
  const token = context.req.header(TOKEN_HEADER) ?? null
  const command: Command = {
    verb: 'create',
    request_seq,
    account,
    token,
    name,
    size: size ?? parsed.data.size,
    image: image ?? parsed.data.image,
    realm: realm?.name ?? realm_wanted,
    host: host?.name ?? host_wanted,
    tags,
    boot_latency_ms: null,
    boot_outcome: null,
  }
  return { subject: { ...command, attempt_id: tags[ATTEMPT_TAG] ?? token }, perform: command }
}

function prepareList(world: World, cloud: Cloud, account: string, context: WireContext): Call | Reply {
  const tag = context.req.query('tag')
  const colon = tag?.indexOf(':') ?? -1
  const filter: TagFilter | null = tag && colon > 0 ? { key: tag.slice(0, colon), value: tag.slice(colon + 1) } : null
  if (tag && (!filter || !TAG_KEY.test(filter.key))) return refusal(cloud, 'invalid', 'A tag is written key:value.')
  const cursor = context.req.query('cursor')
  if (cursor && !/^\d{1,15}$/.test(cursor)) return refusal(cloud, 'invalid', 'This cursor is not one of ours.')
  return {
    subject: { verb: 'list' },
    perform: (verdict) => {
      const lies = { ...cloud.configuration.list, ...verdict.list }
      return {
        status: 200,
        body: listMachines(world, cloud, { account, filter }, cursor ? Number(cursor) : null, lies),
      }
    },
  }
}

function readMachine(
  world: World,
  cloud: Cloud,
  context: WireContext,
  verb: Verb,
  read: (machine: MachineRow) => Reply,
): Call {
  const id = context.req.param('id') ?? ''
  return {
    subject: subjectOf(world, cloud, verb, id),
    perform: () => {
      const machine = world.store.machine(cloud.name, id)
      return machine?.listed ? read(machine) : refusal(cloud, 'not_found')
    },
  }
}

function prepareChange(
  world: World,
  cloud: Cloud,
  context: WireContext,
  verb: MachineVerb,
  body: string,
  request_seq: number,
): Call | Reply {
  const parsed = rebootRequest.safeParse(verb === 'reboot' && body !== '' ? parseJson(body) : {})
  if (!parsed.success) return refusal(cloud, 'invalid', z.prettifyError(parsed.error))
  const machine_id = context.req.param('id') ?? ''
  return {
    subject: subjectOf(world, cloud, verb, machine_id),
    perform: { verb, request_seq, machine_id, hard: parsed.data.kind === 'hard' },
  }
}

function prepareTags(
  world: World,
  cloud: Cloud,
  context: WireContext,
  verb: 'tag' | 'untag',
  body: string,
  request_seq: number,
): Call | Reply {
  const machine_id = context.req.param('id') ?? ''
  const subject = subjectOf(world, cloud, verb, machine_id)
  if (verb === 'untag') {
    const keys = context.req.queries('key') ?? []
    return { subject, perform: { verb, request_seq, machine_id, keys } }
  }
  const parsed = tagRequest.safeParse(parseJson(body))
  if (!parsed.success) return refusal(cloud, 'invalid', z.prettifyError(parsed.error))
  return { subject, perform: { verb, request_seq, machine_id, tags: parsed.data.tags } }
}

function subjectOf(world: World, cloud: Cloud, verb: Verb, machine_id: string): Subject {
  const machine = world.store.machine(cloud.name, machine_id)
  if (!machine) return { verb, machine_id }
  const { name, size, image, realm, host } = machine
  const tags = JSON.parse(machine.tags) as Record<string, string>
  return { verb, machine_id, name, size, image, realm, host, attempt_id: tags[ATTEMPT_TAG] ?? machine.token }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function stringOf(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null
}
