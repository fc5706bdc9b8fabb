/**
 * Planning the action of a whole deployment: opens the actions of its instances, a wave at a time, or ends its orders;
 * their own flows do the rest and wake this one. Safe to run again at any time.
 *
 * Locks: the open action; then the instances of a wave, or orders; the deployment's row last of all.
 */
import { type Selectable, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import {
  actionFor,
  chooseWave,
  type DeploymentDecision,
  type DeploymentView,
  decideDeployment,
  WAVE_MAX,
} from '../domain/deployment.ts'
import { LOST_WAKE_MS, type Plan } from '../domain/plan.ts'
import type { Cause } from '../domain/record.ts'
import { deploymentWorkflowId } from '../domain/workflow-ids.ts'
import { insertAction } from './actions.ts'
import { type Store, type Trx, write } from './database.ts'
import { LAST_OPEN, lockOpenAction, stateToCome, tellDeployment } from './deployment-actions.ts'
import { wishEnd } from './orders.ts'
import { answerWakes } from './outbox.ts'
import type { DeploymentActionsTable } from './tables.ts'

type ActionRow = Selectable<DeploymentActionsTable>

/** Instances looked at for one wave: most of them may be such that the action does not fit. */
const LOOKED_AT_MAX = 1_000
/** Orders ended in one transaction. */
const ORDERS_MAX = 25
/** Transactions of one plan. */
const ROUNDS_MAX = 4

/** Plans the open action of a deployment; without one there is nothing to do. */
export async function planDeployment(store: Store, deployment_id: string): Promise<Plan> {
  for (let round = 1; ; round++) {
    const { plan, again } = await write(store, (trx) => planOnce(trx, deployment_id))
    if (!again) return plan
    if (round === ROUNDS_MAX) return { ...plan, sleep_ms: 1 }
  }
}

async function planOnce(trx: Trx, deployment_id: string): Promise<{ plan: Plan; again: boolean }> {
  await answerWakes(trx, deploymentWorkflowId(deployment_id))
  const action = await lockOpenAction(trx, deployment_id)
  if (!action) return { plan: NOTHING_TO_DO, again: false }
  const decision = decideDeployment(await viewOf(trx, action))
  if (decision.step === 'begin_wave') await beginWave(trx, action)
  if (decision.step === 'end_orders') await endOrders(trx, action)
  if (decision.ends) await endDeploymentAction(trx, action, decision.ends)
  else
    await trx
      .updateTable('deployment_actions')
      .set({
        waiting_for: decision.waiting_for,
        due_at: sql<Date>`record_now() + ${LOST_WAKE_MS} * interval '1 ms'`,
      })
      .where('id', '=', action.id)
      .execute()
  return { plan: toPlan(action, decision), again: decision.step !== null }
}

const NOTHING_TO_DO: Plan = {
  steps: [],
  sleep_ms: null,
  why: '',
  done: true,
  state: 'open',
  details: 'nothing is asked of it',
}

function toPlan({ kind, number }: ActionRow, { ends, waiting_for }: DeploymentDecision): Plan {
  const state = ends?.state ?? 'running'
  return {
    steps: [],
    // A wake that is lost with the engine costs no more than this.
    sleep_ms: ends ? null : LOST_WAKE_MS,
    why: `waiting for ${waiting_for}`,
    done: ends !== null,
    state,
    details: `Action ${number}, **${kind}**: ${state}${ends ? '' : `\n\nWaiting for ${waiting_for}`}`,
  }
}

/** Those the action is about: instances, or orders, that were there when it was asked for and were not looked at yet. */
const instancesLeft = (trx: Trx, { deployment_id, created_at, last_id }: ActionRow) => {
  const rows = trx
    .selectFrom('instances')
    .where('deployment_id', '=', deployment_id)
    .where('created_at', '<=', created_at)
    .where('state', '!=', 'terminated')
  return last_id === null ? rows : rows.where('id', '>', last_id)
}

const ordersLeft = (trx: Trx, { deployment_id, created_at, last_id }: ActionRow) => {
  const rows = trx
    .selectFrom('launch_orders')
    .where('deployment_id', '=', deployment_id)
    .where('created_at', '<=', created_at)
    .where('state', 'not in', ['cancelled', 'terminated'])
  return last_id === null ? rows : rows.where('id', '>', last_id)
}

const COUNT = sql<number>`count(*)::int`.as('left')

async function viewOf(trx: Trx, action: ActionRow): Promise<DeploymentView> {
  const { kind, wave } = action
  const of_those_left =
    kind === 'terminate' ? ordersLeft(trx, action).select(COUNT) : instancesLeft(trx, action).select(COUNT)
  const { left } = await of_those_left.executeTakeFirstOrThrow()
  const { rows } = await sql<{ opened: number; open: number; failed: number; orders_open: number }>`
    select count(*)::int as opened, count(*) filter (where state in ('queued', 'running'))::int as open,
      count(*) filter (where state = 'failed')::int as failed,
      case ${kind}::text when 'terminate' then (select count(*) from launch_orders
        where deployment_id = ${action.deployment_id} and created_at <= ${action.created_at}
          and (state not in ('cancelled', 'terminated', 'failed') or due_at is not null)) else 0 end::int as orders_open
    from actions where deployment_action_id = ${action.id} and wave = ${wave}`.execute(trx)
  const { orders_open, ...of_wave } = rows[0]!
  return { kind, wave, of_wave, left, orders_open }
}

const causeOf = ({ wish_event }: ActionRow, rule: string, reason: string): Cause => ({
  rule,
  reason,
  ...(wish_event ? { event: wish_event } : {}),
})

/** Opens the actions of the next wave; where all that were looked at are passed over it is none yet. */
async function beginWave(trx: Trx, action: ActionRow): Promise<void> {
  const rows = await instancesLeft(trx, action)
    .select(['id', 'state', LAST_OPEN.as('last_open')])
    .orderBy('id')
    .limit(LOOKED_AT_MAX)
    .execute()
  const members = rows.map((row) => ({ id: row.id, state: stateToCome(row) }))
  const { chosen, skipped, last } = chooseWave(action.kind, members, action.wave_size ?? WAVE_MAX)
  const opened = await openActions(trx, action, chosen)
  await trx
    .updateTable('deployment_actions')
    .set({
      wave: action.wave + (opened ? 1 : 0),
      skipped: action.skipped + skipped + chosen.length - opened,
      last_id: last ?? action.last_id,
    })
    .where('id', '=', action.id)
    .execute()
}

/** Opens an action for each instance that it still fits now that they are locked; returns for how many. */
async function openActions(trx: Trx, action: ActionRow, instance_ids: readonly string[]): Promise<number> {
  if (!instance_ids.length) return 0
  const instances = await trx
    .selectFrom('instances')
    .selectAll()
    .where('id', 'in', instance_ids)
    .orderBy('id')
    .forNoKeyUpdate()
    .execute()
  const now = await trx
    .selectFrom('instances')
    .select(['id', 'state', LAST_OPEN.as('last_open')])
    .select(sql<number>`(select coalesce(max(number), 0) from actions where instance_id = instances.id)`.as('actions'))
    .where('id', 'in', instance_ids)
    .execute()
  const wave = action.wave + 1
  const cause = causeOf(action, 'deployment_action', `${action.kind} of its deployment, wave ${wave}`)
  let opened = 0
  for (const instance of instances) {
    const row = now.find(({ id }) => id === instance.id)!
    const kind = actionFor(action.kind, stateToCome(row))
    if (!kind) continue
    await insertAction(trx, instance, {
      id: newId(),
      number: row.actions + 1,
      kind,
      wished_by: action.wished_by,
      cause,
      deployment_action: { id: action.id, wave },
    })
    opened++
  }
  return opened
}

/** Wishes the end of the next orders. */
async function endOrders(trx: Trx, action: ActionRow): Promise<void> {
  const orders = await ordersLeft(trx, action).selectAll().orderBy('id').limit(ORDERS_MAX).forNoKeyUpdate().execute()
  const cause = causeOf(action, 'deployment_action', 'terminate of its deployment')
  for (const order of orders) await wishEnd(trx, order, cause, action.wished_by)
  await trx
    .updateTable('deployment_actions')
    .set({ last_id: orders.at(-1)?.id ?? action.last_id })
    .where('id', '=', action.id)
    .execute()
}

async function endDeploymentAction(
  trx: Trx,
  action: ActionRow,
  ends: NonNullable<DeploymentDecision['ends']>,
): Promise<void> {
  const error = ends.state === 'failed' ? { ...ends.error, at: new Date().toISOString() } : null
  await trx
    .updateTable('deployment_actions')
    .set({
      state: ends.state,
      error: error && JSON.stringify(error),
      waiting_for: null,
      due_at: null,
      finished_at: sql<Date>`record_now()`,
    })
    .where('id', '=', action.id)
    .execute()
  await tellDeployment(
    trx,
    action.deployment_id,
    `deployment.action_${ends.state}`,
    { action: action.kind, action_id: action.id, error },
    causeOf(
      action,
      'action_ended',
      error ? `its ${action.kind} came to nothing: ${error.message}` : `its ${action.kind} is done`,
    ),
  )
}
