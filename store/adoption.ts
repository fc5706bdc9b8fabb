/**
 * Adoption: a machine that is there already, ours by its tag or a stranger's, becomes the machine of a new launch order of
 * one. The record comes first; its tags follow, see taggings.ts. Locks: cloud; the rest is new, but perhaps its deployment.
 */
import { type Kysely, type Selectable, sql } from 'kysely'
import { v7 as newId } from 'uuid'
import { DomainError } from '../domain/errors.ts'
import type { Machine } from '../domain/machine.ts'
import type { Cause } from '../domain/record.ts'
import { instanceWorkflowId } from '../domain/workflow-ids.ts'
import { mayUse } from './clouds.ts'
import { conflictOn, leave, type Trx } from './database.ts'
import { deriveDeployment } from './deployments.ts'
import { recordEvents } from './events.ts'
import type { Caller } from './orders.ts'
import { tellCloud } from './orphans.ts'
import { wake } from './outbox.ts'
import type { CloudsTable, InstancesTable, Tables } from './tables.ts'
import { openTagging } from './taggings.ts'

type CloudRow = Selectable<CloudsTable>
type InstanceState = Selectable<InstancesTable>['state']

/** What is asked for: a machine as its cloud tells it, and what becomes of it. */
export interface AdoptionRequest {
  readonly cloud_id: string
  readonly machine: Machine
  /** When the cloud was asked (real time). */
  readonly observed_at: Date
  readonly project: { readonly id: string; readonly name: string }
  /** Left out: its name at the cloud. */
  readonly name?: string | undefined
  /** Left out: one of its own. */
  readonly deployment?: string | undefined
}

/** What an adoption makes; null where it is only known afterwards. */
export interface Adoption {
  readonly cloud: string
  readonly provider_id: string
  readonly raw_state: string
  readonly project: string
  readonly name: string
  readonly deployment: string | null
  readonly state: string
  readonly size: string
  readonly image: string
}

/** States that a machine is adopted in; one whose word nobody knows, or that is still booting, has yet to be seen running. */
const ADOPTED_AS: Readonly<Record<string, InstanceState>> = {
  pending: 'starting',
  starting: 'starting',
  unknown: 'starting',
  running: 'running',
  stopping: 'stopping',
  stopped: 'stopped',
  rebooting: 'rebooting',
}

/**
 * What the adoption would make. Throws `not_found` where the machine is gone, and `conflict` where it may not be adopted:
 * bound already, another installation's, on its way out. Inside a transaction the cloud is locked by the caller.
 */
export async function planAdoption(db: Kysely<Tables>, request: AdoptionRequest): Promise<Adoption> {
  const { machine, project } = request
  const cloud = await db.selectFrom('clouds').selectAll().where('id', '=', request.cloud_id).executeTakeFirstOrThrow()
  const { provider_id } = machine
  if (machine.state === 'terminated') throw noSuchMachine(cloud.name, provider_id)
  const state = ADOPTED_AS[machine.state]
  if (!state)
    throw new DomainError('conflict', `machine ${provider_id} is ${machine.state}; only one that lives on is adopted`)
  await refuseOwned(db, cloud, machine)
  const allowed = await db
    .selectFrom('clouds')
    .select('id')
    .where('id', '=', cloud.id)
    .where(mayUse(sql`${project.id}::uuid`))
    .executeTakeFirst()
  if (!allowed)
    throw new DomainError('conflict', `project ${project.name} may not use cloud ${cloud.name}; grant it first`)
  return {
    cloud: cloud.name,
    provider_id,
    raw_state: machine.raw_state,
    project: project.name,
    name: request.name ?? nameOf(machine),
    deployment: request.deployment ?? null,
    state,
    size: ourName(cloud.sizes, machine.size),
    image: ourName(cloud.images, machine.image),
  }
}

export const noSuchMachine = (cloud: string, provider_id: string): DomainError =>
  new DomainError('not_found', `cloud ${cloud} has no machine ${provider_id}`)

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Throws where the machine is somebody's. */
async function refuseOwned(db: Kysely<Tables>, { id: cloud_id }: CloudRow, machine: Machine): Promise<void> {
  const { provider_id } = machine
  const conflict = (reason: string) => new DomainError('conflict', `machine ${provider_id} ${reason}`)
  const { id: installation_id } = await db.selectFrom('installation').select('id').executeTakeFirstOrThrow()
  const foreign = machine.installation_id && machine.installation_id !== installation_id
  if (foreign) throw conflict('has the tag of another installation; it has to let it go first')
  const instance = await db
    .selectFrom('instances')
    .select(['id', 'state'])
    .where('cloud_id', '=', cloud_id)
    .where('provider_id', '=', provider_id)
    .where('state', '!=', 'terminated')
    .executeTakeFirst()
  if (instance) throw conflict(`is bound to instance ${instance.id}, which is ${instance.state}`)
  const tag = machine.attempt_id !== null && UUID.test(machine.attempt_id) ? machine.attempt_id : null
  const attempt = await db
    .selectFrom('launch_attempts')
    .select(['id', 'order_id'])
    .where('cloud_id', '=', cloud_id)
    .where((where) =>
      where.or([
        where.and([where('provider_id', '=', provider_id), where('gone_at', 'is', null)]),
        where.and([where(sql`id`, '=', sql`${tag}::uuid`), where('provider_id', 'is', null)]),
      ]),
    )
    .executeTakeFirst()
  if (attempt)
    throw conflict(`was made by launch attempt ${attempt.id} of order ${attempt.order_id}, which looks after it`)
  const leaving = await db
    .selectFrom('taggings')
    .innerJoin('launch_attempts', 'launch_attempts.id', 'taggings.attempt_id')
    .select('taggings.instance_id')
    .where('cloud_id', '=', cloud_id)
    .where('provider_id', '=', provider_id)
    .executeTakeFirst()
  if (leaving) throw conflict(`is being released by instance ${leaving.instance_id}; try again when its tags are off`)
  const orphan = await db
    .selectFrom('orphans')
    .select('provider_id')
    .where('cloud_id', '=', cloud_id)
    .where('provider_id', '=', provider_id)
    .where('gone_at', 'is', null)
    .where('removal', 'is not', null)
    .executeTakeFirst()
  if (orphan) throw conflict('is being removed: a person asked for that')
}

const NAME = /^\P{Cc}{1,200}$/u

const nameOf = ({ name, provider_id }: Machine): string => (name && NAME.test(name) ? name : provider_id)

/** Our name for a cloud's; what has none is the same. */
function ourName(names: Readonly<Record<string, string>>, theirs: string | null | undefined): string {
  return Object.entries(names).find(([, name]) => name === theirs)?.[0] ?? theirs ?? 'unknown'
}

/**
 * Adopts a machine under a fresh order id: deployment, order, item, attempt and instance, as if the order had been
 * launched and had settled. Its tags are set by `instance/<id>` afterwards.
 */
export async function adoptMachine(
  trx: Trx,
  caller: Caller,
  order_id: string,
  request: AdoptionRequest,
): Promise<void> {
  const { machine, project, observed_at } = request
  const cloud = await trx
    .selectFrom('clouds')
    .selectAll()
    .where('id', '=', request.cloud_id)
    .forNoKeyUpdate()
    .executeTakeFirstOrThrow()
  const planned = await planAdoption(trx, request)
  const { provider_id, raw_state, name, size, image } = planned
  const state = planned.state as InstanceState
  const cause: Cause = {
    actor: { user_id: caller.user_id, request_id: caller.request_id },
    reason: `machine ${provider_id} of cloud ${cloud.name} was adopted`,
    evidence: { provider_id, raw_state, tag: machine.attempt_id, observed_at: observed_at.toISOString() },
  }
  const deployment = await takeDeployment(trx, project.id, request.deployment ?? order_id)
  const [order_event] = await recordEvents(trx, [
    {
      project_id: project.id,
      resource_type: 'order',
      resource_id: order_id,
      sequence: 1,
      type: 'order.created',
      to: 'running',
      snapshot: { name, deployment_id: deployment.id, count: 1, policy: 'all', partial: false },
      cause,
    },
  ])
  const wished = { wished_by: caller.user_id, wish_event: order_event!, sequence: 1 }
  await trx
    .insertInto('launch_orders')
    .values({
      id: order_id,
      project_id: project.id,
      user_id: caller.user_id,
      deployment_id: deployment.id,
      name,
      state: 'running',
      count: 1,
      cloud_ids: [cloud.id],
      size,
      image,
      next_batch: 2,
      settled_at: sql<Date>`record_now()`,
      ...wished,
    })
    .execute()
  if (deployment.made) await tellDeployment(trx, project.id, deployment, order_event!)
  const instance_id = newId()
  await trx
    .insertInto('instances')
    .values({
      id: instance_id,
      project_id: project.id,
      deployment_id: deployment.id,
      order_id,
      name,
      state,
      size,
      image,
      cloud_id: cloud.id,
      provider_id,
      raw_state,
      public_addresses: [...machine.public_addresses],
      private_addresses: [...machine.private_addresses],
      wish: state === 'stopped' || state === 'stopping' ? 'stop' : 'run',
      running_at: state === 'running' ? sql<Date>`record_now()` : null,
      due_at: sql<Date>`record_now()`,
      ...wished,
    })
    .execute()
    .catch((error: unknown) => conflictOn(error, 'instances_by_machine', `machine ${provider_id} was bound meanwhile`))
  await recordEvents(trx, [
    {
      project_id: project.id,
      resource_type: 'instance',
      resource_id: instance_id,
      sequence: 1,
      type: 'instance.created',
      to: state,
      snapshot: {
        name,
        order_id,
        deployment_id: deployment.id,
        cloud: cloud.name,
        provider_id,
        public_addresses: machine.public_addresses,
        private_addresses: machine.private_addresses,
      },
      cause: { ...cause, event: order_event! },
    },
  ])
  await bind(trx, { order_id, instance_id, cloud_id: cloud.id, provider_id, project_id: project.id })
  await takeOrphan(trx, cloud, provider_id, cause)
  await recordEvents(trx, await deriveDeployment(trx, deployment.id, order_event!))
  leave(trx, 'machines')
  await wake(trx, [{ target: instanceWorkflowId(instance_id), project_id: project.id }])
}

/** The deployment of that name, made where it is new. */
async function takeDeployment(trx: Trx, project_id: string, name: string) {
  return trx
    .insertInto('deployments')
    .values({ id: newId(), project_id, name, sequence: 1 })
    .onConflict((conflict) => conflict.columns(['project_id', 'name']).doUpdateSet({ name }))
    .returning(['id', 'name', sql<boolean>`xmax = 0`.as('made')])
    .executeTakeFirstOrThrow()
}

async function tellDeployment(
  trx: Trx,
  project_id: string,
  { id, name }: { readonly id: string; readonly name: string },
  event: string,
): Promise<void> {
  await recordEvents(trx, [
    {
      project_id,
      resource_type: 'deployment',
      resource_id: id,
      sequence: 1,
      type: 'deployment.created',
      to: 'queued',
      snapshot: { name },
      cause: { rule: 'order_accepted', reason: 'first order of the deployment', event },
    },
  ])
}

/** The item, and the attempt that won it with this machine; its place is claimed, whether or not there was one left. */
async function bind(
  trx: Trx,
  of: {
    readonly order_id: string
    readonly instance_id: string
    readonly cloud_id: string
    readonly provider_id: string
    readonly project_id: string
  },
): Promise<void> {
  const { order_id, instance_id, cloud_id, provider_id, project_id } = of
  const [item_id, attempt_id] = [newId(), newId()]
  await trx
    .insertInto('items')
    .values({ id: item_id, order_id, number: 1, instance_id, state: 'running', attempts: 1 })
    .execute()
  await trx
    .insertInto('launch_attempts')
    .values({
      id: attempt_id,
      item_id,
      instance_id,
      order_id,
      number: 1,
      cloud_id,
      batch: 1,
      state: 'won',
      provider_id,
      answered_at: sql<Date>`clock_timestamp()`,
    })
    .execute()
    .catch((error: unknown) =>
      conflictOn(error, 'launch_attempts_by_machine', `machine ${provider_id} was bound meanwhile`),
    )
  await trx.insertInto('claims').values({ attempt_id, cloud_id, project_id }).execute()
  await openTagging(trx, { instance_id, attempt_id, wish: 'adopt' })
}

/** It is an orphan no more; a tombstone is lifted with it. */
async function takeOrphan(trx: Trx, cloud: CloudRow, provider_id: string, cause: Cause): Promise<void> {
  const orphan = await trx
    .deleteFrom('orphans')
    .where('cloud_id', '=', cloud.id)
    .where('provider_id', '=', provider_id)
    .returning(['tag', 'gone_at'])
    .executeTakeFirst()
  if (!orphan || orphan.gone_at) return
  await tellCloud(trx, cloud, [{ type: 'cloud.orphan_adopted', snapshot: { provider_id, tag: orphan.tag }, cause }])
}

/** An adoption as it was made, by the order it became. */
export async function findAdoption(
  db: Kysely<Tables>,
  order_id: string,
): Promise<(Adoption & { readonly instance_id: string; readonly deployment_id: string }) | undefined> {
  const row = await db
    .selectFrom('instances')
    .innerJoin('clouds', 'clouds.id', 'instances.cloud_id')
    .innerJoin('projects', 'projects.id', 'instances.project_id')
    .innerJoin('deployments', 'deployments.id', 'instances.deployment_id')
    .select([
      'instances.id as instance_id',
      'instances.deployment_id',
      'clouds.name as cloud',
      'instances.provider_id',
      'instances.raw_state',
      'projects.name as project',
      'instances.name',
      'deployments.name as deployment',
      'instances.state',
      'instances.size',
      'instances.image',
    ])
    .where('instances.order_id', '=', order_id)
    .executeTakeFirst()
  return row && { ...row, provider_id: row.provider_id ?? '', raw_state: row.raw_state ?? '' }
}
