/** Launch orders: what is asked for, and what a lease keeps to launch later. The decisions are in order/decide.ts. */

export type OrderPolicy = 'all' | 'at_least' | 'any'

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
  readonly extra?: Readonly<Record<string, Readonly<Record<string, unknown>>>>
  readonly priority?: number
}
