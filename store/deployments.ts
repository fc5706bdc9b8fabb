/** Deployments as readers see them. Their state is derived from their orders, see store/orders.ts. */
import { type Kysely, sql } from 'kysely'
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
