/**
 * How a simulated cloud presents itself: the words, names and error codes of the provider type it plays. The server
 * speaks them and the adapter translates them back, so mapping mistakes show up as they would with a real provider.
 */
import type { MachineState, ProviderErrorClass } from '../provider.ts'

export type Presentation = 'openstack' | 'aws'
/** What the simulated cloud itself knows; every state but the one that means "no word for it". */
export type SimulatedState = Exclude<MachineState, 'unknown'>
/** Error classes a cloud can answer with; a lost reply is no answer. */
export type AnsweredClass = Exclude<ProviderErrorClass, 'lost_reply'>

export interface RawState {
  readonly raw_state: string
  /** What else the provider tells beside its state: Nova's task state, EC2's status check. */
  readonly detail: string | null
}

const plain = (raw_state: string): RawState => ({ raw_state, detail: null })

/** A machine's state in the provider's words. */
export const RAW_STATES: Readonly<Record<Presentation, Readonly<Record<SimulatedState, RawState>>>> = {
  openstack: {
    pending: plain('BUILD'),
    starting: { raw_state: 'SHUTOFF', detail: 'powering-on' },
    running: plain('ACTIVE'),
    stopping: { raw_state: 'ACTIVE', detail: 'powering-off' },
    stopped: plain('SHUTOFF'),
    rebooting: plain('REBOOT'),
    terminating: { raw_state: 'ACTIVE', detail: 'deleting' },
    terminated: plain('DELETED'),
    failed: plain('ERROR'),
  },
  aws: {
    pending: plain('pending'),
    // EC2 shows a machine that starts again with the word of a new one, and does not show a reboot at all.
    starting: plain('pending'),
    running: plain('running'),
    stopping: plain('stopping'),
    stopped: plain('stopped'),
    rebooting: plain('running'),
    terminating: plain('shutting-down'),
    terminated: plain('terminated'),
    failed: { raw_state: 'running', detail: 'impaired' },
  },
}

const STATE_BY_RAW: ReadonlyMap<string, MachineState> = new Map(
  Object.values(RAW_STATES).flatMap((states) =>
    (Object.entries(states) as [SimulatedState, RawState][])
      .reverse() // of two states with the same word the first one wins
      .map(([state, raw]): [string, MachineState] => [rawKey(raw.raw_state, raw.detail), state]),
  ),
)

function rawKey(raw_state: string, detail: string | null): string {
  return detail === null ? raw_state : `${raw_state}/${detail}`
}

/** The provider's words in ours. A state nobody knows is `unknown`, never a guess; an unknown detail is left aside. */
export function stateOf(raw_state: string, detail: string | null): MachineState {
  return STATE_BY_RAW.get(rawKey(raw_state, detail)) ?? STATE_BY_RAW.get(raw_state) ?? 'unknown'
}

export interface ErrorCode {
  readonly status: number
  readonly code: string
  readonly message: string
}

/** The codes a cloud refuses with. The code decides, not the status: some providers refuse with 5xx. */
export const ERROR_CODES: Readonly<Record<Presentation, Readonly<Record<AnsweredClass, ErrorCode>>>> = {
  openstack: {
    capacity: { status: 500, code: 'NoValidHost', message: 'No valid host was found. There are not enough hosts.' },
    quota: { status: 403, code: 'OverQuota', message: 'Quota exceeded for instances.' },
    invalid: { status: 400, code: 'badRequest', message: 'Invalid input.' },
    not_found: { status: 404, code: 'itemNotFound', message: 'Instance could not be found.' },
    conflict: {
      status: 409,
      code: 'conflictingRequest',
      message: 'Cannot do this while the instance is in its state.',
    },
    auth: { status: 401, code: 'unauthorized', message: 'The request you have made requires authentication.' },
    throttled: { status: 429, code: 'overLimit', message: 'This request was rate-limited.' },
    unavailable: { status: 503, code: 'serviceUnavailable', message: 'Service unavailable; nothing was done.' },
  },
  aws: {
    capacity: { status: 500, code: 'InsufficientInstanceCapacity', message: 'We do not have sufficient capacity.' },
    quota: { status: 400, code: 'InstanceLimitExceeded', message: 'You have requested more instances than allowed.' },
    invalid: { status: 400, code: 'InvalidParameterValue', message: 'A parameter value is not valid.' },
    not_found: { status: 404, code: 'InvalidInstanceID.NotFound', message: 'The instance ID does not exist.' },
    conflict: { status: 409, code: 'IncorrectInstanceState', message: 'The instance is not in a state for this.' },
    auth: { status: 401, code: 'AuthFailure', message: 'Not able to validate the provided access credentials.' },
    throttled: { status: 429, code: 'RequestLimitExceeded', message: 'Request limit exceeded.' },
    unavailable: { status: 503, code: 'Unavailable', message: 'The service is unavailable; nothing was done.' },
  },
}

const CLASS_BY_CODE: ReadonlyMap<string, AnsweredClass> = new Map(
  Object.values(ERROR_CODES).flatMap((codes) =>
    (Object.entries(codes) as [AnsweredClass, ErrorCode][]).map(([errorClass, { code }]): [string, AnsweredClass] => [
      code,
      errorClass,
    ]),
  ),
)

/** The error class of a provider's code, or null for a code nobody knows. */
export function classOfCode(code: string): AnsweredClass | null {
  return CLASS_BY_CODE.get(code) ?? null
}

export interface CatalogSize {
  readonly id: string
  readonly name: string
  readonly vcpus: number
  readonly memory_mib: number
  readonly disk_gib: number
}
export interface CatalogHost extends CatalogSize {
  readonly hypervisor_type: string
}
export interface Catalog {
  readonly sizes: CatalogSize[]
  readonly images: { readonly id: string; readonly name: string }[]
  readonly realms: { readonly id: string; readonly name: string; readonly available: boolean }[]
  readonly hosts: CatalogHost[]
}

function size(id: string, name: string, vcpus: number, memory_mib: number, disk_gib: number): CatalogSize {
  return { id, name, vcpus, memory_mib, disk_gib }
}

function host(number: number): CatalogHost {
  const name = `compute-${number}`
  return { id: `${number}`, name, vcpus: 32, memory_mib: 131_072, disk_gib: 1_000, hypervisor_type: 'QEMU' }
}

/** What a cloud offers unless its configuration says otherwise. */
export const CATALOGS: Readonly<Record<Presentation, Catalog>> = {
  openstack: {
    sizes: [
      size('1', 'm1.tiny', 1, 512, 1),
      size('2', 'm1.small', 1, 2_048, 20),
      size('3', 'm1.medium', 2, 4_096, 40),
      size('4', 'm1.large', 4, 8_192, 80),
      size('5', 'm1.xlarge', 8, 16_384, 160),
    ],
    images: [
      { id: '6f1c7e0a-2f0b-4c55-9d0e-7a5f3b1c0001', name: 'ubuntu-24.04' },
      { id: '6f1c7e0a-2f0b-4c55-9d0e-7a5f3b1c0002', name: 'debian-13' },
      { id: '6f1c7e0a-2f0b-4c55-9d0e-7a5f3b1c0003', name: 'rocky-9' },
    ],
    realms: [{ id: 'nova', name: 'nova', available: true }],
    hosts: [host(1), host(2), host(3), host(4)],
  },
  aws: {
    sizes: [
      size('t3.micro', 't3.micro', 2, 1_024, 8),
      size('t3.small', 't3.small', 2, 2_048, 8),
      size('t3.medium', 't3.medium', 2, 4_096, 8),
      size('m5.large', 'm5.large', 2, 8_192, 8),
      size('m5.xlarge', 'm5.xlarge', 4, 16_384, 8),
    ],
    images: [
      { id: 'ami-0a1b2c3d4e5f60001', name: 'ubuntu-24.04' },
      { id: 'ami-0a1b2c3d4e5f60002', name: 'debian-13' },
      { id: 'ami-0a1b2c3d4e5f60003', name: 'amazon-linux-2023' },
    ],
    realms: [
      { id: 'eu-west-1a', name: 'eu-west-1a', available: true },
      { id: 'eu-west-1b', name: 'eu-west-1b', available: true },
    ],
    hosts: [],
  },
}
