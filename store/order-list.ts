/** Launch orders as lists and single pages show them: with names instead of ids, and counts of their items. */
import { type Kysely, sql } from 'kysely'
import { shownBlocker } from './database.ts'
import type { Tables } from './tables.ts'

export interface OrderQuery {
  readonly state?: string | undefined
  readonly deployment_id?: string | undefined
  readonly lease_id?: string | undefined
  readonly before?: string | undefined
  readonly limit: number
}

const CLOUD_NAMES = sql<string[]>`array(
  select clouds.name from unnest(launch_orders.cloud_ids) with ordinality as wanted (id, place)
  join clouds on clouds.id = wanted.id order by wanted.place)`

const COUNTS = sql<Record<string, number>>`coalesce((
  select jsonb_object_agg(state, number) from (
    select state, count(*) as number from items where order_id = launch_orders.id group by state) as counted), '{}')`

const orders = (db: Kysely<Tables>, project_id: string) =>
  db
    .selectFrom('launch_orders')
    .innerJoin('deployments', 'deployments.id', 'launch_orders.deployment_id')
    .selectAll('launch_orders')
    .select([
      'deployments.name as deployment',
      CLOUD_NAMES.as('clouds'),
      COUNTS.as('counts'),
      shownBlocker('launch_orders').as('blocker'),
    ])
    .where('launch_orders.project_id', '=', project_id)

/** One order for its page; undefined: not there, or another project's. */
export function showOrder(db: Kysely<Tables>, project_id: string, order_id: string) {
  return orders(db, project_id).where('launch_orders.id', '=', order_id).executeTakeFirst()
}

export type ShownOrder = NonNullable<Awaited<ReturnType<typeof showOrder>>>

/** Orders of a project, newest first. */
export function listOrders(db: Kysely<Tables>, project_id: string, query: OrderQuery) {
  let rows = orders(db, project_id).orderBy('launch_orders.id', 'desc').limit(query.limit)
  if (query.before) rows = rows.where('launch_orders.id', '<', query.before)
  if (query.state) rows = rows.where(sql`launch_orders.state`, '=', query.state)
  if (query.deployment_id) rows = rows.where('launch_orders.deployment_id', '=', query.deployment_id)
  if (query.lease_id) rows = rows.where('launch_orders.lease_id', '=', query.lease_id)
  return rows.execute()
}

/** Launch attempts of an order, newest first. */
export function listAttempts(
  db: Kysely<Tables>,
  order_id: string,
  page: { limit: number; before?: string | undefined },
) {
  const rows = db
    .selectFrom('launch_attempts')
    .innerJoin('items', 'items.id', 'launch_attempts.item_id')
    .innerJoin('clouds', 'clouds.id', 'launch_attempts.cloud_id')
    .selectAll('launch_attempts')
    .select(['items.number as item', 'clouds.name as cloud'])
    .where('launch_attempts.order_id', '=', order_id)
    .orderBy('launch_attempts.id', 'desc')
    .limit(page.limit)
  return (page.before ? rows.where('launch_attempts.id', '<', page.before) : rows).execute()
}
