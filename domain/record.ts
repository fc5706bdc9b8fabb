/** Words that every noun of the record shares. */

/** Why a change happened. `actor` or `rule`, what was seen, and the event that brought it about. */
export interface Cause {
  /** Who asked: user, and the request by which. */
  readonly actor?: { readonly user_id: string; readonly request_id: string }
  /** Which rule of ours acted. */
  readonly rule?: string
  /** One sentence for people. */
  readonly reason: string
  /** What was observed, with its time. Never a secret, never a provider's text beyond its redacted excerpt. */
  readonly evidence?: Readonly<Record<string, unknown>>
  /** Id of the event that caused this one. */
  readonly event?: string
}

/** What holds up a noun, since when, and when it is tried again. Setting or clearing one is an event. */
export interface Blocker {
  readonly code: string
  readonly reason: string
  readonly since: string
  readonly next_try_at?: string
}

/** A provider's answer as kept with an attempt. */
export interface AttemptError {
  readonly class: string
  readonly message: string
  readonly at: string
  readonly evidence?: Readonly<Record<string, unknown>>
}

export interface HookFilter {
  readonly types?: readonly string[]
  readonly resource_type?: string
  readonly resource_id?: string
  readonly deployment_id?: string
}

export type Role = 'operator' | 'member' | 'reader' | 'monitor'
