/** The adapter of the simulated cloud: the contract of `provider.ts` over its data API. */
import { z } from 'zod'
import type { Problem } from '../../domain/errors.ts'
import { evidenceOf, type HttpAnswer, type HttpCall, sendOnce, unknownOutcome } from '../http.ts'
import { type Capabilities, type Machine, type Provider, ProviderError, type ProviderErrorClass } from '../provider.ts'
import { classOfCode, stateOf } from './presentation.ts'
import { ATTEMPT_TAG, INSTALLATION_TAG, TOKEN_HEADER } from './tags.ts'

/** Capabilities as an operator declares them for a cloud; what is not said has a default. */
const settingsSchema = z.object({
  idempotency_tokens: z.boolean().default(false),
  tags: z.boolean().default(true),
  adoption: z.boolean().default(true),
  settle_ms: z.number().min(0).default(10_000),
  list_lag_ms: z.number().min(0).default(0),
  call_timeout_ms: z.number().int().min(1).default(5_000),
  boot_timeout_ms: z
    .number()
    .int()
    .min(1)
    .default(15 * 60_000),
  list_interval_ms: z.number().min(0).default(100),
  calls_per_s: z.number().positive().nullable().default(null),
  console_log: z.boolean().default(true),
  hosts: z.boolean().default(false),
})

export interface SimulatedProviderOptions {
  /** `http://127.0.0.1:PORT/clouds/NAME` */
  readonly endpoint: string
  readonly credential?: string | null
  readonly settings?: Readonly<Record<string, unknown>>
}

const wireMachine = z.object({
  id: z.string().min(1),
  name: z.string().nullable().default(null),
  size: z.string().nullable().default(null),
  image: z.string().nullable().default(null),
  raw_state: z.string(),
  detail: z.string().nullable(),
  tags: z.record(z.string(), z.string()),
  public_addresses: z.array(z.string()),
  private_addresses: z.array(z.string()),
  created_at: z.string().nullable(),
})
const oneMachine = z.object({ machine: wireMachine })
const machinePage = z.object({ machines: z.array(wireMachine), next: z.string().nullable() })
const figures = { id: z.string(), name: z.string(), vcpus: z.number(), memory_mib: z.number(), disk_gib: z.number() }
const sizeList = z.object({ sizes: z.array(z.object(figures)) })
const imageList = z.object({ images: z.array(z.object({ id: z.string(), name: z.string() })) })
const realmList = z.object({ realms: z.array(z.object({ id: z.string(), name: z.string(), available: z.boolean() })) })
const hostList = z.object({ hosts: z.array(z.object({ ...figures, hypervisor_type: z.string() })) })
const consoleText = z.object({ text: z.string() })
const errorBody = z.object({ error: z.object({ code: z.string(), message: z.string() }) })

type Verb = Exclude<keyof Provider, 'capabilities'>

/** What a person describes is read strictly: a word we do not know would be without effect, and never noticed. */
const describedSchema = settingsSchema.extend({ presents_as: z.enum(['openstack', 'aws']).optional() }).strict()

/** What is wrong with the description of a simulated cloud. Makes no call. */
export function findSimulatedProblems({ endpoint, settings = {} }: SimulatedProviderOptions): Problem[] {
  const { error } = describedSchema.safeParse(settings)
  const problems = error?.issues.flatMap((issue): Problem[] =>
    issue.code === 'unrecognized_keys'
      ? issue.keys.map((key) => ({
          path: `settings.${key}`,
          reason: 'is not a setting of simulated clouds',
          accepted: Object.keys(describedSchema.shape),
        }))
      : [{ path: ['settings', ...issue.path].join('.'), reason: issue.message }],
  )
  return [
    ...(problems ?? []),
    ...(isAddress(endpoint) ? [] : [{ path: 'endpoint', reason: 'is not an http(s) address' }]),
  ]
}

const isAddress = (endpoint: string): boolean => /^https?:$/.test(URL.parse(endpoint)?.protocol ?? '')

/** Makes the adapter for one simulated cloud. Makes no call. Throws `invalid` on settings that make no sense. */
export function createSimulatedProvider(options: SimulatedProviderOptions): Provider {
  const parsed = settingsSchema.safeParse(options.settings ?? {})
  if (!parsed.success) {
    throw new ProviderError('invalid', 'The settings of the cloud are not valid.', {
      evidence: { problems: z.prettifyError(parsed.error) },
    })
  }
  if (!isAddress(options.endpoint)) {
    throw new ProviderError('invalid', 'The endpoint of the cloud is not an address.')
  }
  const { tags, adoption } = parsed.data
  const capabilities: Capabilities = { ...parsed.data, adoption: adoption && tags }
  const endpoint = options.endpoint.replace(/\/+$/, '')
  const credential = options.credential ?? null
  const secrets = credential === null ? [] : [credential]

  const send = async <Shape extends z.ZodType>(
    verb: Verb,
    method: HttpCall['method'],
    path: string,
    shape: Shape,
    signal: AbortSignal,
    more: { body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<z.output<Shape>> => {
    const call: HttpCall = {
      verb,
      method,
      url: `${endpoint}${path}`,
      headers: { ...(credential === null ? {} : { authorization: `Bearer ${credential}` }), ...more.headers },
      body: more.body,
      is_write: method !== 'GET',
      timeout_ms: capabilities.call_timeout_ms,
      signal,
      secrets,
    }
    const answer = await sendOnce(call)
    if (answer.status >= 200 && answer.status < 300) {
      const understood = shape.safeParse(parseJson(answer.text))
      if (understood.success) return understood.data
      const told = { status: answer.status, text: answer.text }
      throw unknownOutcome(call, 'The cloud answered in a way that cannot be read.', told)
    }
    throw refusalOf(call, answer)
  }
  const machinePath = (provider_id: string) => `/machines/${encodeURIComponent(provider_id)}`
  const unsupported = (what: string) => new ProviderError('invalid', `This cloud has no ${what}.`)

  return {
    capabilities,
    async create({ attempt_id, installation_id, ...machine }, signal) {
      if (machine.host !== undefined && !capabilities.hosts) throw unsupported('hosts to choose from')
      const body = { ...machine, tags: { [INSTALLATION_TAG]: installation_id, [ATTEMPT_TAG]: attempt_id } }
      const headers: Record<string, string> = capabilities.idempotency_tokens ? { [TOKEN_HEADER]: attempt_id } : {}
      const created = await send('create', 'POST', '/machines', oneMachine, signal, { body, headers })
      return machineOf(created.machine)
    },
    async get(provider_id, signal) {
      return machineOf((await send('get', 'GET', machinePath(provider_id), oneMachine, signal)).machine)
    },
    async list(installation_id, cursor, signal) {
      const query = new URLSearchParams()
      if (capabilities.tags) query.set('tag', `${INSTALLATION_TAG}:${installation_id}`)
      if (cursor !== null) query.set('cursor', cursor)
      const page = await send('list', 'GET', `/machines?${query}`, machinePage, signal)
      // Whatever the cloud lists, machines of others are none of our business.
      const ours = page.machines.filter(({ tags }) => !capabilities.tags || tags[INSTALLATION_TAG] === installation_id)
      return { machines: ours.map(machineOf), next: page.next }
    },
    async start(provider_id, signal) {
      await send('start', 'POST', `${machinePath(provider_id)}/start`, oneMachine, signal)
    },
    async stop(provider_id, signal) {
      await send('stop', 'POST', `${machinePath(provider_id)}/stop`, oneMachine, signal)
    },
    async reboot(provider_id, kind, signal) {
      await send('reboot', 'POST', `${machinePath(provider_id)}/reboot`, oneMachine, signal, { body: { kind } })
    },
    async delete(provider_id, signal) {
      const { machine } = await send('delete', 'DELETE', machinePath(provider_id), oneMachine, signal)
      // Some providers go on showing a machine that is gone; for the contract it is not there any more.
      if (machineOf(machine).state === 'terminated') throw new ProviderError('not_found', 'The machine is gone.')
    },
    async adopt(provider_id, { attempt_id, installation_id }, signal) {
      if (!capabilities.adoption) throw unsupported('tags for machines that are there already')
      const body = { tags: { [INSTALLATION_TAG]: installation_id, [ATTEMPT_TAG]: attempt_id } }
      await send('adopt', 'PUT', `${machinePath(provider_id)}/tags`, oneMachine, signal, { body })
    },
    async release(provider_id, signal) {
      if (!capabilities.adoption) throw unsupported('tags to be taken off')
      const keys = [INSTALLATION_TAG, ATTEMPT_TAG].map((key) => `key=${key}`).join('&')
      await send('release', 'DELETE', `${machinePath(provider_id)}/tags?${keys}`, oneMachine, signal)
    },
    async consoleLog(provider_id, signal) {
      if (!capabilities.console_log) throw unsupported('console log')
      return (await send('consoleLog', 'GET', `${machinePath(provider_id)}/console`, consoleText, signal)).text
    },
    async sizes(signal) {
      return (await send('sizes', 'GET', '/sizes', sizeList, signal)).sizes
    },
    async images(signal) {
      return (await send('images', 'GET', '/images', imageList, signal)).images
    },
    async realms(signal) {
      return (await send('realms', 'GET', '/realms', realmList, signal)).realms
    },
    async hosts(signal) {
      if (!capabilities.hosts) throw unsupported('hosts to look at')
      return (await send('hosts', 'GET', '/hosts', hostList, signal)).hosts
    },
  }
}

function machineOf(wire: z.output<typeof wireMachine>): Machine {
  return {
    provider_id: wire.id,
    attempt_id: wire.tags[ATTEMPT_TAG] ?? null,
    state: stateOf(wire.raw_state, wire.detail),
    raw_state: wire.detail === null ? wire.raw_state : `${wire.raw_state} (${wire.detail})`,
    public_addresses: wire.public_addresses,
    private_addresses: wire.private_addresses,
    created_at: wire.created_at,
    name: wire.name,
    size: wire.size,
    image: wire.image,
    installation_id: wire.tags[INSTALLATION_TAG] ?? null,
  }
}

const SENTENCES: Readonly<Record<Exclude<ProviderErrorClass, 'lost_reply'>, string>> = {
  capacity: 'The cloud has no room for this machine.',
  quota: 'The quota at the cloud is used up.',
  invalid: 'The cloud does not accept this request.',
  not_found: 'The cloud does not have this machine.',
  conflict: 'The machine is not in a state for this.',
  auth: 'The cloud refused the credential.',
  throttled: 'The cloud asks for fewer calls.',
  unavailable: 'The cloud says it is not available and has done nothing.',
}

/** A code we know decides; without one the status does, and a bare 5xx leaves open what was done. */
function refusalOf(call: HttpCall, answer: HttpAnswer): ProviderError {
  const { status, text } = answer
  const parsed = errorBody.safeParse(parseJson(text))
  const code = parsed.success ? parsed.data.error.code : undefined
  const told = { status, code, text: parsed.success ? parsed.data.error.message : text }
  const errorClass = (code === undefined ? null : classOfCode(code)) ?? classOfStatus(status)
  if (errorClass === null) return unknownOutcome(call, 'The cloud failed to answer properly.', told)
  const retry_after_ms = retryAfter(answer)
  return new ProviderError(errorClass, SENTENCES[errorClass], {
    evidence: evidenceOf(call, told),
    ...(retry_after_ms === undefined ? {} : { retry_after_ms }),
  })
}

function classOfStatus(status: number): keyof typeof SENTENCES | null {
  if (status === 429) return 'throttled'
  if (status === 401 || status === 403) return 'auth'
  if (status === 409) return 'conflict'
  // A 404 without the provider's own code may be a wrong address: no proof that a machine is gone.
  if (status >= 300 && status < 500 && status !== 408) return 'invalid'
  return null
}

function retryAfter({ headers }: HttpAnswer): number | undefined {
  const exact_ms = Number(headers['x-retry-after-ms'])
  if (Number.isFinite(exact_ms)) return exact_ms
  const whole_s = Number(headers['retry-after'])
  return Number.isFinite(whole_s) ? whole_s * 1000 : undefined
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
