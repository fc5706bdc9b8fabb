/** Deployments as readers see them, and their state, which is derived from their orders. */
import { type Kysely, sql } from 'kysely'
import type { OrderState } from '../domain/order/view.ts'
import type { Trx } from './database.ts'
import type { NewEvent } from './events.ts'
import type { Tables } from './tables.ts'

const INSTANCES = sql<Record<string, number>>`coalesce((
  select jsonb_object_agg(state, number) from (
    select state, count(*) as number from instances where deployment_id = deployments.id group by state) as counted), '{}')`
const ORDERS = sql<Record<string, number>>`coalesce((
  select jsonb_object_agg(state, number) from (
    select state, count(*) as number from launch_orders where deployment_id = deployments.id group by state) as counted), '{}')`

const deployments = (db: Kysely<Tables>, project_id: string) =>
  db
    .selectFrom('deployments')
    .selectAll()
    .select([INSTANCES.as('instances'), ORDERS.as('orders')])
    .where('project_id', '=', project_id)

/** One deployment with its counts; undefined: not there, or another project's. */
export function findDeployment(db: Kysely<Tables>, project_id: string, deployment_id: string) {
  return deployments(db, project_id).where('id', '=', deployment_id).executeTakeFirst()
}

export type ShownDeployment = NonNullable<Awaited<ReturnType<typeof findDeployment>>>

/** Deployments of a project, newest first. */
export function listDeployments(
  db: Kysely<Tables>,
  project_id: string,
  query: {
    readonly state?: string | undefined
    readonly name?: string | undefined
    readonly before?: string | undefined
    readonly limit: number
  },
) {
  let rows = deployments(db, project_id).orderBy('id', 'desc').limit(query.limit)
  if (query.before) rows = rows.where('id', '<', query.before)
  if (query.state) rows = rows.where('state', '=', query.state)
  if (query.name) rows = rows.where('name', '=', query.name)
  return rows.execute()
}

/** State of a deployment as a whole, from the states of its orders. */
function deploymentState(states: readonly string[]): string {
  const has = (state: string) => states.includes(state)
  for (const state of ['held', 'compensating', 'terminating', 'launching', 'settling', 'queued', 'running'])
    if (has(state)) return state
  return has('failed') ? 'failed' : has('terminated') ? 'terminated' : 'cancelled'
}

/**
 * Derives a deployment's state from its orders, one of them as it was decided just now; returns the event that tells it,
 * if it has changed, to be recorded behind the one it follows from.
 */
export async function deriveDeployment(
  trx: Trx,
  deployment_id: string,
  cause_event: string,
  decided?: { readonly id: string; readonly state: OrderState },
): Promise<NewEvent[]> {
  const deployment = await trx
    .selectFrom('deployments')
    .selectAll()
    .where('id', '=', deployment_id)
    .forNoKeyUpdate()
    .executeTakeFirstOrThrow()
  const orders = await trx
    .selectFrom('launch_orders')
    .select(['id', 'state'])
    .where('deployment_id', '=', deployment_id)
    .execute()
  const states = orders.map(({ id, state }) => (id === decided?.id ? decided.state : state))
  const state = deploymentState(states)
  if (state === deployment.state) return []
  const sequence = deployment.sequence + 1
  await trx.updateTable('deployments').set({ state, sequence }).where('id', '=', deployment_id).execute()
  return [
    {
      project_id: deployment.project_id,
      resource_type: 'deployment',
      resource_id: deployment.id,
      sequence,
      type: 'deployment.state_changed',
      from: deployment.state,
      to: state,
      snapshot: { name: deployment.name },
      cause: {
        rule: 'derived_from_orders',
        reason: `its orders are ${[...new Set(states)].join(', ')}`,
        event: cause_event,
      },
    },
  ]
}
