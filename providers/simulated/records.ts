/** The records of the simulated cloud: machines, commands, what is due, and the lines of the ledger. */
import type { SimulatedState } from './presentation.ts'

export type BootOutcome = 'runs' | 'fails' | 'stuck'

/** One machine as it is on file. Times are milliseconds since 1970. */
export interface MachineRow {
  readonly cloud: string
  readonly account: string
  readonly id: string
  /** How manieth machine of its cloud. */
  readonly number: number
  readonly shuffle_key: number
  readonly name: string
  readonly size: string
  readonly image: string
  readonly realm: string | null
  readonly host: string | null
  /** JSON object of strings. */
  readonly tags: string
  readonly token: string | null
  readonly state: SimulatedState
  readonly raw_state_override: string | null
  readonly boot_outcome: BootOutcome
  readonly created_at: number
  readonly booted_at: number | null
  readonly delete_requested_at: number | null
  readonly gone_at: number | null
  readonly gone_how: 'deleted' | 'vanished' | null
  /** 1 while lists and gets still show it. */
  readonly listed: 0 | 1
  readonly unlisted_at: number | null
}

export type MachineVerb = 'start' | 'stop' | 'reboot' | 'delete'

/** A write as it is carried out, now or late. `request_seq` is its line in the ledger. */
export type Command =
  | {
      readonly verb: 'create'
      readonly request_seq: number
      readonly account: string
      readonly token: string | null
      readonly name: string
      readonly size: string
      readonly image: string
      readonly realm: string | null
      readonly host: string | null
      readonly tags: Readonly<Record<string, string>>
      readonly boot_latency_ms: number | null
      readonly boot_outcome: BootOutcome | null
    }
  | {
      readonly verb: MachineVerb
      readonly request_seq: number
      readonly machine_id: string
      readonly hard: boolean
    }
  | {
      readonly verb: 'tag'
      readonly request_seq: number
      readonly machine_id: string
      /** Added to those it has. */
      readonly tags: Readonly<Record<string, string>>
    }
  | {
      readonly verb: 'untag'
      readonly request_seq: number
      readonly machine_id: string
      readonly keys: readonly string[]
    }

/** What happens by itself later; on file, so that a restart changes nothing. */
export type Due =
  | {
      readonly kind: 'transition'
      readonly machine_id: string
      readonly from: SimulatedState
      readonly to: SimulatedState
      readonly why: string
    }
  | { readonly kind: 'die'; readonly machine_id: string }
  | { readonly kind: 'vanish'; readonly machine_id: string }
  | { readonly kind: 'forget'; readonly machine_id: string }
  | { readonly kind: 'late'; readonly command: Command }

export type LedgerKind = 'request' | 'answer' | 'machine' | 'control'

/** One line of the ledger; `body` depends on the kind and is spread into the line. */
export interface LedgerLine {
  readonly seq: number
  readonly at: number
  readonly kind: LedgerKind
  readonly [field: string]: unknown
}
