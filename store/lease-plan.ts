/**
 * Planning a lease: one transaction that reads it under locks, lets domain/lease.ts decide, and does what is due: a
 * lease touches no machine, its acts are changes of the record. Safe to run again at any time.
 */
import { sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { type BlockerDecision, toBlocker } from '../domain/blocker.ts'
import type { OrderTemplate } from '../domain/launch-order.ts'
import { decideLease, type LeaseAct, type LeaseDecision } from '../domain/lease.ts'
import { isOrderOver } from '../domain/order/view.ts'
import { LOST_WAKE_MS, type Plan, SLEEP_MAX_MS } from '../domain/plan.ts'
import type { Cause } from '../domain/record.ts'
import { leaseWorkflowId } from '../domain/workflow-ids.ts'
import { HAS_HOSTS, noteWait, releaseHolds, takeHolds, unseenCloud, waitedFor, whoHolds } from './bookings.ts'
import { Overtaken, recordNow, type Store, type Trx, write } from './database.ts'
import { lastEventId } from './events.ts'
import { changeLease, type LeaseRow } from './leases.ts'
import { hasMachines, insertOrder, lockOrder, wishEnd } from './orders.ts'
import { answerWakes } from './outbox.ts'

/** Plans a lease: whatever is due is done in this transaction. Locks: its order, the lease, holds. */
export function planLease(store: Store, lease_id: string): Promise<Plan> {
  return write(store, async (trx) => {
    await answerWakes(trx, leaseWorkflowId(lease_id))
    const peek = await trx
      .selectFrom('leases')
      .select('order_id')
      .select(HAS_HOSTS.as('has_hosts'))
      .where('id', '=', lease_id)
      .executeTakeFirst()
    if (!peek) return { steps: [], sleep_ms: null, why: '', done: true, state: 'unknown', details: 'no such lease' }
    const order = peek.order_id ? await lockOrder(trx, peek.order_id) : undefined
    const lease = await trx
      .selectFrom('leases')
      .selectAll()
      .where('id', '=', lease_id)
      .forNoKeyUpdate()
      .executeTakeFirstOrThrow()
    if (lease.order_id !== peek.order_id) throw new Overtaken(`lease ${lease_id} was started meanwhile`)
    const before_end = await trx
      .selectFrom('lease_events')
      .select('status')
      .where('lease_id', '=', lease_id)
      .where('type', '=', 'before_end_lease')
      .executeTakeFirst()
    const now = await recordNow(trx)
    const starts = peek.has_hosts && lease.state === 'PENDING' && lease.wish === 'run' && lease.start_at <= now
    const decision = decideLease(
      {
        state: lease.state,
        wish: lease.wish,
        wished_at: lease.wished_at.getTime(),
        start_at: lease.start_at.getTime(),
        end_at: lease.end_at.getTime(),
        before_end_at: lease.before_end_at?.getTime() ?? null,
        before_end_done: before_end?.status === 'DONE',
        order_state: order?.state ?? null,
        machines_left: order !== undefined && isOrderOver(order.state) && (await hasMachines(trx, order.id)),
        unseen: order && peek.has_hosts && isOrderOver(order.state) ? await unseenCloud(trx, order.id) : null,
        host_held: starts ? await whoHolds(trx, lease) : null,
      },
      now.getTime(),
    )
    for (const act of decision.acts) await ACTS[act](trx, lease, now, { order, has_hosts: peek.has_hosts })
    await tellBlocker(trx, lease, decision.blocker, now)
    const due_at = new Date(decision.due_at ?? now.getTime() + LOST_WAKE_MS)
    await trx
      .updateTable('leases')
      .set({ due_at: decision.done ? null : due_at })
      .where('id', '=', lease_id)
      .execute()
    return toPlan(lease, decision, now)
  })
}

interface Having {
  readonly order: Awaited<ReturnType<typeof lockOrder>>
  readonly has_hosts: boolean
}
type Act = (trx: Trx, lease: LeaseRow, now: Date, having: Having) => Promise<void>

const ACTS: Record<LeaseAct, Act> = {
  async start(trx, lease, now, { has_hosts }) {
    const late_ms = now.getTime() - lease.start_at.getTime()
    const waited = waitedFor(lease) === null ? '' : `, for ${waitedFor(lease)}`
    const hosts = has_hosts ? await takeHolds(trx, lease.id) : []
    const event = await changeLease(
      trx,
      lease,
      'lease.started',
      'ACTIVE',
      {},
      await ruleCause(trx, lease, 'start_due', `started ${late_ms} ms after its moment${waited}`),
    )
    await markEvent(trx, lease, 'start_lease', 'DONE', now, late_ms)
    if (lease.order_template) await launchOrderOf(trx, lease, lease.order_template, hosts, event)
  },
  async before_end(trx, lease, now) {
    const late_ms = now.getTime() - lease.before_end_at!.getTime()
    await changeLease(
      trx,
      lease,
      'lease.before_end',
      lease.state,
      {},
      await ruleCause(trx, lease, 'before_end_due', `ends at ${lease.end_at.toISOString()}`),
    )
    await markEvent(trx, lease, 'before_end_lease', 'DONE', now, late_ms)
  },
  async end(trx, lease, now, { order }) {
    const late_ms = now.getTime() - (lease.wish === 'end' ? lease.wished_at : lease.end_at).getTime()
    const rule = lease.wish === 'end' ? 'wish_end' : 'end_due'
    const event = await changeLease(
      trx,
      lease,
      'lease.ending',
      'TERMINATING',
      {},
      await ruleCause(trx, lease, rule, `ending ${late_ms} ms after its moment`),
    )
    await markEvent(trx, lease, 'end_lease', 'IN_PROGRESS', now, late_ms)
    const wished_by = lease.wish === 'end' ? lease.wished_by : null
    const cause = { rule: 'lease_ended', reason: `its lease ${lease.name} ended`, event }
    if (order) await wishEnd(trx, order, cause, wished_by)
  },
  async finish(trx, lease, now, { order, has_hosts }) {
    await noteWait(trx, lease)
    const overstayed_ms = has_hosts ? await releaseHolds(trx, lease.id) : null
    const overstayed = overstayed_ms === null ? '' : `; others waited for its hosts, up to ${overstayed_ms} ms`
    const cause = order
      ? {
          rule: 'machines_gone',
          reason: `its order is ${order.state}${overstayed}`,
          event: (await lastEventId(trx, 'order', order.id))!,
        }
      : await ruleCause(trx, lease, 'nothing_to_undo', 'no machine was launched for it')
    await changeLease(trx, lease, 'lease.ended', 'TERMINATED', { ended_at: now, overstayed_ms }, cause)
    await trx
      .updateTable('lease_events')
      .set({
        status: 'DONE',
        acted_at: sql<Date>`coalesce(acted_at, ${now})`,
        late_ms: sql<number>`coalesce(late_ms, 0)`,
      })
      .where('lease_id', '=', lease.id)
      .where('type', '=', 'end_lease')
      .execute()
  },
  async miss(trx, lease, now) {
    await noteWait(trx, lease)
    const waited = waitedFor(lease) === null ? '' : `; ${waitedFor(lease)}`
    const reason = `its whole time passed before it could start: it was to end at ${lease.end_at.toISOString()}${waited}`
    await changeLease(
      trx,
      lease,
      'lease.missed',
      'ERROR',
      { ended_at: now },
      await ruleCause(trx, lease, 'missed', reason),
    )
    await markEvent(trx, lease, 'start_lease', 'ERROR', now, now.getTime() - lease.start_at.getTime())
    await markEvent(trx, lease, 'end_lease', 'DONE', now, now.getTime() - lease.end_at.getTime())
  },
}

async function ruleCause(trx: Trx, lease: LeaseRow, rule: string, reason: string): Promise<Cause> {
  const event = (await lastEventId(trx, 'lease', lease.id)) ?? lease.wish_event
  return { rule, reason, ...(event ? { event } : {}) }
}

/** Sets or clears what blocks a lease, with its event; what began another state has cleared it already. */
async function tellBlocker(trx: Trx, lease: LeaseRow, blocked: BlockerDecision | null, now: Date): Promise<void> {
  const blocker = toBlocker(lease.blocker, blocked, now)
  if (blocker === null && lease.blocker === null) return
  if (blocker?.code === lease.blocker?.code) {
    await trx
      .updateTable('leases')
      .set({ blocker: JSON.stringify(blocker) })
      .where('id', '=', lease.id)
      .execute()
    lease.blocker = blocker
    return
  }
  const type = blocker ? 'lease.blocked' : 'lease.unblocked'
  const reason = blocker?.reason ?? 'nothing blocks it any more'
  await changeLease(trx, lease, type, lease.state, { blocker }, await ruleCause(trx, lease, 'start_blocked', reason))
}

const markEvent = (
  trx: Trx,
  lease: LeaseRow,
  type: string,
  status: 'DONE' | 'IN_PROGRESS' | 'ERROR',
  now: Date,
  late_ms: number,
) =>
  trx
    .updateTable('lease_events')
    .set({ status, acted_at: now, late_ms: Math.max(0, late_ms) })
    .where('lease_id', '=', lease.id)
    .where('type', '=', type)
    .execute()

/** Launches a lease's order; with hosts of its own its instances go to them in turn. */
async function launchOrderOf(
  trx: Trx,
  lease: LeaseRow,
  template: OrderTemplate,
  hosts: readonly string[],
  event: string,
): Promise<void> {
  const { clouds: names, ...rest } = template
  const clouds = await trx.selectFrom('clouds').select(['id', 'name']).where('name', 'in', names).execute()
  const cloud_ids = names.flatMap((name) => clouds.find((cloud) => cloud.name === name)?.id ?? [])
  const order_id = newId()
  await insertOrder(
    trx,
    { project_id: lease.project_id, user_id: lease.user_id, request_id: lease.id },
    order_id,
    {
      ...rest,
      deployment: template.deployment ?? `lease-${lease.id}`,
      cloud_ids,
      sealed_user_data: null,
      ...(hosts.length
        ? { entries: Array.from({ length: rest.count }, (_, i) => ({ spec: { host: hosts[i % hosts.length]! } })) }
        : {}),
    },
    null,
    { lease_id: lease.id, rule: 'lease_started', reason: `its lease ${lease.name} started`, event },
  )
  await trx.updateTable('leases').set({ order_id }).where('id', '=', lease.id).execute()
  lease.order_id = order_id
}

function toPlan(lease: LeaseRow, decision: LeaseDecision, now: Date): Plan {
  const sleep_ms =
    decision.due_at === null ? null : Math.min(SLEEP_MAX_MS, Math.max(1, decision.due_at - now.getTime()))
  const due = decision.due_at === null ? '' : ` until ${new Date(decision.due_at).toISOString()}`
  return {
    steps: [],
    sleep_ms,
    why: decision.blocker?.reason ?? (decision.waiting_for ? `waiting for ${decision.waiting_for}${due}` : 'over'),
    done: decision.done,
    state: lease.state,
    details: [
      `**${lease.name}**: ${lease.state}, ${lease.start_at.toISOString()} to ${lease.end_at.toISOString()}`,
      ...(decision.blocker ? [`Blocked: \`${decision.blocker.code}\`, ${decision.blocker.reason}`] : []),
      ...(decision.waiting_for ? [`Waiting for ${decision.waiting_for}${due}`] : []),
    ].join('\n\n'),
  }
}
