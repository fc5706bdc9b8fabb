/**
 * The contract every cloud type fulfils. One page: calls, capabilities, error classes. Nothing of a provider leaks
 * past it: flows see machines and the closed list of error classes only.
 */
import type { Machine, MachineState } from '../domain/machine.ts'

export type { Machine, MachineState }

/** Whose a machine is, as its tags say. */
export interface Owner {
  readonly attempt_id: string
  readonly installation_id: string
}

/** What a create asks for. Size and image are the provider's names, mapped already. */
export interface CreateMachine extends Owner {
  /** Tag and, where the provider has them, idempotency token. */
  readonly attempt_id: string
  readonly name: string
  readonly size: string
  readonly image: string
  readonly user_data?: string
  /** A key that the provider knows, for the first login. */
  readonly key_name?: string
  /** A key for the first login, as a line for `authorized_keys`. */
  readonly public_key?: string
  readonly realm?: string
  readonly subnet?: string
  /** These override the size, where the provider can. */
  readonly vcpus?: number
  readonly memory_mib?: number
  readonly disk_gib?: number
  /** The name of the host it is to run on; `invalid` where the provider has no hosts to choose from. */
  readonly host?: string
  /** The additions for this type of provider, passed through. */
  readonly extra?: Readonly<Record<string, unknown>>
}

/** Declared by the adapter, never guessed. Times are real time. */
export interface Capabilities {
  /** A create repeated with the same attempt id returns the machine of the first. */
  readonly idempotency_tokens: boolean
  /** Machines carry tags and can be listed by them. */
  readonly tags: boolean
  /** A machine that is there already can be given our tags, and lose them. */
  readonly adoption: boolean
  /** After this long past the last possible send, an unanswered create can be taken as never carried out. */
  readonly settle_ms: number
  /** A list may be this much older than its answer. */
  readonly list_lag_ms: number
  /** A single call is given up after this long. */
  readonly call_timeout_ms: number
  /** A machine that does not run this long after its create is given up, and another follows. */
  readonly boot_timeout_ms: number
  /** Smallest gap between two list calls that the provider's rate limit allows. */
  readonly list_interval_ms: number
  /** Calls of all kinds that the provider takes a second; null: no limit is known. We make no more. */
  readonly calls_per_s: number | null
  readonly console_log: boolean
  readonly hosts: boolean
}

export interface MachinePage {
  readonly machines: readonly Machine[]
  /** Opaque; null on the last page. */
  readonly next: string | null
}

export interface Named {
  readonly id: string
  readonly name: string
}
export interface Size extends Named {
  readonly vcpus: number
  readonly memory_mib: number
  readonly disk_gib: number
}
export interface Realm extends Named {
  readonly available: boolean
}
export interface Host extends Named {
  readonly vcpus: number
  readonly memory_mib: number
  readonly disk_gib: number
  readonly hypervisor_type: string
}
export type RebootKind = 'soft' | 'hard'

/**
 * One cloud account. Every call may throw `ProviderError`; no other error is expected of an adapter.
 * `signal` ends the call: the caller gave up, what was sent may still be carried out.
 */
export interface Provider {
  readonly capabilities: Capabilities
  /** Asks for one machine. An answer means the provider has accepted it, not that it runs. */
  create(machine: CreateMachine, signal: AbortSignal): Promise<Machine>
  /** `not_found` when it is not there (any more). */
  get(provider_id: string, signal: AbortSignal): Promise<Machine>
  /** One page of all machines that carry our installation's tag. */
  list(installation_id: string, cursor: string | null, signal: AbortSignal): Promise<MachinePage>
  start(provider_id: string, signal: AbortSignal): Promise<void>
  stop(provider_id: string, signal: AbortSignal): Promise<void>
  reboot(provider_id: string, kind: RebootKind, signal: AbortSignal): Promise<void>
  /** Returns when deletion was triggered; `not_found` once it is gone. Callers repeat until `not_found`. */
  delete(provider_id: string, signal: AbortSignal): Promise<void>
  /** Gives a machine our tags, whoever made it: from now on it is listed as ours. Again is the same. */
  adopt(provider_id: string, owner: Owner, signal: AbortSignal): Promise<void>
  /** Takes our tags off a machine: it lives on and is not listed as ours any more. Again is the same. */
  release(provider_id: string, signal: AbortSignal): Promise<void>
  consoleLog(provider_id: string, signal: AbortSignal): Promise<string>
  sizes(signal: AbortSignal): Promise<readonly Size[]>
  images(signal: AbortSignal): Promise<readonly Named[]>
  realms(signal: AbortSignal): Promise<readonly Realm[]>
  hosts(signal: AbortSignal): Promise<readonly Host[]>
}

/**
 * - `capacity`, `quota`: refused now, no effect; another cloud may do.
 * - `invalid`: refused for what it is, no effect; will not get better by itself.
 * - `not_found`, `conflict`: the machine is not there, or not in a state for this.
 * - `auth`: credentials refused, no effect.
 * - `throttled`: not carried out; try again after `retry_after_ms`.
 * - `unavailable`: surely not carried out (connection refused, name not resolved, the provider said so).
 * - `lost_reply`: unknown whether it was carried out (time-out, reset after send, 5xx on a write).
 */
export type ProviderErrorClass =
  | 'capacity'
  | 'quota'
  | 'invalid'
  | 'not_found'
  | 'conflict'
  | 'auth'
  | 'throttled'
  | 'unavailable'
  | 'lost_reply'

/** The only error of an adapter. `message` is our own sentence; the provider's text belongs to `evidence`, redacted. */
export class ProviderError extends Error {
  override readonly name = 'ProviderError'
  readonly class: ProviderErrorClass
  readonly retry_after_ms: number | undefined
  readonly evidence: Readonly<Record<string, unknown>>
  constructor(
    errorClass: ProviderErrorClass,
    message: string,
    options: { retry_after_ms?: number; evidence?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.class = errorClass
    this.retry_after_ms = options.retry_after_ms
    this.evidence = options.evidence ?? {}
  }
}
