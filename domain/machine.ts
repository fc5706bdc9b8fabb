/** A machine at a cloud, in the words that all providers are translated to. */

/** What a machine is at its provider, in our words. `unknown` is a raw state the adapter has no word for. */
export type MachineState =
  | 'pending'
  | 'starting'
  | 'running'
  | 'stopping'
  | 'stopped'
  | 'rebooting'
  | 'terminating'
  | 'terminated'
  | 'failed'
  | 'unknown'

/** One machine as its provider tells it. */
export interface Machine {
  readonly provider_id: string
  /** The attempt id the machine was created with, or null where it carries none. */
  readonly attempt_id: string | null
  readonly state: MachineState
  /** The provider's own word, kept as evidence. */
  readonly raw_state: string
  readonly public_addresses: readonly string[]
  readonly private_addresses: readonly string[]
  readonly created_at: string | null
  /** What else its provider tells of it, in the provider's names; left out: nothing. */
  readonly name?: string | null
  readonly size?: string | null
  readonly image?: string | null
  /** The installation it is tagged with. */
  readonly installation_id?: string | null
}
