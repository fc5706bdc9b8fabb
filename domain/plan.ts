/** What planning a noun gives back to its flow: small steps made of ids, or a time to look again, or the end. */

/** One piece of work for an activity. Steps with the same key are the same work: a running one is not started twice. */
export interface Step {
  /** Stable over plans, for example `create/3`. */
  readonly key: string
  readonly activity:
    | 'createInstances'
    | 'deleteInstances'
    | 'terminateInstance'
    | 'actOnInstance'
    | 'tagInstance'
    | 'nameInstance'
    | 'recordInstance'
    | 'attemptDelivery'
  readonly args: readonly (string | number)[]
  /** No cloud takes the last free place while another has work; `''` where no cloud is concerned. */
  readonly cloud: string
  /** One line for the Temporal UI. */
  readonly summary: string
}

/** A step that keeps failing, as its flow sees it. */
export interface Failing {
  /** The step's key. */
  readonly step: string
  /** One sentence. */
  readonly reason: string
}

export interface Plan {
  readonly steps: readonly Step[]
  /** When to look again without being woken; null: only when woken or a step ends. */
  readonly sleep_ms: number | null
  /** What is waited for. */
  readonly why: string
  /** Nothing is left to do: the flow may return. */
  readonly done: boolean
  readonly state: string
  /** Markdown for the Temporal UI: state, counts, blocker. */
  readonly details: string
}

/** A flow looks again at least this often, however far its next moment is (a timer that long is cheap, a lost one dear). */
export const SLEEP_MAX_MS = 30 * 24 * 3_600_000
/** A noun that waits for its steps or a wake alone is looked at after this, should what it waits for be lost. */
export const LOST_WAKE_MS = 30_000
/** Steps of one flow that run side by side. */
export const STEPS_MAX = 8
/** Machines created or deleted by one activity. */
export const BATCH_SIZE = 25
