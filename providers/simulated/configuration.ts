/**
 * What a simulated cloud can be told: its configuration and its faults, checked where they come in. Every field has
 * a default, so `{}` is a working cloud.
 */
import { z } from 'zod'
import { CATALOGS } from './presentation.ts'

const milliseconds = z.number().min(0)
const probability = z.number().min(0).max(1)

/** A time that is drawn: a number is fixed. */
const latency = z.union([
  milliseconds,
  z.strictObject({ uniform_ms: z.tuple([milliseconds, milliseconds]) }),
  z.strictObject({ exponential_ms: z.number().positive() }),
])
export type Latency = z.infer<typeof latency>

const place = z.strictObject({
  size: z.string().optional(),
  image: z.string().optional(),
  realm: z.string().optional(),
  host: z.string().optional(),
})
export type Place = z.infer<typeof place>

/** What may differ per size, image, realm or host. */
const behaviour = z.strictObject({
  /** From the create to running. */
  boot_latency_ms: latency,
  boot_failure_probability: probability,
  /** Before any call is carried out. */
  call_latency_ms: latency,
  /** Before a create is carried out, on top of the above. */
  create_latency_ms: latency,
  start_latency_ms: latency,
  stop_latency_ms: latency,
  reboot_latency_ms: latency,
  /** From the delete to gone. */
  delete_latency_ms: latency,
  /** Machines alive at once; in a rule it counts the machines the rule matches. */
  capacity: z.number().int().min(0).nullable(),
  /** Life from boot to failed, or to gone without a trace; null: never by itself. */
  die_after_ms: latency.nullable(),
  vanish_after_ms: latency.nullable(),
})
export type Behaviour = z.infer<typeof behaviour>

const DEFAULT_BEHAVIOUR: Behaviour = {
  boot_latency_ms: 500,
  boot_failure_probability: 0,
  call_latency_ms: 0,
  create_latency_ms: 0,
  start_latency_ms: 200,
  stop_latency_ms: 200,
  reboot_latency_ms: 200,
  delete_latency_ms: 200,
  capacity: null,
  die_after_ms: null,
  vanish_after_ms: null,
}

const rule = behaviour.partial().extend({ match: place })
export type Rule = z.infer<typeof rule>

const named = { id: z.string().min(1), name: z.string().min(1) }
const capacityFigures = { vcpus: z.number().min(0), memory_mib: z.number().min(0), disk_gib: z.number().min(0) }

const listBehaviour = z.strictObject({
  /** A list shows the state as it was this long ago. */
  lag_ms: milliseconds.default(0),
  /** Machines left out, drawn once per machine. */
  omit_probability: probability.default(0),
  /** Pages in an order of their own instead of the order of creation. */
  shuffle: z.boolean().default(false),
  /** Entries told twice, on their page and again at the start of the next. */
  duplicate_probability: probability.default(0),
})
export type ListBehaviour = z.infer<typeof listBehaviour>

const rawStates = z.strictObject({
  pending: z.string().optional(),
  starting: z.string().optional(),
  running: z.string().optional(),
  stopping: z.string().optional(),
  stopped: z.string().optional(),
  rebooting: z.string().optional(),
  terminating: z.string().optional(),
  terminated: z.string().optional(),
  failed: z.string().optional(),
})

const key = z.string().min(1)

/** A cloud's configuration as it comes in. */
export const cloudConfiguration = z
  .strictObject({
    presents_as: z.enum(['openstack', 'aws']).default('openstack'),
    seed: z.number().int().default(1),
    /** Accepted bearer keys; empty: open to all. Each account sees its own machines only; keys without one share one. */
    api_keys: z.array(z.union([key, z.strictObject({ key, account: z.string().min(1) })])).default([]),
    /** Default: true for aws, false for openstack, as the real ones. */
    idempotency_tokens: z.boolean().optional(),
    tags: z.boolean().default(true),
    console_log: z.boolean().default(true),
    addresses: z.enum(['both', 'private', 'none']).default('both'),
    page_size: z.number().int().min(2).max(5_000).default(200),
    /** How long a gone machine is still shown as terminated. Default: 60 s for aws, 0 for openstack. */
    terminated_visible_ms: milliseconds.optional(),
    /** Words used instead of the provider's own, to invent states nobody knows. */
    raw_states: rawStates.default({}),
    /** Takes sizes and images that are not in the catalogue. */
    accept_any_names: z.boolean().default(false),
    sizes: z.array(z.strictObject({ ...named, ...capacityFigures })).optional(),
    images: z.array(z.strictObject(named)).optional(),
    realms: z.array(z.strictObject({ ...named, available: z.boolean().default(true) })).optional(),
    hosts: z
      .array(z.strictObject({ ...named, ...capacityFigures, hypervisor_type: z.string().default('QEMU') }))
      .optional(),
    list: listBehaviour.prefault({}),
    rate_limit: z
      .strictObject({ calls_per_s: z.number().positive(), burst: z.number().int().min(1).default(1) })
      .nullable()
      .default(null),
    rules: z.array(rule).default([]),
    /** So many lines back (of all clouds of the server) the ledger is kept; lines about machines always are. */
    ledger_lines: z.number().int().min(1_000).default(500_000),
  })
  .extend(behaviour.partial().shape)
  .transform((input) => ({
    ...CATALOGS[input.presents_as],
    ...DEFAULT_BEHAVIOUR,
    idempotency_tokens: input.presents_as === 'aws',
    terminated_visible_ms: input.presents_as === 'aws' ? 60_000 : 0,
    ...input,
  }))
export type CloudConfigurationInput = z.input<typeof cloudConfiguration>
export type CloudConfiguration = z.output<typeof cloudConfiguration>

export const VERBS = [
  'create',
  'get',
  'list',
  'start',
  'stop',
  'reboot',
  'delete',
  'tag',
  'untag',
  'console',
  'sizes',
  'images',
  'realms',
  'hosts',
] as const
export type Verb = (typeof VERBS)[number]

const verb = z.enum(VERBS)
const answeredClass = z.enum([
  'capacity',
  'quota',
  'invalid',
  'not_found',
  'conflict',
  'auth',
  'throttled',
  'unavailable',
])
/** How a reply fails to arrive. */
const breakage = z.enum(['reset', 'close', 'truncate', 'garbage', 'hang'])
export type Breakage = z.infer<typeof breakage>

const effect = z.discriminatedUnion('kind', [
  /** Refused with an error class in the provider's words; nothing is carried out. */
  z.strictObject({
    kind: z.literal('error'),
    class: answeredClass,
    retry_after_ms: milliseconds.optional(),
    message: z.string().optional(),
  }),
  /** Any answer at all, with nothing carried out. */
  z.strictObject({
    kind: z.literal('answer'),
    status: z.number().int().min(200).max(599),
    body: z.unknown().optional(),
  }),
  /** Carried out, but the reply does not arrive. */
  z.strictObject({ kind: z.literal('lost_reply'), how: breakage.default('reset') }),
  /** The reply does not arrive; carried out `after_ms` later, even if the server was restarted meanwhile. */
  z.strictObject({ kind: z.literal('late'), after_ms: milliseconds, how: breakage.default('reset') }),
  /** No reply and nothing carried out; with `for_ms` the call goes on normally after that time. */
  z.strictObject({ kind: z.literal('hang'), for_ms: milliseconds.optional() }),
  /** Not reachable: connection broken, or a bare 503 as from a gateway. */
  z.strictObject({ kind: z.literal('down'), how: z.enum(['reset', 'close', '503']).default('reset') }),
  /** Answered as done, but nothing is carried out. */
  z.strictObject({ kind: z.literal('ignored') }),
  /** Carried out later than usual; combines with other faults. */
  z.strictObject({ kind: z.literal('delay'), latency_ms: latency }),
  /** The machine being created boots differently. */
  z.strictObject({
    kind: z.literal('boot'),
    latency_ms: latency.optional(),
    outcome: z.enum(['runs', 'fails', 'stuck']).default('runs'),
  }),
  /** This list lies. */
  z.strictObject({ kind: z.literal('list'), ...listBehaviour.partial().shape }),
])
export type Effect = z.infer<typeof effect>

/** A fault as it comes in: whom it meets, when, and what happens then. */
export const faultInput = z.strictObject({
  id: z.string().min(1).max(100).optional(),
  match: place
    .extend({
      verb: z.union([verb, z.array(verb)]).optional(),
      name: z.string().optional(),
      machine_id: z.string().optional(),
      attempt_id: z.string().optional(),
    })
    .prefault({}),
  /** Starts at the n-th call that matches. */
  from: z.number().int().min(1).default(1),
  /** Strikes so often; null: as long as it exists. */
  times: z.number().int().min(1).nullable().default(null),
  probability: probability.default(1),
  /** Ends this long after it was set. */
  for_ms: milliseconds.nullable().default(null),
  effect,
})
export type FaultInput = z.input<typeof faultInput>

/** A fault in force. */
export interface Fault extends Omit<z.output<typeof faultInput>, 'id'> {
  readonly id: string
  readonly number: number
  readonly set_at: number
  /** Calls that matched, and calls it struck. */
  matched: number
  struck: number
}
