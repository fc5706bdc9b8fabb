/**
 * Actions on single instances, as they are asked for and read: a wish with a number. `instance/<id>` works them off in
 * order, see instance-plan.ts. Locks: instance, action.
 */
import { type Kysely, type Selectable, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import { actionsAllowed, type InstanceAction, stateAfter } from '../domain/instance.ts'
import type { Cause } from '../domain/record.ts'
import { deploymentWorkflowId, instanceWorkflowId } from '../domain/workflow-ids.ts'
import { isAmong, type Store, type Trx, write } from './database.ts'
import { recordEvents } from './events.ts'
import { claimKey } from './idempotency.ts'
import type { Caller, RequestKey } from './orders.ts'
import { wake } from './outbox.ts'
import type { ActionsTable, Tables } from './tables.ts'

/** What is asked of an instance. */
export interface ActionRequest {
  readonly kind: InstanceAction
  /** How a reboot is done; soft asks the system of the machine. */
  readonly reboot?: 'soft' | 'hard'
}

/**
 * Asks for an action on an instance. It has to fit the state the instance is in once its open actions are done. The same
 * as the last open one is that one. A terminate supersedes what else is open. Throws `not_found`, and `conflict` naming
 * state and allowed actions (Cloud State, actions).
 */
export function requestAction(
  store: Store,
  caller: Caller,
  instance_id: string,
  request: ActionRequest,
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
    const instance = await lockInstance(trx, instance_id)
    if (!instance || instance.project_id !== caller.project_id)
      throw new DomainError('not_found', `instance ${instance_id} does not exist`)
    const actions = await trx
      .selectFrom('actions')
      .selectAll()
      .where('instance_id', '=', instance_id)
      .orderBy('number')
      .forNoKeyUpdate()
      .execute()
    const open = actions.filter((action) => action.state === 'queued' || action.state === 'running')
    const same = open.find((action) => isSame(action, request, open))
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
    requireAllowed(instance, request.kind, open)
    await insertAction(trx, instance, {
      id: action_id,
      number: actions.length + 1,
      ...request,
      wished_by: caller.user_id,
      cause: {
        actor: { user_id: caller.user_id, request_id: caller.request_id },
        reason: `${request.kind} requested`,
      },
    })
    return { action_id }
  })
}

/** A terminate is the same wherever it stands; anything else only as the last word. */
function isSame(action: ActionRow, { kind, reboot }: ActionRequest, open: readonly ActionRow[]): boolean {
  if (action.kind !== kind || (action.detail.reboot ?? 'soft') !== (reboot ?? 'soft')) return false
  return kind === 'terminate' || action === open.at(-1)
}

function requireAllowed(instance: InstanceRow, kind: InstanceAction, open: readonly ActionRow[]): void {
  const state = stateAfter(
    instance.state,
    open.map((action) => action.kind),
  )
  const accepted = actionsAllowed(state)
  if (accepted.includes(kind)) return
  const queued = open.length ? `, and ${state} once ${open.map((action) => action.kind).join(', ')} is done` : ''
  const reason = `a ${kind} is not for an instance that is ${instance.state}${queued}`
  throw new DomainError('conflict', `${reason}; allowed: ${accepted.join(', ') || 'nothing'}`, {
    problems: [{ path: 'body.action', reason, accepted }],
  })
}

type ActionRow = Selectable<ActionsTable>
type InstanceRow = NonNullable<Awaited<ReturnType<typeof lockInstance>>>

const lockInstance = (trx: Trx, instance_id: string) =>
  trx.selectFrom('instances').selectAll().where('id', '=', instance_id).forNoKeyUpdate().executeTakeFirst()

/** Wakes the flows of those of these instances that have an open action. */
export async function wakeActing(trx: Trx, instance_ids: readonly string[]): Promise<void> {
  if (!instance_ids.length) return
  const acting = await trx
    .selectFrom('actions')
    .select(['instance_id', 'project_id'])
    .distinct()
    .where(isAmong('instance_id', instance_ids))
    .where('state', 'in', ['queued', 'running'])
    .execute()
  await wake(
    trx,
    acting.map((action) => ({ target: instanceWorkflowId(action.instance_id), project_id: action.project_id })),
  )
}

/** An action to be written. */
export interface NewAction extends ActionRequest {
  readonly id: string
  readonly number: number
  readonly wished_by: string | null
  readonly cause: Cause
  /** The action of its deployment that it is part of. */
  readonly deployment_action?: { readonly id: string; readonly wave: number }
}

/** Writes an action, the wish it is, and its event; the instance is locked. */
export async function insertAction(trx: Trx, instance: InstanceRow, action: NewAction): Promise<void> {
  const { id, number, kind, reboot, wished_by, cause, deployment_action } = action
  if (kind === 'terminate') await supersedeOpen(trx, instance)
  const detail = JSON.stringify(reboot ? { reboot } : {})
  await trx
    .insertInto('actions')
    .values({
      id,
      project_id: instance.project_id,
      instance_id: instance.id,
      number,
      kind,
      detail,
      wished_by,
      deployment_action_id: deployment_action?.id ?? null,
      wave: deployment_action?.wave ?? null,
    })
    .execute()
  const wish = kind === 'terminate' ? 'terminate' : kind === 'stop' ? 'stop' : 'run'
  const sequence = instance.sequence + 1
  const [event] = await recordEvents(trx, [
    {
      project_id: instance.project_id,
      resource_type: 'instance',
      resource_id: instance.id,
      sequence,
      type: 'instance.wish_changed',
      from: instance.state,
      to: instance.state,
      snapshot: {
        name: instance.name,
        order_id: instance.order_id,
        deployment_id: instance.deployment_id,
        wish,
        action: kind,
        action_id: id,
        ...(deployment_action ? { deployment_action_id: deployment_action.id } : {}),
      },
      cause,
    },
  ])
  await trx
    .updateTable('instances')
    .set({
      wish,
      wish_version: instance.wish_version + 1,
      wished_by,
      wished_at: sql<Date>`record_now()`,
      wish_event: event!,
      due_at: sql<Date>`record_now()`,
      sequence,
    })
    .where('id', '=', instance.id)
    .execute()
  await wake(trx, [{ target: instanceWorkflowId(instance.id), project_id: instance.project_id }])
}

/** A hard reboot by a rule, to heal a machine that failed. */
export async function healByRestart(trx: Trx, instance_id: string, cause: Cause): Promise<void> {
  const instance = await lockInstance(trx, instance_id)
  if (instance?.state !== 'failed' || instance.wish !== 'run') return
  const { last } = await trx
    .selectFrom('actions')
    .select((e) => e.fn.max('number').as('last'))
    .where('instance_id', '=', instance_id)
    .executeTakeFirstOrThrow()
  const action = { id: newId(), number: (last ?? 0) + 1, kind: 'reboot' as const, reboot: 'hard' as const }
  await insertAction(trx, instance, { ...action, wished_by: null, cause })
}

export async function supersedeOpen(trx: Trx, { id, deployment_id, project_id }: InstanceRow): Promise<void> {
  const superseded = await trx
    .updateTable('actions')
    .set({ state: 'superseded', finished_at: sql<Date>`record_now()` })
    .where('instance_id', '=', id)
    .where('state', 'in', ['queued', 'running'])
    .returning('deployment_action_id')
    .execute()
  if (superseded.some(({ deployment_action_id }) => deployment_action_id))
    await wake(trx, [{ target: deploymentWorkflowId(deployment_id), project_id }])
}

/** One action of a project. */
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
