/** Jobs that make and end: orders, leases, hooks. */
import type { Chance } from './chance.ts'
import type { Client } from './client.ts'
import { CLOUDS, GUEST_KEY } from './clouds.ts'
import { type Desk, endOrder, type Job, machinesOf, membersOf, placeOrder } from './desk.ts'

const HOUR_MS = 3_600_000

/**
 * An order that is ended at once, withdrawn, loses a member, is left standing, or is ended after a while; one of five with
 * an account of its own.
 */
export const order: Job = async (desk, draw, client) => {
  const { body, promised } = machinesOf(draw)
  const [fate, patience_ms] = [draw.next(), draw.whole(4_000, 25_000)]
  const [soon_ms, member, guest] = [draw.whole(0, 2_500), draw.next(), draw.next() < 0.2]
  const credentials = body.clouds.map((cloud) => ({ cloud, secret: GUEST_KEY }))
  const made = await placeOrder(desk, client, guest ? { ...body, credentials } : body, promised)
  if (!made) return
  const { id } = made
  if (fate < 0.2) {
    if (await desk.pass(soon_ms)) await endOrder(desk, client, id)
    return
  }
  if (fate < 0.3) {
    // 409: it runs by now.
    const path = `/api/cloud_state/launch_orders/${id}`
    if (!(await desk.pass(soon_ms))) return
    await desk.ask(client, { kind: 'withdraw', method: 'DELETE', path, resource_id: id }, 409)
  } else if (fate < 0.45) {
    if (!(await desk.pass(soon_ms))) return
    await terminateMember(desk, client, id, member)
  }
  if (fate > 0.9 && desk.mayStand()) return
  if (await desk.pass(patience_ms)) await endOrder(desk, client, id)
}

async function terminateMember(desk: Desk, client: Client, order_id: string, member: number): Promise<void> {
  const members = await membersOf(client, order_id)
  const found = members[Math.floor(member * members.length)]
  if (!found) return
  const promised = { action: 'terminate' }
  const path = `/api/instances/${found.id}/actions`
  const asked = { kind: 'terminate', method: 'POST', path, body: promised, resource_id: found.id } as const
  await desk.ask(client, { ...asked, promised }, 409)
}

/** A lease of seconds to a minute; some are left standing. A repeat may come too late for its moments. */
export const lease: Job = async (desk, draw, client) => {
  const start_in_ms = draw.pick([0, 0, 1_500, 3_000])
  const lasts_ms = draw.next() < 0.1 && desk.mayStand() ? HOUR_MS : draw.pick([4, 6, 8, 12, 20, 45]) * 1_000
  const with_order = draw.next() < 0.6
  const machines = machinesOf(draw)
  const [change, change_in_ms, longer_ms] = [draw.next(), draw.whole(200, 3_000), draw.whole(1_000, 10_000)]
  const now_ms = Date.now()
  const end_at_ms = now_ms + start_in_ms + lasts_ms
  const before_end_at_ms = end_at_ms - 1_000
  const start_at_ms = now_ms + start_in_ms
  const body = {
    name: desk.name('night'),
    start_at: start_in_ms ? iso(start_at_ms) : 'now',
    end_at: iso(end_at_ms),
    before_end_at: iso(before_end_at_ms),
    ...(with_order ? { order: machines.body } : {}),
  }
  const promised = { end_at_ms, before_end_at_ms, ...(start_in_ms ? { start_at_ms } : {}) }
  const made = await desk.ask(client, { kind: 'lease', method: 'POST', path: '/api/leases', body, promised }, 400)
  if (!made || change < 0.35 || lasts_ms === HOUR_MS || !(await desk.pass(change_in_ms))) return
  const { id } = made.lease as { id: string }
  const path = `/api/leases/${id}`
  if (change > 0.8) {
    await desk.ask(client, { kind: 'end', method: 'DELETE', path, resource_id: id }, 409)
    return
  }
  const moved_ms = change > 0.6 ? Date.now() + 1_500 : end_at_ms + longer_ms
  const moved = { end_at_ms: moved_ms, before_end_at_ms: moved_ms - 500 }
  const changed = { end_at: iso(moved.end_at_ms), before_end_at: iso(moved.before_end_at_ms) }
  const asked = { kind: 'extend', method: 'PATCH', path, body: changed, resource_id: id, promised: moved } as const
  await desk.ask(client, asked, 400, 409)
}

/**
 * Leases of the same hosts, one right behind the other: the second starts when the first is to end, or is ended, and has
 * to wait until the machines of that one are gone.
 */
export const tenants: Job = async (desk, draw, client) => {
  const cloud = draw.pick(CLOUDS)
  const hosts = { cloud: cloud.name, count: draw.whole(1, cloud.hosts.length) }
  const lasts_ms = draw.pick([5, 8, 12]) * 1_000
  const count = draw.pick([1, 1, 2, 3])
  const [ended, ended_in_ms] = [draw.next() < 0.4, draw.whole(1_000, 4_000)]
  const rent = async (start_at_ms: number | null) => {
    const end_at_ms = (start_at_ms ?? Date.now()) + lasts_ms
    const body = {
      name: desk.name('tenant'),
      start_at: start_at_ms === null ? 'now' : iso(start_at_ms),
      end_at: iso(end_at_ms),
      order: { size: 'small', image: 'debian', count, policy: 'any' },
      hosts,
    }
    const promised = { end_at_ms, hosts: hosts.count, ...(start_at_ms === null ? {} : { start_at_ms }) }
    // 409: they are booked. 400: repeated for so long that its end has passed.
    const made = await desk.ask(
      client,
      { kind: 'lease', method: 'POST', path: '/api/leases', body, promised },
      400,
      409,
    )
    return made && { id: (made.lease as { id: string }).id, end_at_ms }
  }
  const first = await rent(null)
  if (!first) return
  if (!ended) {
    await rent(first.end_at_ms)
    return
  }
  if (!(await desk.pass(ended_in_ms))) return
  await desk.ask(client, { kind: 'end', method: 'DELETE', path: `/api/leases/${first.id}`, resource_id: first.id })
  await rent(null)
}

/** A hook that comes and goes. */
export const hook: Job = async (desk, draw, client) => {
  const lasts_ms = draw.whole(5_000, 20_000)
  const id = await desk.subscribers.subscribe(client, 'passing')
  if (await desk.pass(lasts_ms)) await desk.subscribers.leave(client, id)
}

export const death = (desk: Desk, draw: Chance): Promise<void> => desk.clouds.strike(draw)
export const refusal = (desk: Desk, draw: Chance): Promise<void> => desk.clouds.refuse(draw)

const iso = (ms: number): string => new Date(ms).toISOString()
