/**
 * Claims: which delivery may be sent now, and by whom. Per hook and resource only the lowest open sequence may be sent,
 * its head: that is the order we promise.
 *
 * A sender claims with its shard's epoch, which it raises when it starts: what an older epoch left in flight has an
 * unknown outcome and is sent again at once, and so has a claim that its sender never heard of. A lane claims with 0; its
 * own plan knows what it has in flight.
 */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { CallbackSubject } from '../domain/cloud-state.ts'
import { laneWorkflowId } from '../domain/workflow-ids.ts'
import { type Store, type Trx, write } from './database.ts'
import { type Claimed, LANE_CLAIM, type Outcome, storeOutcomes } from './delivery-outcomes.ts'
import { wake } from './outbox.ts'
import type { Tables } from './tables.ts'

/** A claimed delivery with all that sending needs. */
export interface Head extends Claimed {
  readonly project_id: string
  readonly event_id: string
  readonly event_type: string
  readonly resource_type: string
  readonly resource_id: string
  readonly sequence: number
  /** The event as native JSON; what is sent is that in the hook's format. */
  readonly body: string
  /** What a callback is told besides; null: the hook is of another format. */
  readonly subject: CallbackSubject | null
  readonly uri: string
  readonly timeout_ms: number
  /** Newest first. */
  readonly sealed_secrets: readonly Buffer[]
}

const CLAIMED = sql`
  deliveries.id as delivery_id, deliveries.hook_id, deliveries.claim, deliveries.sends as number, deliveries.trigger,
  deliveries.attempts, deliveries.unknown_in_row`
const HEAD = sql`${CLAIMED},
  deliveries.project_id, events.id as event_id, events.type as event_type, deliveries.resource_type,
  deliveries.resource_id, deliveries.sequence, event_body(events) as body, hooks.uri,
  case when hooks.format = 'cloud_state' then (
    select jsonb_build_object('uuid', coalesce(instances.external_id, instances.id::text), 'ssh_key',
      case when ssh_keys.name is not null then jsonb_build_object('name', ssh_keys.name, 'fingerprint', ssh_keys.fingerprint) end)
    from instances left join ssh_keys on ssh_keys.instance_id = instances.id where instances.id = deliveries.resource_id)
  end as subject,
  hooks.timeout_ms,
  (select coalesce(array_agg(sealed order by created_at desc), '{}') from hook_secrets
    where hook_id = hooks.id and (expires_at is null or expires_at > clock_timestamp())) as sealed_secrets`
/** States in which a delivery is not over. */
export const OPEN = sql`('pending', 'in_flight', 'waiting', 'parked')`

/** Resources of one hook that are looked at; beyond, they come when these are done. */
const HEADS_MAX = 2_000

/**
 * The head of each resource of some hooks, as a recursive table `heads`: it goes from resource to resource in the index
 * of open deliveries, so that a deep backlog behind a head costs nothing, whatever the planner's statistics say.
 */
export function headsOf(which_hooks: RawBuilder<unknown>): RawBuilder<unknown> {
  const columns = sql`id, hook_id, resource_type, resource_id, state, next_attempt_at`
  const next = sql`order by resource_type, resource_id, sequence limit 1`
  return sql`heads as (
    select head.*, hooks.in_flight_max, 1 as place from hooks cross join lateral (
      select ${columns} from deliveries where hook_id = hooks.id and state in ${OPEN} ${next}) head
    where ${which_hooks}
    union all
    select head.*, heads.in_flight_max, heads.place + 1 from heads cross join lateral (
      select ${columns} from deliveries where hook_id = heads.hook_id and state in ${OPEN}
        and (resource_type, resource_id) > (heads.resource_type, heads.resource_id) ${next}) head
    where heads.place < ${HEADS_MAX})`
}

/** Starts a new epoch of a shard and settles what older ones left. Returns the epoch. */
export async function beginShard(store: Store, shard: number): Promise<number> {
  const epoch = await write(store, async (trx) => {
    const { rows } = await sql<{ epoch: number }>`
      update sender_shards set epoch = epoch + 1 where shard = ${shard} returning epoch`.execute(trx)
    return rows[0]!.epoch
  })
  await tidyShard(store, shard, epoch)
  await write(store, async (trx) => {
    // Lanes live in the engine alone: whatever happened to it, each hook in trouble has one again from here.
    const { rows } = await sql<{ id: string; project_id: string }>`
      select id, project_id from hooks where shard = ${shard} and state = 'active' and owner = 'lane'
      union select hooks.id, hooks.project_id from hooks join deliveries on deliveries.hook_id = hooks.id
        where shard = ${shard} and deliveries.state = 'in_flight' and deliveries.claim = ${LANE_CLAIM}`.execute(trx)
    await wake(
      trx,
      rows.map((hook) => ({ target: laneWorkflowId(hook.id), project_id: hook.project_id })),
    )
  })
  return epoch
}

/** Whether nobody took the shard since. */
export async function holdsShard(db: Kysely<Tables>, shard: number, epoch: number): Promise<boolean> {
  const { rows } = await sql`select from sender_shards where shard = ${shard} and epoch = ${epoch}`.execute(db)
  return rows.length > 0
}

/**
 * Settles what nobody else will: attempts in flight under an older epoch (unknown), and deliveries made by a
 * transaction that did not yet see that their hook was deleted or disabled.
 */
export async function tidyShard(store: Store, shard: number, epoch: number): Promise<void> {
  const older = sql`hooks.shard = ${shard} and deliveries.claim > ${LANE_CLAIM} and deliveries.claim < ${epoch}`
  await write(store, (trx) => settleInFlight(trx, older))
  await sql`
    update deliveries set state = 'cancelled', reason = null, settled_at = record_now()
    from hooks where hooks.id = deliveries.hook_id and hooks.shard = ${shard} and hooks.state = 'deleted'
      and deliveries.state in ('pending', 'waiting', 'parked')`.execute(store.db)
  await sql`
    update deliveries set state = 'parked', reason = 'endpoint_disabled'
    from hooks where hooks.id = deliveries.hook_id and hooks.shard = ${shard} and hooks.state = 'disabled'
      and deliveries.state in ('pending', 'waiting')`.execute(store.db)
}

/**
 * Settles claims of an epoch that its sender never heard of, as unknown: it holds those `in_hand`, and of any other the
 * answer was lost with the connection.
 */
export async function settleLostClaims(
  store: Store,
  shard: number,
  epoch: number,
  in_hand: readonly Claimed[],
): Promise<void> {
  const held = in_hand.map(({ delivery_id }) => delivery_id)
  const lost = sql`hooks.shard = ${shard} and deliveries.claim = ${epoch} and deliveries.id <> all(${held}::bigint[])`
  await write(store, async (trx) => {
    // A claim holds the fence: one that is still being stored for a connection that broke is waited for.
    const { rows } = await sql`
      select from sender_shards where shard = ${shard} and epoch = ${epoch} for update`.execute(trx)
    if (rows.length) await settleInFlight(trx, lost)
  })
}

/** Settles attempts in flight that nobody makes any more. Says whether it found some. */
async function settleInFlight(trx: Trx, which: RawBuilder<unknown>): Promise<boolean> {
  const { rows: left } = await sql<Claimed>`
    select ${CLAIMED} from hooks join deliveries on deliveries.hook_id = hooks.id
    where deliveries.state = 'in_flight' and ${which} limit 1000`.execute(trx)
  await storeOutcomes(
    trx,
    left.map((claimed) => unknownOutcome(claimed)),
  )
  return left.length > 0
}

/** The outcome of an attempt whose sender is gone: sent, perhaps. When it began is not known. */
export function unknownOutcome(claimed: Claimed): Outcome {
  const now = new Date()
  return {
    claimed,
    result: { verdict: 'unknown', outcome: 'unknown', status: null, started_at: now, ended_at: now },
    random: Math.random(),
  }
}

/**
 * Claims due heads for all hooks of a shard that are in no trouble, at most `room` of them and no more a hook than its
 * cap allows. Gives nothing to an epoch that is no longer the shard's.
 */
export async function claimHeads(db: Kysely<Tables>, shard: number, epoch: number, room: number): Promise<Head[]> {
  const { rows } = await sql<Head>`
    with recursive ${headsOf(sql`hooks.shard = ${shard} and hooks.state = 'active' and hooks.owner = 'sender'`)},
    counted as (select *, count(*) filter (where state = 'in_flight') over (partition by hook_id) as in_flight from heads),
    ready as (
      select id, in_flight, in_flight_max, row_number() over (partition by hook_id order by id) as turn
      from counted where state <> 'in_flight' and next_attempt_at <= (select record_now())),
    chosen as materialized (
      select id from ready where turn + in_flight <= in_flight_max order by turn, id limit ${room})
    update deliveries set state = 'in_flight', reason = null, claim = fence.epoch, sends = sends + 1
    -- The fence is locked, but only if there is something to claim: an idle sender writes nothing.
    from chosen cross join lateral (
        select epoch from sender_shards where shard = ${shard} and epoch = ${epoch} and chosen.id is not null for share) fence,
      events, hooks
    where deliveries.id = chosen.id and deliveries.state in ('pending', 'waiting', 'parked')
      and events.number = deliveries.event_number and hooks.id = deliveries.hook_id and hooks.state = 'active'
    returning ${HEAD}`.execute(db)
  return rows
}

/** Stores outcomes of a sender: all of them, or none if the shard has a newer epoch. Says whether it was current. */
export async function storeShardOutcomes(
  store: Store,
  shard: number,
  epoch: number,
  outcomes: readonly Outcome[],
): Promise<boolean> {
  return write(store, async (trx) => {
    const { rows } = await sql`
      select from sender_shards where shard = ${shard} and epoch = ${epoch} for share`.execute(trx)
    if (!rows.length) return false
    await storeOutcomes(trx, outcomes)
    return true
  })
}

/** What became of a lane's wish to send one delivery. */
export type LaneClaim = { head: Head } | { skipped: string; wait_ms: number }

/**
 * Claims one delivery for its hook's lane. An attempt that this lane had in flight already was lost: it is settled as
 * unknown first. Early, or no longer the head: nothing is claimed, and the plan decides anew. The hook is not locked: it
 * is one row for all attempts of a lane, and they would wait for each other.
 */
export async function claimForLane(trx: Trx, hook_id: string, delivery_id: number): Promise<LaneClaim> {
  const mine = sql`deliveries.id = ${delivery_id} and deliveries.hook_id = ${hook_id}`
  let head = await claimDue(trx, mine)
  if (!head && (await settleLost(trx, mine))) head = await claimDue(trx, mine)
  return head ? { head } : whyNot(trx, hook_id, mine)
}

const NOT_FIRST = sql`exists (select from deliveries as other where other.hook_id = deliveries.hook_id
  and other.resource_type = deliveries.resource_type and other.resource_id = deliveries.resource_id
  and other.sequence < deliveries.sequence and other.state in ${OPEN})`

async function claimDue(trx: Trx, mine: RawBuilder<unknown>): Promise<Head | undefined> {
  const { rows } = await sql<Head>`
    update deliveries set state = 'in_flight', reason = null, claim = ${LANE_CLAIM}, sends = sends + 1
    from events, hooks
    where ${mine} and deliveries.state in ('pending', 'waiting', 'parked') and next_attempt_at <= record_now()
      and not ${NOT_FIRST} and events.number = deliveries.event_number
      and hooks.id = deliveries.hook_id and hooks.state = 'active'
    returning ${HEAD}`.execute(trx)
  return rows[0]
}

/** Settles what a lane has in flight and nobody sends any more. Says whether it found some. */
export const settleLost = (trx: Trx, which: RawBuilder<unknown>): Promise<boolean> =>
  settleInFlight(trx, sql`${which} and deliveries.claim = ${LANE_CLAIM}`)

async function whyNot(trx: Trx, hook_id: string, mine: RawBuilder<unknown>): Promise<LaneClaim> {
  const hook = await trx.selectFrom('hooks').select('state').where('id', '=', hook_id).executeTakeFirst()
  if (hook?.state !== 'active') return { skipped: `the hook is ${hook?.state ?? 'gone'}`, wait_ms: 0 }
  const { rows } = await sql<{ state: string; blocked: boolean; wait_ms: number }>`
    select state, greatest(0, ceil(extract(epoch from next_attempt_at - record_now()) * 1000))::int as wait_ms,
      ${NOT_FIRST} as blocked from deliveries where ${mine}`.execute(trx)
  const found = rows[0]
  if (!found || !['pending', 'waiting', 'parked'].includes(found.state))
    return { skipped: `the delivery is ${found?.state ?? 'gone'}`, wait_ms: 0 }
  if (found.blocked) return { skipped: 'an earlier event of the resource comes first', wait_ms: 0 }
  return found.wait_ms > 0
    ? { skipped: 'not yet due', wait_ms: found.wait_ms }
    : { skipped: 'claimed by another', wait_ms: 0 }
}
