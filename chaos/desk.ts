/** What every job of the load has at hand. */
import type { Chance } from './chance.ts'
import type { Promised } from './checker/ledgers.ts'
import type { Asked, Client } from './client.ts'
import type { Clouds } from './clouds.ts'
import type { Subscribers } from './subscribers.ts'

export type Fields = Readonly<Record<string, unknown>>

export interface Desk {
  readonly clouds: Clouds
  readonly subscribers: Subscribers
  /** Waits, unless the load is over: false. */
  pass(ms: number): Promise<boolean>
  /** Asks until it is answered; null: refused with one of the statuses in `also`, or to the load's dismay. */
  ask(client: Client, asked: Asked, ...also: number[]): Promise<Fields | null>
  /** A name that nothing else has. */
  name(of: string): string
  /** Whether one more may be left standing until the end. */
  mayStand(): boolean
}

/** One job: every draw first or by `draw`, so that the seed decides. */
export type Job = (desk: Desk, draw: Chance, client: Client) => Promise<void>

const PLACES = [['crowded', 'tokens'], ['tokens', 'crowded'], ['crowded'], ['tokens']]
/** Mostly small; all sizes up to ten. */
const COUNTS = [1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8, 10]

/** Machines to order, and what that promises. */
export function machinesOf(draw: Chance): { body: Fields & { clouds: readonly string[] }; promised: Promised } {
  const count = draw.pick(COUNTS)
  const policy = draw.pick(['all', 'any', 'at_least'] as const)
  const promised = { count, policy, ...(policy === 'at_least' ? { at_least: draw.whole(1, count) } : {}) }
  return { body: { size: 'small', image: 'debian', clouds: draw.pick(PLACES), ...promised }, promised }
}

export interface Made {
  readonly id: string
  readonly deployment: { readonly id: string }
}

/** Places an order; null: it was refused. */
export async function placeOrder(desk: Desk, client: Client, body: Fields, promised: Promised): Promise<Made | null> {
  const asked = { method: 'POST', path: '/api/launch-orders', body: { name: desk.name('web'), ...body } }
  const made = await desk.ask(client, { kind: 'order', promised, ...asked })
  return made && (made.launch_order as Made)
}

export const endOrder = (desk: Desk, client: Client, id: string): Promise<Fields | null> =>
  desk.ask(client, { kind: 'cancel', method: 'DELETE', path: `/api/launch-orders/${id}`, resource_id: id })

export interface Member {
  readonly id: string
  readonly cloud: string | null
  readonly provider_id: string | null
}

/** Instances of an order, in a steady order; none: not to be told now. */
export async function membersOf(client: Client, order_id: string): Promise<Member[]> {
  const found = await client.look(`/api/launch-orders/${order_id}/instances`)
  return ((found?.instances ?? []) as Member[]).toSorted((a, b) => (a.id < b.id ? -1 : 1))
}
