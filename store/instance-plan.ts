/**
 * Planning one instance's actions, and what came of them at the cloud. Safe to run again at any time. Locks: attempt,
 * instance, action, tagging, inventory.
 */
import { type Selectable, sql } from 'kysely'
import { type BlockerDecision, stepBlocker, toBlocker } from '../domain/blocker.ts'
import {
  type ActionView,
  decideInstance,
  type InstanceDecision,
  type PowerAction,
  stateObserved,
} from '../domain/instance.ts'
import type { Machine } from '../domain/machine.ts'
import { type Failing, LOST_WAKE_MS, type Plan, type Step } from '../domain/plan.ts'
import type { AttemptError } from '../domain/record.ts'
import { deploymentWorkflowId, instanceWorkflowId, orderWorkflowId } from '../domain/workflow-ids.ts'
import { realNow, type Store, type Trx, write } from './database.ts'
import { lastEventId } from './events.ts'
import { changeInstances, tellInstance } from './instances.ts'
import { answerWakes, wake } from './outbox.ts'
import { planEntry } from './outside-inventory.ts'
import type { ActionsTable, InstancesTable } from './tables.ts'
import { planTagging } from './taggings.ts'

type ActionRow = Selectable<ActionsTable>
type InstanceRow = Selectable<InstancesTable>

// Planning -----------------------------------------------------------------------------------------------------------

/** Plans the actions of one instance; one that ended makes room for the next. `failing`: a step that keeps failing, as its flow sees it. */
export async function planInstance(store: Store, instance_id: string, failing: Failing | null = null): Promise<Plan> {
  for (;;) {
    const { plan, ended } = await write(store, (trx) => planOnce(trx, instance_id, failing))
    if (!ended) return plan
  }
}

async function planOnce(
  trx: Trx,
  instance_id: string,
  failing: Failing | null,
): Promise<{ plan: Plan; ended: boolean }> {
  await answerWakes(trx, instanceWorkflowId(instance_id))
  const attempt = await lockMachine(trx, instance_id)
  const found = await trx
    .selectFrom('instances')
    .leftJoin('clouds', 'clouds.id', 'instances.cloud_id')
    .selectAll('instances')
    .select('clouds.name as cloud')
    .where('instances.id', '=', instance_id)
    .forNoKeyUpdate('instances')
    .executeTakeFirst()
  if (!found) return { plan: { ...NOTHING_TO_DO, state: 'unknown', details: 'no such instance' }, ended: false }
  const { cloud, ...instance } = found
  const action = await lockAction(trx, instance_id)
  const now = await realNow(trx)
  const decision = decideInstance(
    {
      state: instance.state,
      action: action ? viewOf(action) : null,
      has_machine: attempt !== undefined,
      next_delete_at: attempt?.next_send_at?.getTime() ?? null,
      deletion_error: attempt?.error?.message ?? null,
      cloud: cloud ?? 'unknown',
    },
    now.getTime(),
  )
  await applyDecision(trx, instance, action, decision)
  const tagging = await planTagging(trx, instance, cloud ?? 'unknown', now)
  const entry = await planEntry(trx, instance_id, now)
  const steps = [...stepsOf(instance, action, decision), ...tagging.steps, ...entry.steps]
  const blocker = decision.blocker ?? tagging.blocker ?? entry.blocker ?? stepBlocker(failing, steps)
  await tellBlocker(trx, instance_id, blocker, now)
  const waiting_for = decision.waiting_for || tagging.waiting_for || entry.waiting_for
  const done = (action === undefined || decision.ends !== null) && !tagging.waiting_for && !entry.waiting_for
  const due_at = Math.min(decision.due_at ?? Infinity, tagging.due_at ?? Infinity, entry.due_at ?? Infinity)
  const wait_ms = due_at === Infinity ? null : Math.max(1, due_at - now.getTime())
  await trx
    .updateTable('instances')
    .set({ due_at: done ? null : sql<Date>`record_now() + ${wait_ms ?? LOST_WAKE_MS} * interval '1 ms'` })
    .where('id', '=', instance_id)
    .execute()
  const state = decision.to ?? instance.state
  const lines = [
    `**${instance.name}**: ${state}`,
    ...(waiting_for ? [`Waiting for ${waiting_for}`] : []),
    ...(blocker ? [`Blocked: \`${blocker.code}\`, ${blocker.reason}`] : []),
  ]
  const why = waiting_for ? `waiting for ${waiting_for}` : 'nothing is asked of it'
  const plan = { steps, sleep_ms: wait_ms, why, done, state, details: lines.join('\n\n') }
  return { plan, ended: decision.ends !== null }
}

const NOTHING_TO_DO = { steps: [], sleep_ms: null, why: '', done: true } as const

const lockMachine = (trx: Trx, instance_id: string) =>
  trx
    .selectFrom('launch_attempts')
    .selectAll()
    .where('instance_id', '=', instance_id)
    .where('state', '=', 'won')
    .where('gone_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst()

/** The oldest action that is not over. */
const lockAction = (trx: Trx, instance_id: string) =>
  trx
    .selectFrom('actions')
    .selectAll()
    .where('instance_id', '=', instance_id)
    .where('state', 'in', ['queued', 'running'])
    .orderBy('number')
    .limit(1)
    .forNoKeyUpdate()
    .executeTakeFirst()

function viewOf(action: ActionRow): ActionView {
  return {
    kind: action.kind,
    started_at: action.started_at?.getTime() ?? null,
    confirmed: action.confirmed_at !== null,
    next_try_at: action.next_try_at?.getTime() ?? null,
    error: action.error,
  }
}

async function applyDecision(
  trx: Trx,
  instance: InstanceRow,
  action: ActionRow | undefined,
  decision: InstanceDecision,
): Promise<void> {
  if (!action) return
  if (decision.to) {
    const event = (await lastEventId(trx, 'instance', instance.id)) ?? instance.wish_event
    const reason = decision.to === 'terminating' ? 'a person asked for its end' : 'nothing of it is left at any cloud'
    await changeInstances(trx, [
      { id: instance.id, to: decision.to, cause: { rule: 'wish_terminate', reason, ...(event ? { event } : {}) } },
    ])
  }
  if (decision.ends) {
    await endAction(trx, instance.id, action, decision.ends)
    // What a rule asked for in vain its order does not hear of by a change of the instance.
    const failed_to_heal =
      decision.ends.state === 'failed' && action.wished_by === null && action.deployment_action_id === null
    if (failed_to_heal)
      await wake(trx, [{ target: orderWorkflowId(instance.order_id), project_id: instance.project_id }])
    if (action.deployment_action_id)
      await wake(trx, [{ target: deploymentWorkflowId(instance.deployment_id), project_id: instance.project_id }])
  } else if (action.state === 'queued')
    await trx
      .updateTable('actions')
      .set({ state: 'running', started_at: sql<Date>`clock_timestamp()` })
      .where('id', '=', action.id)
      .execute()
  if (decision.wake_order)
    await wake(trx, [{ target: orderWorkflowId(instance.order_id), project_id: instance.project_id }])
}

/** The end of an action; an event of its instance, but for a terminate, which the end of the instance itself tells. */
async function endAction(
  trx: Trx,
  instance_id: string,
  action: ActionRow,
  ends: NonNullable<InstanceDecision['ends']>,
): Promise<void> {
  const error = ends.state === 'failed' ? { ...ends.error, at: new Date().toISOString() } : null
  await trx
    .updateTable('actions')
    .set({ state: ends.state, error: error && JSON.stringify(error), finished_at: sql<Date>`record_now()` })
    .where('id', '=', action.id)
    .execute()
  if (action.kind === 'terminate' || ends.state === 'superseded') return
  const event = await lastEventId(trx, 'instance', instance_id)
  await tellInstance(
    trx,
    instance_id,
    `instance.action_${ends.state}`,
    { action: action.kind, action_id: action.id, error },
    {
      rule: 'action_ended',
      reason: error ? `its ${action.kind} came to nothing: ${error.message}` : `its ${action.kind} is done`,
      ...(event ? { event } : {}),
    },
  )
}

/** Sets or clears what blocks an instance's action, with its event; the row is locked by the caller. */
async function tellBlocker(trx: Trx, instance_id: string, blocked: BlockerDecision | null, now: Date): Promise<void> {
  const before = await trx
    .selectFrom('instances')
    .select(['blocker', 'wish_event'])
    .where('id', '=', instance_id)
    .executeTakeFirstOrThrow()
  const blocker = toBlocker(before.blocker, blocked, now)
  if (blocker === null && before.blocker === null) return
  await trx
    .updateTable('instances')
    .set({ blocker: blocker && JSON.stringify(blocker) })
    .where('id', '=', instance_id)
    .execute()
  if (blocker?.code === before.blocker?.code) return
  const event = (await lastEventId(trx, 'instance', instance_id)) ?? before.wish_event
  await tellInstance(
    trx,
    instance_id,
    blocker ? 'instance.blocked' : 'instance.unblocked',
    { blocker },
    {
      rule: 'action_blocked',
      reason: blocker?.reason ?? 'nothing blocks it any more',
      ...(event ? { event } : {}),
    },
  )
}

function stepsOf(instance: InstanceRow, action: ActionRow | undefined, { step }: InstanceDecision): Step[] {
  const cloud = instance.cloud_id ?? ''
  if (step === 'terminate')
    return [
      {
        key: 'terminate',
        activity: 'terminateInstance',
        args: [instance.id],
        cloud,
        summary: `delete ${instance.name}`,
      },
    ]
  if (step === null || !action) return []
  return [
    {
      key: `act/${action.number}`,
      activity: 'actOnInstance',
      args: [instance.id, action.id],
      cloud,
      summary: `${action.kind} ${instance.name}`,
    },
  ]
}

// At the cloud -------------------------------------------------------------------------------------------------------

/**
 * The machine bound to an instance, to be deleted; undefined: there is none (any more), or nobody wishes it gone. The
 * flow that asks may know of a wish that a restored record does not.
 */
export function machineToDelete(store: Store, instance_id: string) {
  return store.db
    .selectFrom('launch_attempts')
    .innerJoin('instances', 'instances.id', 'launch_attempts.instance_id')
    .select([
      'launch_attempts.id as attempt_id',
      'launch_attempts.provider_id',
      'launch_attempts.cloud_id',
      'launch_attempts.credential_id',
      'launch_attempts.order_id',
    ])
    .where('launch_attempts.instance_id', '=', instance_id)
    .where('launch_attempts.state', '=', 'won')
    .where('launch_attempts.gone_at', 'is', null)
    .where('instances.wish', '=', 'terminate')
    .executeTakeFirst()
}

/** What an action is to do to which machine. */
export interface ActionToSend {
  readonly kind: PowerAction
  readonly reboot: 'soft' | 'hard'
  readonly cloud_id: string
  readonly credential_id: string | null
  readonly provider_id: string
  /** False: it was sent and answered, only what came of it is looked for. */
  readonly send: boolean
  /** It was sent before and never answered. */
  readonly unanswered: boolean
}

/** A start or stop that was answered and had no effect is asked for again after this long (Cloud State: a second stop). */
const REPEAT_AFTER_MS = 120_000

/**
 * Marks an action as sent, just before it is. Undefined: it is over, superseded, or the machine is gone. A reboot is
 * never sent twice.
 */
export function markActionSent(
  store: Store,
  instance_id: string,
  action_id: string,
): Promise<ActionToSend | undefined> {
  return write(store, async (trx) => {
    const instance = await trx
      .selectFrom('instances')
      .select(['cloud_id', 'credential_id', 'provider_id', 'state'])
      .where('id', '=', instance_id)
      .forNoKeyUpdate()
      .executeTakeFirst()
    const action = await trx
      .selectFrom('actions')
      .selectAll()
      .where('id', '=', action_id)
      .forNoKeyUpdate()
      .executeTakeFirst()
    if (!instance?.cloud_id || !instance.provider_id || action?.state !== 'running' || action.kind === 'terminate')
      return
    const now = await realNow(trx)
    const unanswered = action.sent_at !== null && action.answered_at === null
    const is_stale = action.sent_at !== null && now.getTime() - action.sent_at.getTime() > REPEAT_AFTER_MS
    const send = action.sent_at === null || (action.kind !== 'reboot' && (unanswered || is_stale))
    if (send)
      await trx
        .updateTable('actions')
        .set({ sends: action.sends + 1, sent_at: now, answered_at: null })
        .where('id', '=', action_id)
        .execute()
    return {
      kind: action.kind,
      reboot: action.detail.reboot ?? 'soft',
      cloud_id: instance.cloud_id,
      credential_id: instance.credential_id,
      provider_id: instance.provider_id,
      send,
      unanswered: unanswered && !send,
    }
  })
}

/** What came of an action at its cloud. */
export interface ActionOutcome {
  /** The cloud took it. */
  readonly answered: boolean
  /** The machine is as the action wants it. */
  readonly confirmed: boolean
  /** The machine as it was last seen, and when that was asked for (real time). */
  readonly seen: { readonly machine: Machine; readonly at: Date } | null
  readonly error: (AttemptError & { readonly retry_after_ms?: number }) | null
}

/** What is not confirmed is looked at again after this long, then after twice as long, up to the most. */
const RETRY_FIRST_MS = 2_000
const RETRY_MAX_MS = 15_000
/** After these the request surely had no effect, so that it may be sent again. */
const WITHOUT_EFFECT = new Set([
  'throttled',
  'unavailable',
  'auth',
  'conflict',
  'capacity',
  'quota',
  'invalid',
  'not_found',
])

/** Stores what an action came to, and what was seen of its machine. An action that is over meanwhile stays as it is. */
export async function storeActed(
  store: Store,
  instance_id: string,
  action_id: string,
  outcome: ActionOutcome,
): Promise<void> {
  await write(store, async (trx) => {
    const instance = await trx
      .selectFrom('instances')
      .select(['state', 'provider_id', 'wish_event', 'order_id', 'project_id'])
      .where('id', '=', instance_id)
      .forNoKeyUpdate()
      .executeTakeFirst()
    const action = await trx
      .selectFrom('actions')
      .selectAll()
      .where('id', '=', action_id)
      .forNoKeyUpdate()
      .executeTakeFirst()
    if (!instance || action?.state !== 'running') return
    const { seen, error } = outcome
    const to =
      seen && seen.machine.provider_id === instance.provider_id ? stateObserved(instance.state, seen.machine) : null
    if (seen && to)
      await changeInstances(trx, [
        {
          id: instance_id,
          to,
          raw_state: seen.machine.raw_state,
          public_addresses: seen.machine.public_addresses,
          private_addresses: seen.machine.private_addresses,
          seen_at: seen.at,
          cause: {
            rule: 'observed',
            reason: `after its ${action.kind} the cloud tells it as ${seen.machine.raw_state}`,
            evidence: { raw_state: seen.machine.raw_state, observed_at: seen.at.toISOString(), action_id },
            ...(instance.wish_event ? { event: instance.wish_event } : {}),
          },
        },
      ])
    if (to && instance.state === 'failed')
      await wake(trx, [{ target: orderWorkflowId(instance.order_id), project_id: instance.project_id }])
    const { retry_after_ms, ...kept } = error ?? {}
    const wait_ms = retry_after_ms ?? Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** action.looks)
    await trx
      .updateTable('actions')
      .set({
        looks: action.looks + 1,
        answered_at: outcome.answered ? sql<Date>`clock_timestamp()` : action.answered_at,
        sent_at: error && WITHOUT_EFFECT.has(error.class) ? null : action.sent_at,
        confirmed_at: outcome.confirmed ? sql<Date>`clock_timestamp()` : null,
        next_try_at: outcome.confirmed ? null : sql<Date>`clock_timestamp() + ${wait_ms} * interval '1 ms'`,
        error: error ? JSON.stringify(kept) : null,
      })
      .where('id', '=', action_id)
      .execute()
  })
}
