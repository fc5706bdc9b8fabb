/**
 * Actions on single instances: a wish with a number, worked off in order by `instance/<id>`. Locks: attempt, instance,
 * action.
 */
import { type Kysely, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { type BlockerDecision, stepBlocker, toBlocker } from '../domain/blocker.ts'
import { DomainError } from '../domain/errors.ts'
import { decideInstance } from '../domain/instance.ts'
import { type Failing, LOST_WAKE_MS, type Plan, type Step } from '../domain/plan.ts'
import { instanceWorkflowId, orderWorkflowId } from '../domain/workflow-ids.ts'
import { realNow, type Store, type Trx, write } from './database.ts'
import { lastEventId, recordEvents } from './events.ts'
import { claimKey } from './idempotency.ts'
import { changeInstances } from './instances.ts'
import type { Caller, RequestKey } from './orders.ts'
import { answerWakes, wake } from './outbox.ts'
import type { Tables } from './tables.ts'

/**
 * Asks for an action on an instance. A terminate supersedes what else is open and is a wish of its own; asked for again,
 * it is the same action. Throws `not_found`.
 */
export function requestAction(
  store: Store,
  caller: Caller,
  instance_id: string,
  kind: 'terminate',
  key: RequestKey | null,
): Promise<{ action_id: string }> {
  return write(store, async (trx) => {
    const action_id = newId()
    const earlier = await claimKey(trx, caller.project_id, key, {
      status: 202,
      resource_type: 'action',
      resource_id: action_id,
    })
    if (earlier) return { action_id: earlier.resource_id }
    const instance = await trx
      .selectFrom('instances')
      .selectAll()
      .where('id', '=', instance_id)
      .forNoKeyUpdate()
      .executeTakeFirst()
    if (!instance || instance.project_id !== caller.project_id)
      throw new DomainError('not_found', `instance ${instance_id} does not exist`)
    const actions = await trx
      .selectFrom('actions')
      .selectAll()
      .where('instance_id', '=', instance_id)
      .orderBy('number')
      .forNoKeyUpdate()
      .execute()
    const same = actions.find(
      (action) => action.kind === kind && (action.state === 'queued' || action.state === 'running'),
    )
    if (same) {
      if (key)
        await trx
          .updateTable('idempotency_keys')
          .set({ resource_id: same.id })
          .where('project_id', '=', caller.project_id)
          .where('key', '=', key.key)
          .execute()
      return { action_id: same.id }
    }
    await trx
      .updateTable('actions')
      .set({ state: 'superseded', finished_at: sql<Date>`record_now()` })
      .where('instance_id', '=', instance_id)
      .where('state', 'in', ['queued', 'running'])
      .execute()
    await trx
      .insertInto('actions')
      .values({
        id: action_id,
        project_id: caller.project_id,
        instance_id,
        number: actions.length + 1,
        kind,
        wished_by: caller.user_id,
      })
      .execute()
    const [event] = await recordEvents(trx, [
      {
        project_id: caller.project_id,
        resource_type: 'instance',
        resource_id: instance_id,
        sequence: instance.sequence + 1,
        type: 'instance.wish_changed',
        from: instance.state,
        to: instance.state,
        snapshot: {
          name: instance.name,
          order_id: instance.order_id,
          deployment_id: instance.deployment_id,
          wish: kind,
        },
        cause: { actor: { user_id: caller.user_id, request_id: caller.request_id }, reason: `${kind} requested` },
      },
    ])
    await trx
      .updateTable('instances')
      .set({
        wish: kind,
        wish_version: instance.wish_version + 1,
        wished_by: caller.user_id,
        wished_at: sql<Date>`record_now()`,
        wish_event: event!,
        due_at: sql<Date>`record_now()`,
        sequence: instance.sequence + 1,
      })
      .where('id', '=', instance_id)
      .execute()
    await wake(trx, [{ target: instanceWorkflowId(instance_id), project_id: caller.project_id }])
    return { action_id }
  })
}

/** Plans the actions of one instance. `failing`: a step that keeps failing, as its flow sees it. */
export function planInstance(store: Store, instance_id: string, failing: Failing | null = null): Promise<Plan> {
  return write(store, async (trx) => {
    await answerWakes(trx, instanceWorkflowId(instance_id))
    const attempt = await trx
      .selectFrom('launch_attempts')
      .selectAll()
      .where('instance_id', '=', instance_id)
      .where('state', '=', 'won')
      .where('gone_at', 'is', null)
      .forNoKeyUpdate()
      .executeTakeFirst()
    const instance = await trx
      .selectFrom('instances')
      .selectAll()
      .where('id', '=', instance_id)
      .forNoKeyUpdate()
      .executeTakeFirst()
    if (!instance)
      return { steps: [], sleep_ms: null, why: '', done: true, state: 'unknown', details: 'no such instance' }
    const action = await trx
      .selectFrom('actions')
      .selectAll()
      .where('instance_id', '=', instance_id)
      .where('state', 'in', ['queued', 'running'])
      .orderBy('number')
      .forNoKeyUpdate()
      .executeTakeFirst()
    const now = await realNow(trx)
    const decision = decideInstance(
      {
        state: instance.state,
        action: action?.kind === 'terminate' ? 'terminate' : null,
        has_machine: attempt !== undefined,
        next_try_at: attempt?.next_send_at?.getTime() ?? null,
        last_error: attempt?.error?.message ?? null,
      },
      now.getTime(),
    )
    if (decision.to) {
      const event = (await lastEventId(trx, 'instance', instance_id)) ?? instance.wish_event
      const reason = decision.to === 'terminating' ? 'a person asked for its end' : 'nothing of it is left at any cloud'
      await changeInstances(trx, [
        { id: instance_id, to: decision.to, cause: { rule: 'wish_terminate', reason, ...(event ? { event } : {}) } },
      ])
    }
    if (action && action.state === 'queued')
      await trx.updateTable('actions').set({ state: 'running' }).where('id', '=', action.id).execute()
    if (action && decision.action_done) {
      await trx
        .updateTable('actions')
        .set({ state: 'done', finished_at: sql<Date>`record_now()` })
        .where('id', '=', action.id)
        .execute()
    }
    if (decision.wake_order)
      await wake(trx, [{ target: orderWorkflowId(instance.order_id), project_id: instance.project_id }])
    const steps: Step[] = decision.terminate
      ? [
          {
            key: 'terminate',
            activity: 'actOnInstance',
            args: [instance_id],
            cloud: instance.cloud_id ?? '',
            summary: `delete ${instance.name}`,
          },
        ]
      : []
    const blocker = decision.done ? null : (decision.blocker ?? stepBlocker(failing, steps))
    await tellBlocker(trx, instance_id, blocker, now)
    const wait_ms = decision.due_at === null ? null : Math.max(1, decision.due_at - now.getTime())
    await trx
      .updateTable('instances')
      .set({ due_at: decision.done ? null : sql<Date>`record_now() + ${wait_ms ?? LOST_WAKE_MS} * interval '1 ms'` })
      .where('id', '=', instance_id)
      .execute()
    const state = decision.to ?? instance.state
    const waiting = decision.waiting_for ? `\n\nWaiting for ${decision.waiting_for}` : ''
    return {
      steps,
      sleep_ms: wait_ms,
      why: decision.waiting_for ? `waiting for ${decision.waiting_for}` : 'nothing is asked of it',
      done: decision.done,
      state,
      details: `**${instance.name}**: ${state}${waiting}${blocker ? `\n\nBlocked: \`${blocker.code}\`, ${blocker.reason}` : ''}`,
    }
  })
}

/** Sets or clears what blocks an instance's action, with its event; the row is locked by the caller. */
async function tellBlocker(trx: Trx, instance_id: string, blocked: BlockerDecision | null, now: Date): Promise<void> {
  const row = await trx.selectFrom('instances').selectAll().where('id', '=', instance_id).executeTakeFirstOrThrow()
  const blocker = toBlocker(row.blocker, blocked, now)
  if (blocker === null && row.blocker === null) return
  const sequence = row.sequence + (blocker?.code === row.blocker?.code ? 0 : 1)
  await trx
    .updateTable('instances')
    .set({ blocker: blocker && JSON.stringify(blocker), sequence })
    .where('id', '=', instance_id)
    .execute()
  if (sequence === row.sequence) return
  const event = (await lastEventId(trx, 'instance', instance_id)) ?? row.wish_event
  await recordEvents(trx, [
    {
      project_id: row.project_id,
      resource_type: 'instance',
      resource_id: instance_id,
      sequence,
      type: blocker ? 'instance.blocked' : 'instance.unblocked',
      from: row.state,
      to: row.state,
      snapshot: { name: row.name, order_id: row.order_id, deployment_id: row.deployment_id, blocker },
      cause: {
        rule: 'wish_terminate',
        reason: blocker?.reason ?? 'nothing blocks it any more',
        ...(event ? { event } : {}),
      },
    },
  ])
}

/**
 * The machine bound to an instance, to be deleted; undefined: there is none (any more), or nobody wishes it gone. The
 * flow that asks may know of a wish that a restored record does not.
 */
export function machineOf(store: Store, instance_id: string) {
  return store.db
    .selectFrom('launch_attempts')
    .innerJoin('instances', 'instances.id', 'launch_attempts.instance_id')
    .select([
      'launch_attempts.id as attempt_id',
      'launch_attempts.provider_id',
      'launch_attempts.cloud_id',
      'launch_attempts.order_id',
    ])
    .where('launch_attempts.instance_id', '=', instance_id)
    .where('launch_attempts.state', '=', 'won')
    .where('launch_attempts.gone_at', 'is', null)
    .where('instances.wish', '=', 'terminate')
    .executeTakeFirst()
}

export function findAction(db: Kysely<Tables>, project_id: string, action_id: string) {
  return db
    .selectFrom('actions')
    .selectAll()
    .where('id', '=', action_id)
    .where('project_id', '=', project_id)
    .executeTakeFirst()
}

/** Actions of an instance, oldest first. */
export function listActions(db: Kysely<Tables>, project_id: string, instance_id: string) {
  return db
    .selectFrom('actions')
    .selectAll()
    .where('instance_id', '=', instance_id)
    .where('project_id', '=', project_id)
    .orderBy('number')
    .execute()
}
