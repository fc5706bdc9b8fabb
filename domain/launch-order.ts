/** Launch orders: what is asked for, and what a lease keeps to launch later. The decisions are in order/decide.ts. */

export type OrderPolicy = 'all' | 'at_least' | 'any'

/** What is done for a machine that dies after it ran. */
export const HEALINGS = ['none', 'restart', 'replace', 'notify'] as const
export type Healing = (typeof HEALINGS)[number]

/** In which order an instance tries its clouds: as listed, each instance from another on, or the cheapest first. */
export const PLACEMENTS = ['in_order', 'spread', 'cheapest'] as const
export type Placement = (typeof PLACEMENTS)[number]

/** Errors an instance may meet at its clouds that can be counted against it. */
export const RETRY_CLASSES = [
  'capacity',
  'quota',
  'invalid',
  'not_found',
  'conflict',
  'auth',
  'unavailable',
  'lost_reply',
  'boot_failed',
] as const
/** How many more tries an instance gets after an error of a class, over all its clouds. */
export type RetryBudget = Readonly<Partial<Record<(typeof RETRY_CLASSES)[number], number>>>

/** What is asked of a provider for one instance besides its name, size and image. What is left out is the provider's. */
export interface InstanceSpec {
  /** A key the provider knows, for the first login. */
  readonly key_name?: string
  readonly realm?: string
  /** The cloud's own name of it. */
  readonly subnet?: string
  /** These override the size, where the provider can. */
  readonly vcpus?: number
  readonly memory_mib?: number
  readonly disk_gib?: number
  /** The host it is to run on; where the provider has hosts. */
  readonly host?: string
}

/** Provider specific additions by type of provider: only those of the target's type are used. */
export type Extra = Readonly<Record<string, Readonly<Record<string, unknown>>>>

/** A launch order as asked for; names of clouds, size and image are ours, checked against the record. */
export interface OrderTemplate {
  readonly name: string
  readonly deployment?: string
  readonly count: number
  readonly policy: OrderPolicy
  /** With `at_least`: how many must run. */
  readonly at_least?: number
  /** In order of preference. */
  readonly clouds: readonly string[]
  readonly size: string
  readonly image: string
  readonly user_data?: string
  readonly extra?: Extra
  readonly priority?: number
  /** ISO 8601; by when as many must run as its policy says, else it is undone. */
  readonly deadline_at?: string
  /** It waits for its clouds to change their minds instead of giving up. */
  readonly hold?: boolean
  /** Left out: in order. */
  readonly placement?: Placement
  readonly retry_budget?: RetryBudget
  readonly healing?: Healing
  /** How many of its deployment may be healed at once; left out: a fifth. */
  readonly healing_max?: number
}
