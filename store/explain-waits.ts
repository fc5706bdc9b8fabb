/**
 * What a noun waits for. For a past moment from its events alone; for now also from its row, which knows when it is
 * looked at again.
 */
import { type Kysely, sql } from 'kysely'
import type { Blocker } from '../domain/record.ts'
import type { ShownEvent } from './event-list.ts'
import type { Tables } from './tables.ts'

export type ExplainedNoun = 'order' | 'instance' | 'deployment' | 'lease' | 'hook' | 'cloud'

export interface Wait {
  /** For people. */
  readonly what: string
  /** Of the blocker, where one holds it up. */
  readonly code: string | null
  readonly since: string | null
  readonly until: string | null
}

/** By noun and state; states that wait for nothing are not here. */
const WAITS: Readonly<Partial<Record<ExplainedNoun, Readonly<Record<string, string>>>>> = {
  order: {
    queued: 'a place at one of its clouds',
    launching: 'the answers of its clouds to the creation of machines',
    settling: 'its machines to run',
    held: 'what blocks it to go away',
    compensating: 'its machines to be gone',
    terminating: 'its machines to be gone',
  },
  instance: {
    pending: 'its launch order to create its machine',
    starting: 'its cloud to say that it runs',
    stopping: 'its cloud to say that it stopped',
    rebooting: 'its cloud to say that it runs again',
    terminating: 'its cloud to say that it is gone',
  },
  deployment: {
    queued: 'its orders to be launched',
    launching: 'its orders to settle',
    settling: 'its orders to settle',
    held: 'what blocks one of its orders to go away',
    compensating: 'the machines of its orders to be gone',
    terminating: 'the machines of its orders to be gone',
  },
  lease: {
    PENDING: 'its start',
    STARTING: 'its launch order to be accepted',
    ACTIVE: 'its end',
    TERMINATING: 'the machines of its order to be gone',
  },
  hook: {
    unverified: 'its address to answer a ping',
    paused: 'its address to take events again',
    disabled: 'a person to enable it',
  },
  cloud: {
    unknown: 'the first look at it',
    unreachable: 'an answer of the cloud',
    refused: 'a credential that the cloud takes',
  },
}

/** What it waits for at a moment (null: now); null: for nothing. `events`: its own up to then, newest first. */
export async function waitsFor(
  db: Kysely<Tables>,
  subject: { noun: ExplainedNoun; id: string },
  events: readonly ShownEvent[],
  moment: Date | null,
): Promise<Wait | null> {
  const state = events[0]?.to_state ?? ''
  const row = moment === null ? await rowOf(db, subject) : null
  const blocker = moment === null ? row?.blocker : (blockerOf(events) ?? (await orderBlocker(db, events, moment)))
  if (blocker)
    return {
      what: blocker.reason,
      code: blocker.code,
      since: blocker.since,
      until: blocker.next_try_at ?? row?.due_at?.toISOString() ?? null,
    }
  const what = (row ? row.what : actionAskedFor(subject.noun, events)) ?? WAITS[subject.noun]?.[state]
  if (!what) return null
  const until = momentOf(subject.noun, state, events) ?? row?.due_at?.toISOString() ?? null
  return { what, code: null, since: null, until }
}

/** What a deployment was asked for and had not come to. */
function actionAskedFor(noun: ExplainedNoun, events: readonly ShownEvent[]): string | null {
  if (noun !== 'deployment') return null
  const said = events.find((event) => event.snapshot.action !== undefined)
  return said?.type === 'deployment.wish_changed' ? `its ${said.snapshot.action} to be done` : null
}

/** Set and cleared by events: the newest that speaks of it counts. */
function blockerOf(events: readonly ShownEvent[]): Blocker | null {
  const said = events.find((event) => event.snapshot.blocker !== undefined)
  return (said?.snapshot.blocker ?? null) as Blocker | null
}

/** An instance without a machine was held up by what held up its order then. */
async function orderBlocker(db: Kysely<Tables>, events: readonly ShownEvent[], moment: Date): Promise<Blocker | null> {
  const { resource_type, to_state, snapshot } = events[0]!
  if (resource_type !== 'instance' || to_state !== 'pending') return null
  const { rows } = await sql<{ blocker: Blocker | null }>`
    select snapshot -> 'blocker' as blocker from events where resource_type = 'order'
      and resource_id = ${snapshot.order_id}::uuid and at <= ${moment} and snapshot ? 'blocker'
    order by sequence desc limit 1`.execute(db)
  return rows[0]?.blocker ?? null
}

/** The moments of a lease stand in its events. */
function momentOf(noun: ExplainedNoun, state: string, events: readonly ShownEvent[]): string | null {
  if (noun !== 'lease') return null
  const moment = events[0]!.snapshot[state === 'PENDING' ? 'start_at' : 'end_at']
  return typeof moment === 'string' && (state === 'PENDING' || state === 'ACTIVE') ? moment : null
}

interface Row {
  readonly blocker: Blocker | null
  readonly due_at: Date | null
  /** As its flow said it when it last looked. */
  readonly what?: string | null
}

async function rowOf(db: Kysely<Tables>, { noun, id }: { noun: ExplainedNoun; id: string }): Promise<Row | null> {
  const { rows } = await {
    order: () =>
      sql<Row>`
        select shown_blocker(blocker, due_at) as blocker, due_at, (
            select 'the inventory to name its machine' from instances join inventory on instance_id = instances.id
            where order_id = launch_orders.id and request_id is not null and inventory.name is null
              and instances.state = 'pending' limit 1) as what
        from launch_orders where id = ${id}`.execute(db),
    // An instance that was not created yet is held up by what holds up its order.
    instance: () =>
      sql<Row>`
        select coalesce(shown_blocker(instances.blocker, instances.due_at), case when instances.state = 'pending'
            then shown_blocker(launch_orders.blocker, launch_orders.due_at) end) as blocker,
          coalesce(instances.due_at, case when instances.state = 'pending' then launch_orders.due_at end) as due_at
        from instances join launch_orders on launch_orders.id = order_id where instances.id = ${id}`.execute(db),
    // Held up by what holds up one of its orders; an action on all of it looks again by itself.
    deployment: () =>
      sql<Row>`
        with held as (
          select shown_blocker(blocker, due_at) as blocker, due_at from launch_orders
          where deployment_id = ${id} and state not in ('running', 'cancelled', 'terminated', 'failed')
          order by 1 is null, due_at limit 1),
        asked as (
          select shown_blocker(null, due_at) as blocker, due_at, coalesce(waiting_for, 'its ' || kind || ' to begin') as what
          from deployment_actions where deployment_id = ${id} and state = 'running')
        select coalesce(held.blocker, asked.blocker) as blocker, coalesce(asked.due_at, held.due_at) as due_at, what
        from held full join asked on true`.execute(db),
    lease: () =>
      sql<Row>`select shown_blocker(blocker, due_at) as blocker, due_at from leases where id = ${id}`.execute(db),
    // A lane's moment is that of its earliest delivery.
    hook: () =>
      sql<Row>`
        select case when state = 'active' then shown_blocker(null, greatest(paused_until, (
            select min(next_attempt_at) from deliveries as head where hook_id = hooks.id and state in ('pending', 'waiting')
              and not exists (select from deliveries as before where before.hook_id = hooks.id
                and before.resource_type = head.resource_type and before.resource_id = head.resource_id
                and before.sequence < head.sequence and before.state in ('pending', 'in_flight', 'waiting', 'parked'))))) end as blocker,
          paused_until as due_at from hooks where id = ${id}`.execute(db),
    cloud: () => sql<Row>`select null as blocker, null as due_at from clouds where id = ${id}`.execute(db),
  }[noun]()
  return rows[0] ?? null
}
