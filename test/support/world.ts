/**
 * A harness with witnesses: every request a client made, every delivery a receiver got, every cloud's ledger. At the
 * end the outside checker judges all of it together.
 */
import { sql } from 'kysely'
import { expect } from 'vitest'
import { collect } from '../../chaos/checker/collect.ts'
import { judge, type Verdict } from '../../chaos/checker/judge.ts'
import type { ClientEntry, ClientKind, Promised } from '../../chaos/checker/ledgers.ts'
import { parseWorkflowId } from '../../domain/workflow-ids.ts'
import { SETTLE_TIMEOUT_MS, type ShownLease, type ShownOrder, submitLease, submitOrder } from './flow.ts'
import { type CloudOptions, type Harness, type HarnessOptions, type Project, startHarness } from './harness.ts'
import { type Receiver, startReceiver } from './receiver.ts'
import { waitFor } from './wait-for.ts'

/** A project with a cloud of its own and a hook that hears of everything. */
export interface Place {
  readonly project: Project
  readonly cloud: Awaited<ReturnType<Harness['cloud']>>
  readonly hook: { readonly id: string; readonly receiver: Receiver }
}

export interface World {
  readonly h: Harness
  place(options?: CloudOptions): Promise<Place>
  addHook(project: Project): Promise<Place['hook']>
  order(project: Project, order?: Record<string, unknown>): Promise<ShownOrder>
  lease(project: Project, lease: Parameters<typeof submitLease>[1]): Promise<ShownLease>
  /** A write whose success is a promise, put down for the judge. */
  change(
    project: Project,
    kind: ClientKind,
    resource_id: string,
    method: string,
    path: string,
    body?: unknown,
  ): Promise<number>
  /** Puts down a request that a test made by itself. */
  note(kind: ClientKind, resource_id: string, sent_at_ms: number, status: number | null): void
  /** Project of the noun a workflow looks after. */
  projectOf(workflow_id: string): Promise<string | null>
  /** What a running workflow says in the Temporal UI. */
  details(workflow_id: string): Promise<string>
  /** Waits until nothing is open any more. */
  untilQuiet(): Promise<void>
  /** Waits until all is quiet, then judges everything that happened. */
  judgeAll(): Promise<Verdict>
  close(): Promise<void>
}

const SETTLE_MS = 2_500
const WATCH_PERIOD_MS = 31_000

export async function startWorld(options: HarnessOptions = {}): Promise<World> {
  const h = await startHarness(options)
  const client: ClientEntry[] = []
  const projects: Project[] = []
  const clouds: string[] = []
  const hooks: Place['hook'][] = []

  const noting = async <T extends { id: string }>(
    kind: ClientKind,
    promised: Promised,
    job: () => Promise<T>,
  ): Promise<T> => {
    const sent_at_ms = Date.now()
    const note = (resource_id: string, status: number | null) =>
      client.push({ kind, resource_id, sent_at_ms, at_ms: Date.now(), status, promised })
    try {
      const made = await job()
      note(made.id, 202)
      return made
    } catch (error) {
      note('', null) // nobody knows whether it was accepted
      throw error
    }
  }

  const world: World = {
    h,
    async place(cloud_options) {
      const project = await h.project()
      projects.push(project)
      const cloud = await h.cloud(project, cloud_options)
      clouds.push(cloud.name)
      return { project, cloud, hook: await world.addHook(project) }
    },
    async addHook(project) {
      const receiver = await startReceiver()
      const { id } = await noting('hook', {}, async () => {
        const { body } = await project.api.post<{ hook: { id: string; secret: string } }>('/api/hooks', {
          uri: receiver.uri,
        })
        receiver.secrets = [body.hook.secret]
        return body.hook
      })
      hooks.push({ id, receiver })
      return { id, receiver }
    },
    order(project, order = {}) {
      const { count = 2, policy = 'all', at_least } = order as { count?: number; policy?: 'all'; at_least?: number }
      return noting('order', { count, policy, ...(at_least ? { at_least } : {}) }, () => submitOrder(project, order))
    },
    lease(project, lease) {
      const promised = lease.hosts ? { hosts: lease.hosts.count } : {}
      return noting('lease', promised, () => submitLease(project, lease))
    },
    async change(project, kind, resource_id, method, path, body) {
      const sent_at_ms = Date.now()
      const note = (status: number | null) => client.push({ kind, resource_id, sent_at_ms, at_ms: Date.now(), status })
      try {
        const { status } = await project.api.request(method, path, body)
        note(status)
        return status
      } catch (error) {
        note(null)
        throw error
      }
    },
    note(kind, resource_id, sent_at_ms, status) {
      client.push({ kind, resource_id, sent_at_ms, at_ms: Date.now(), status })
    },
    async projectOf(workflow_id) {
      const { kind, id } = parseWorkflowId(workflow_id)
      const table = (
        {
          order: 'launch_orders',
          instance: 'instances',
          deployment: 'deployments',
          lease: 'leases',
          hook: 'hooks',
        } as const
      )[kind as 'order']
      if (!table) return null
      const row = await h.store.db.selectFrom(table).select('project_id').where('id', '=', id).executeTakeFirst()
      return row?.project_id ?? null
    },
    async details(workflow_id) {
      const handle = h.temporal.workflow.getHandle(workflow_id)
      const metadata = await handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata').catch(() => null)
      return metadata?.currentDetails ?? ''
    },
    untilQuiet: () => untilQuiet(h),
    async judgeAll() {
      await untilQuiet(h)
      const ledgers = await collect({
        api_url: h.service.url!,
        projects: projects.map(({ name, token }) => ({ name, token })),
        simulated_url: h.simulated_url,
        cloud_names: clouds,
        installation_id: h.service.installation_id,
        client,
        receivers: hooks.map(({ id, receiver }) => ({
          hook_id: id,
          deliveries: receiver.ledger.map((received) => ({
            at_ms: performance.timeOrigin + received.at_ms,
            webhook_id: received.event_id,
            attempt: received.attempt,
            body: received.body.toString('utf8'),
            answered_status: received.status || null,
          })),
        })),
      })
      const verdict = judge(ledgers, { settle_ms: SETTLE_MS, watch_period_ms: WATCH_PERIOD_MS, faults: true })
      // At least once: what was in flight when a process died may come again.
      expect(verdict.violations.filter((line) => !line.startsWith('duplicates:'))).toEqual([])
      expect(verdict).toMatchObject({ ok: true, unjudged: [] })
      return verdict
    },
    async close() {
      await h.close()
      await Promise.all(hooks.map(({ receiver }) => receiver.close()))
    },
  }
  return world
}

/** Orders, leases, actions and deliveries that are not over, by what and state. */
async function openNouns(h: Harness): Promise<Record<string, number>> {
  const { rows } = await sql<{ what: string; count: number }>`
    select what, count(*)::int as count from (
      select 'order ' || state as what from launch_orders where state not in ('running', 'cancelled', 'terminated', 'failed') or due_at is not null
      union all select 'lease ' || state from leases where state not in ('TERMINATED', 'ERROR')
      union all select 'action ' || state from actions where state in ('queued', 'running')
      union all select 'deployment ' || kind from deployment_actions where state = 'running'
      union all select 'tagging to ' || wish from taggings
      union all select 'entry of the inventory, ' || coalesce(error ->> 'message', 'no error')
        from inventory join instances on instances.id = instance_id where request_id is not null and due_at is not null
      union all select 'removal of an orphan' from orphans where removal is not null and gone_at is null
      union all select 'delivery ' || deliveries.state || ', its hook ' || hooks.state || ' with its ' || owner
        from deliveries join hooks on hooks.id = hook_id where deliveries.state in ('pending', 'in_flight', 'waiting')
    ) open group by what`.execute(h.store.db)
  return Object.fromEntries(rows.map(({ what, count }) => [what, count]))
}

/** Waits until nothing is open; says what is, if that is in vain. */
async function untilQuiet(h: Harness): Promise<void> {
  let open: Record<string, number> = {}
  try {
    await waitFor(
      async () => {
        open = await openNouns(h)
        return Object.keys(open).length === 0
      },
      { what: 'everything to settle', timeout_ms: 2 * SETTLE_TIMEOUT_MS, interval_ms: 200 },
    )
  } catch (error) {
    throw new Error(`still open: ${JSON.stringify(open)}`, { cause: error })
  }
}
