/**
 * Actions on whole deployments, as they are asked for and read. `deployment/<id>` works them off, see deployment-plan.ts.
 * Locks: the deployment's open action, and the deployment's row last of all, as everybody who tells an event of it does.
 */
import { type Kysely, type Selectable, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { type DeploymentAction, deploymentActionsAllowed, waveSizeOf } from '../domain/deployment.ts'
import { DomainError } from '../domain/errors.ts'
import { type InstanceAction, stateAfter } from '../domain/instance.ts'
import type { Cause } from '../domain/record.ts'
import { deploymentWorkflowId } from '../domain/workflow-ids.ts'
import { Overtaken, type Store, type Trx } from './database.ts'
import { recordEvents } from './events.ts'
import { changeOnce } from './idempotency.ts'
import type { Caller, RequestKey } from './orders.ts'
import { wake } from './outbox.ts'
import type { DeploymentActionsTable, Tables } from './tables.ts'

/** What is asked of a deployment. */
export interface DeploymentActionRequest {
  readonly kind: DeploymentAction
  /** Instances acted on at the same time; left out: a fifth of them. A terminate has no waves. */
  readonly wave_size?: number
}

/**
 * Asks for an action on all instances of a deployment. The same as the open one is that one; a terminate supersedes the
 * open one. Throws `not_found`, and `conflict` naming state and allowed actions.
 */
export async function requestDeploymentAction(
  store: Store,
  caller: Caller,
  deployment_id: string,
  request: DeploymentActionRequest,
  key: RequestKey | null,
): Promise<{ action_id: string }> {
  const made = { status: 202, resource_type: 'deployment_action', resource_id: newId() }
  const { resource_id } = await changeOnce(store, caller, key, made, async (trx) => {
    const deployment = await trx
      .selectFrom('deployments')
      .select(['name', 'state'])
      .where('id', '=', deployment_id)
      .where('project_id', '=', caller.project_id)
      .executeTakeFirst()
    if (!deployment) throw new DomainError('not_found', `deployment ${deployment_id} does not exist`)
    const open = await lockOpenAction(trx, deployment_id)
    if (open && isSame(open, request)) return { resource_id: open.id }
    const members = await memberStates(trx, deployment_id)
    requireAllowed(deployment.state, open, members, request)
    if (open) await supersede(trx, open.id)
    await insertDeploymentAction(trx, caller, deployment_id, made.resource_id, {
      kind: request.kind,
      wave_size: request.kind === 'terminate' ? null : (request.wave_size ?? waveSizeOf(members.length)),
    })
    return {}
  })
  return { action_id: resource_id }
}

type ActionRow = Selectable<DeploymentActionsTable>

/** Locks the action of a deployment that is not over: whoever has it is alone in acting on the whole. */
export function lockOpenAction(trx: Trx, deployment_id: string): Promise<ActionRow | undefined> {
  return trx
    .selectFrom('deployment_actions')
    .selectAll()
    .where('deployment_id', '=', deployment_id)
    .where('state', '=', 'running')
    .forNoKeyUpdate()
    .executeTakeFirst()
}

const isSame = (open: ActionRow, { kind, wave_size }: DeploymentActionRequest): boolean =>
  open.kind === kind && (wave_size === undefined || wave_size === open.wave_size)

/** The last open action of an instance. */
export const LAST_OPEN = sql<InstanceAction | null>`(
  select kind from actions where instance_id = instances.id and actions.state in ('queued', 'running')
  order by number desc limit 1)`

/** The state of a row with `LAST_OPEN` once its open actions are done. */
export const stateToCome = (row: { readonly state: string; readonly last_open: InstanceAction | null }): string =>
  stateAfter(row.state, row.last_open ? [row.last_open] : [])

/** The states that the instances of a deployment come to, of all that are not terminated. */
async function memberStates(trx: Trx, deployment_id: string): Promise<string[]> {
  const rows = await trx
    .selectFrom('instances')
    .select(['state', LAST_OPEN.as('last_open')])
    .where('deployment_id', '=', deployment_id)
    .where('state', '!=', 'terminated')
    .execute()
  return rows.map(stateToCome)
}

function requireAllowed(
  state: string,
  open: ActionRow | undefined,
  members: readonly string[],
  { kind, wave_size }: DeploymentActionRequest,
): void {
  const accepted = deploymentActionsAllowed({ state, open: open?.kind ?? null, members })
  const other_size = open?.kind === kind && kind !== 'terminate'
  if (accepted.includes(kind) && !other_size) return
  const counts = Map.groupBy(members, (member) => member)
  const instances = [...counts].map(([member, { length }]) => `${length} ${member}`).join(', ') || 'none'
  const underway = open ? `, and its ${open.kind}${inWaves(open)} is not over` : ''
  const reason = `a ${kind}${inWaves({ wave_size: wave_size ?? null })} is not for a deployment that is ${state} (instances: ${instances})${underway}`
  throw new DomainError('conflict', `${reason}; allowed: ${accepted.join(', ') || 'nothing'}`, {
    problems: [{ path: 'body.action', reason, accepted: [...accepted] }],
  })
}

const inWaves = ({ wave_size }: { readonly wave_size: number | null }): string =>
  wave_size === null ? '' : ` in waves of ${wave_size}`

async function supersede(trx: Trx, action_id: string): Promise<void> {
  await trx
    .updateTable('deployment_actions')
    .set({ state: 'superseded', due_at: null, finished_at: sql<Date>`record_now()` })
    .where('id', '=', action_id)
    .execute()
}

/** Writes an action and the wish it is. Throws `Overtaken` where somebody else was quicker. */
async function insertDeploymentAction(
  trx: Trx,
  caller: Caller,
  deployment_id: string,
  id: string,
  { kind, wave_size }: { readonly kind: DeploymentAction; readonly wave_size: number | null },
): Promise<void> {
  const wish_event = await tellDeployment(
    trx,
    deployment_id,
    'deployment.wish_changed',
    { wish: kind, action: kind, action_id: id, wave_size },
    { actor: { user_id: caller.user_id, request_id: caller.request_id }, reason: `${kind} requested` },
  )
  const inserted = await trx
    .insertInto('deployment_actions')
    .values({
      id,
      project_id: caller.project_id,
      deployment_id,
      number: sql<number>`(select coalesce(max(number), 0) + 1 from deployment_actions where deployment_id = ${deployment_id})`,
      kind,
      wave_size,
      wished_by: caller.user_id,
      wish_event,
      due_at: sql<Date>`record_now()`,
    })
    .onConflict((conflict) => conflict.doNothing())
    .returning('id')
    .executeTakeFirst()
  if (!inserted) throw new Overtaken(`another action on deployment ${deployment_id} was quicker`)
  await wake(trx, [{ target: deploymentWorkflowId(deployment_id), project_id: caller.project_id }])
}

/** An event of a deployment that changes no state; returns its id. */
export async function tellDeployment(
  trx: Trx,
  deployment_id: string,
  type: string,
  more: Readonly<Record<string, unknown>>,
  cause: Cause,
): Promise<string> {
  const { project_id, sequence, state, name } = await trx
    .updateTable('deployments')
    .set({ sequence: sql<number>`sequence + 1` })
    .where('id', '=', deployment_id)
    .returning(['project_id', 'sequence', 'state', 'name'])
    .executeTakeFirstOrThrow()
  const [event] = await recordEvents(trx, [
    {
      project_id,
      resource_type: 'deployment',
      resource_id: deployment_id,
      sequence,
      type,
      from: state,
      to: state,
      snapshot: { name, ...more },
      cause,
    },
  ])
  return event!
}

/** Wakes the flow of a deployment that has an action open. */
export async function wakeDeployment(trx: Trx, deployment_id: string): Promise<void> {
  const open = await trx
    .selectFrom('deployment_actions')
    .select('project_id')
    .where('deployment_id', '=', deployment_id)
    .where('state', '=', 'running')
    .executeTakeFirst()
  if (open) await wake(trx, [{ target: deploymentWorkflowId(deployment_id), project_id: open.project_id }])
}

// Reading ------------------------------------------------------------------------------------------------------------

/** Instances by what an action came to with them. */
export interface DeploymentActionCounts {
  /** Not looked at yet. */
  readonly waiting: number
  readonly open: number
  readonly done: number
  readonly failed: number
  readonly superseded: number
  /** It did not fit them. */
  readonly skipped: number
}

const COUNTS = sql<DeploymentActionCounts>`case kind when 'terminate' then (
    select jsonb_build_object('waiting', 0, 'failed', 0, 'superseded', 0,
      'open', count(*) filter (where state <> 'terminated' and deployment_actions.state = 'running'),
      'done', count(*) filter (where state = 'terminated'),
      'skipped', count(*) filter (where state <> 'terminated' and deployment_actions.state <> 'running'))
    from instances where deployment_id = deployment_actions.deployment_id and created_at <= deployment_actions.created_at
      and (state <> 'terminated' or terminated_at >= deployment_actions.created_at))
  else (
    select jsonb_build_object('skipped', deployment_actions.skipped,
      'waiting', case deployment_actions.state when 'running' then (select count(*) from instances
        where deployment_id = deployment_actions.deployment_id and created_at <= deployment_actions.created_at
          and instances.state <> 'terminated' and instances.id > coalesce(last_id, '00000000-0000-0000-0000-000000000000'))
        else 0 end,
      'open', count(*) filter (where state in ('queued', 'running')), 'done', count(*) filter (where state = 'done'),
      'failed', count(*) filter (where state = 'failed'), 'superseded', count(*) filter (where state = 'superseded'))
    from actions where deployment_action_id = deployment_actions.id) end`

const shown = (db: Kysely<Tables>, deployment_id: string) =>
  db.selectFrom('deployment_actions').selectAll().select(COUNTS.as('counts')).where('deployment_id', '=', deployment_id)

/** One action of a deployment; undefined: not there, or of another deployment. */
export const findDeploymentAction = (db: Kysely<Tables>, deployment_id: string, action_id: string) =>
  shown(db, deployment_id).where('id', '=', action_id).executeTakeFirst()

export type ShownDeploymentAction = NonNullable<Awaited<ReturnType<typeof findDeploymentAction>>>

/** Actions of a deployment, newest first. */
export const listDeploymentActions = (
  db: Kysely<Tables>,
  deployment_id: string,
  page: { readonly limit: number; readonly before?: string | undefined },
) => {
  const rows = shown(db, deployment_id).orderBy('id', 'desc').limit(page.limit)
  return (page.before ? rows.where('id', '<', page.before) : rows).execute()
}
