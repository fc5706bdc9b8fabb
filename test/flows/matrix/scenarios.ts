/**
 * One scenario for each activity a flow can run: brings the flow to that activity, with a fault in its way, and says how
 * it must end. A new activity without a scenario fails the suite (matrix.test.ts).
 */
import { expect } from 'vitest'
import { parseWorkflowId } from '../../../domain/workflow-ids.ts'
import type { FaultKind, Faults, Injected } from '../../support/faults.ts'
import {
  actOnDeployment,
  getLease,
  instancesOf,
  SETTLE_TIMEOUT_MS,
  untilDeploymentActed,
  untilInstance,
  untilLease,
  untilOrder,
} from '../../support/flow.ts'
import { adopt, lifeOf, machineAt, untilTagged } from '../../support/found-machines.ts'
import { unique } from '../../support/harness.ts'
import type { InventoryServer } from '../../support/inventory-server.ts'
import { openPcmClient } from '../../support/pcm-client.ts'
import { waitFor } from '../../support/wait-for.ts'
import type { Place, World } from '../../support/world.ts'

export interface Stage {
  readonly world: World
  /** Names what is ordered by PCM. */
  readonly inventory: InventoryServer
  readonly faults: Faults
  readonly kind: FaultKind
}
export type Scenario = (stage: Stage) => Promise<void>

const OVER = ['running', 'cancelled', 'terminated', 'failed']
const isCancel = (kind: FaultKind): boolean => kind.startsWith('cancel')

/** A fault on every flow of one kind in a project; `cancel` gets the noun's id. */
function strikeProject(
  stage: Stage,
  place: Place,
  activity: string,
  cancel?: (noun_id: string) => Promise<void>,
): Injected {
  let noun_id = ''
  return stage.faults.inject({
    activity,
    kind: stage.kind,
    strikes: async (workflow_id) => {
      if ((await stage.world.projectOf(workflow_id)) !== place.project.id) return false
      noun_id = parseWorkflowId(workflow_id).id
      return true
    },
    cancel: cancel && (() => cancel(noun_id)),
  })
}

/** While a fault lasts, the flow says what blocks it; then the fault is lifted. */
async function untilBlocked(
  stage: Stage,
  injected: Injected,
  place: Place,
  workflow_id: string,
  code: string,
): Promise<void> {
  if (stage.kind !== 'until_lifted') return
  await untilSaid(stage, workflow_id, '')
  const { kind, id } = parseWorkflowId(workflow_id)
  await waitFor(async () => (await explained(place, `${LISTS[kind]}/${id}`)) === code, {
    timeout_ms: SETTLE_TIMEOUT_MS,
    interval_ms: 100,
    what: `the record to say that ${code} blocks ${workflow_id}`,
  })
  injected.lift()
}

/** The flow's details, as they are read in the Temporal UI. */
const untilSaid = (stage: Stage, workflow_id: string, code: string) =>
  waitFor(async () => (await stage.world.details(workflow_id)).includes(`Blocked: \`${code}`), {
    what: `${workflow_id} to say what blocks it`,
    timeout_ms: SETTLE_TIMEOUT_MS,
    interval_ms: 100,
  })

const LISTS: Readonly<Record<string, string>> = {
  order: 'launch-orders',
  instance: 'instances',
  deployment: 'deployments',
  lease: 'leases',
  hook: 'hooks',
}

/** What blocks a noun, as `explain` says it. */
async function explained(place: Place, path: string): Promise<string | null> {
  const { body } = await place.project.api.get<{ explanation: { waits_for: { code: string | null } | null } }>(
    `/api/${path}/explain`,
  )
  return body.explanation.waits_for?.code ?? null
}

/** A plan that fails is seen by the record as a flow that does not come; a step that fails is told by its flow. */
const codeOf = (activity: string): string => (activity.startsWith('plan') ? 'planning_overdue' : 'step_failing')

const cancelOrder = (stage: Stage, place: Place) => async (id: string) => {
  await stage.world.change(place.project, 'cancel', id, 'DELETE', `/api/launch-orders/${id}`)
}

async function endOrder(stage: Stage, place: Place, id: string): Promise<void> {
  const { api } = place.project
  const { state } = await untilOrder(api, id, OVER)
  expect(isCancel(stage.kind) ? ['running', 'cancelled', 'terminated'] : ['running']).toContain(state)
  await stage.world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilOrder(api, id, ['cancelled', 'terminated'])
  expect((await place.cloud.control.machines()).filter((machine) => machine.gone_at === null)).toEqual([])
}

/** Clouds with and without idempotency tokens take turns. */
let turn = 0
const placeOf = (stage: Stage): Promise<Place> =>
  stage.world.place({ configuration: turn++ % 2 ? { presents_as: 'aws' } : { presents_as: 'openstack' } })

const onOrder =
  (activity: string): Scenario =>
  async (stage) => {
    const place = await placeOf(stage)
    const injected = strikeProject(stage, place, activity, cancelOrder(stage, place))
    const { id } = await stage.world.order(place.project, { count: 3 })
    await untilBlocked(stage, injected, place, `order/${id}`, codeOf(activity))
    await endOrder(stage, place, id)
    expect(injected.struck()).toBeGreaterThan(0)
    injected.lift()
  }

/** The cancel that meets an order's undo: a person ends one of its machines as well. */
const deleteInstances: Scenario = async (stage) => {
  const place = await placeOf(stage)
  const { id } = await stage.world.order(place.project, { count: 3 })
  await untilOrder(place.project.api, id, ['running'])
  const [instance] = await instancesOf(place.project.api, id)
  const injected = strikeProject(stage, place, 'deleteInstances', () => terminate(stage, place, instance!.id))
  await stage.world.change(place.project, 'terminate', id, 'DELETE', `/api/launch-orders/${id}`)
  await untilBlocked(stage, injected, place, `order/${id}`, 'step_failing')
  await endOrder({ ...stage, kind: 'cancel_after' }, place, id)
  expect(injected.struck()).toBeGreaterThan(0)
  injected.lift()
}

const terminate = async (stage: Stage, place: Place, id: string): Promise<void> => {
  await stage.world.change(place.project, 'terminate', id, 'POST', `/api/instances/${id}/actions`, {
    action: 'terminate',
  })
}

const onInstance =
  (activity: string): Scenario =>
  async (stage) => {
    const place = await placeOf(stage)
    const { id } = await stage.world.order(place.project, { count: 2 })
    await untilOrder(place.project.api, id, ['running'])
    const [instance] = await instancesOf(place.project.api, id)
    const injected = strikeProject(stage, place, activity, () => cancelOrder(stage, place)(id))
    await terminate(stage, place, instance!.id)
    await untilBlocked(stage, injected, place, `instance/${instance!.id}`, codeOf(activity))
    await untilInstance(place.project.api, instance!.id, ['terminated'])
    await endOrder({ ...stage, kind: 'cancel_after' }, place, id)
    expect(injected.struck()).toBeGreaterThan(0)
    injected.lift()
  }

/** A machine that is adopted; the cancel is its release. */
const tagInstance: Scenario = async (stage) => {
  const { world } = stage
  const place = await placeOf(stage)
  const { api } = place.project
  const provider_id = await machineAt(world, place, 'stranger')
  const injected = strikeProject(stage, place, 'tagInstance', async (id) => {
    await world.change(place.project, 'terminate', id, 'POST', `/api/instances/${id}/release`)
  })
  const { instance_id, order_id } = await adopt(world, place, provider_id)
  await untilBlocked(stage, injected, place, `instance/${instance_id}`, 'step_failing')
  if (isCancel(stage.kind)) {
    await untilInstance(api, instance_id, ['terminated'])
    await untilOrder(api, order_id, ['terminated'])
    await untilTagged(place, provider_id, null)
    expect((await lifeOf(place, provider_id)).gone_at).toBeNull()
  } else {
    await untilTagged(place, provider_id, world.h.service.installation_id)
    await endOrder(stage, place, order_id)
  }
  expect(injected.struck()).toBeGreaterThan(0)
  injected.lift()
}

/** A machine that the inventory outside names; the cancel is its deletion. In the end its name, if it got one, is free. */
const onEntry =
  (activity: string): Scenario =>
  async (stage) => {
    const { world, inventory } = stage
    const place = await placeOf(stage)
    const { api, token } = place.project
    const injected = strikeProject(stage, place, activity, (id) => terminate(stage, place, id))
    const pcm = openPcmClient(world.h.service.url!, token)
    const at = `/v2/clouds/${place.cloud.name}/instances`
    const { body } = await pcm('POST', at, { size: 'small', image: 'debian' })
    const { order_id } = await world.h.store.db
      .selectFrom('instances')
      .select('order_id')
      .where('id', '=', body.id)
      .executeTakeFirstOrThrow()
    world.note('order', order_id, Date.now(), 202)
    await untilBlocked(stage, injected, place, `instance/${body.id}`, 'step_failing')
    if (!isCancel(stage.kind)) {
      await untilInstance(api, body.id, ['running'])
      await terminate(stage, place, body.id)
    }
    await untilInstance(api, body.id, ['terminated'])
    const request_id = `pcm-${place.cloud.name}-${order_id}`
    await waitFor(
      async () => {
        const name = inventory.names.get(request_id)
        return name ? inventory.records.get(name)?.status === 'decommissioned' : activity === 'nameInstance'
      },
      { what: `${request_id} to be decommissioned`, timeout_ms: SETTLE_TIMEOUT_MS },
    )
    expect((await place.cloud.control.machines()).length).toBeLessThanOrEqual(1)
    expect(injected.struck()).toBeGreaterThan(0)
    injected.lift()
  }

/** A stop; its cancel is the end of the machine. A start afterwards shows that nothing was left half done. */
const actOnInstance: Scenario = async (stage) => {
  const place = await placeOf(stage)
  const { api } = place.project
  const { id } = await stage.world.order(place.project, { count: 1 })
  await untilOrder(api, id, ['running'])
  const [instance] = await instancesOf(api, id)
  const injected = strikeProject(stage, place, 'actOnInstance', () => terminate(stage, place, instance!.id))
  const act = (action: string) => api.post(`/api/instances/${instance!.id}/actions`, { action })
  await act('stop')
  await untilBlocked(stage, injected, place, `instance/${instance!.id}`, 'step_failing')
  if (isCancel(stage.kind)) await untilInstance(api, instance!.id, ['terminated'])
  else {
    await untilInstance(api, instance!.id, ['stopped'])
    injected.lift()
    await act('start')
    await untilInstance(api, instance!.id, ['running'])
  }
  await endOrder({ ...stage, kind: 'cancel_after' }, place, id)
  expect(injected.struck()).toBeGreaterThan(0)
  injected.lift()
}

/** A restart of all instances, in two waves; its cancel is the end of the deployment. */
const planDeployment: Scenario = async (stage) => {
  const place = await placeOf(stage)
  const { api } = place.project
  const { id, deployment } = await stage.world.order(place.project, { count: 3 })
  await untilOrder(api, id, ['running'])
  const injected = strikeProject(stage, place, 'planDeployment', async () => {
    const path = `/api/deployments/${deployment.id}/actions`
    await stage.world.change(place.project, 'terminate', id, 'POST', path, { action: 'terminate' })
  })
  await actOnDeployment(api, deployment.id, { action: 'restart', wave_size: 2 })
  await untilBlocked(stage, injected, place, `deployment/${deployment.id}`, 'planning_overdue')
  const acted = await untilDeploymentActed(api, deployment.id)
  expect(acted.map(({ action, state }) => `${action} ${state}`)).toEqual(
    isCancel(stage.kind) ? ['restart superseded', 'terminate done'] : ['restart done'],
  )
  if (!isCancel(stage.kind)) expect(acted[0]).toMatchObject({ wave: 2, counts: { done: 3 } })
  await endOrder({ ...stage, kind: 'cancel_after' }, place, id)
  expect(injected.struck()).toBeGreaterThan(0)
  injected.lift()
}

/** Two leases of one host, the second made when the first is ended: it waits until the machines of that one are gone. */
const planLease: Scenario = async (stage) => {
  const place = await stage.world.place({
    configuration: { presents_as: 'openstack', delete_latency_ms: 1_000 },
    settings: { hosts: true },
  })
  const { name } = place.cloud
  await stage.world.h.operator.post(`/api/clouds/${name}/hosts`, { name: 'compute-1' })
  const hosts = { cloud: name, count: 1 }
  const injected = strikeProject(stage, place, 'planLease', async (id) => {
    await stage.world.change(place.project, 'end', id, 'DELETE', `/api/leases/${id}`)
  })
  const { id } = await stage.world.lease(place.project, {
    start_in_ms: 500,
    before_end_in_ms: 1_500,
    end_in_ms: 40_000,
    order: { count: 2 },
    hosts,
  })
  await untilBlocked(stage, injected, place, `lease/${id}`, 'planning_overdue')
  await untilLease(place.project.api, id, isCancel(stage.kind) ? ['TERMINATED'] : ['ACTIVE'])
  if (!isCancel(stage.kind)) {
    const lease = await getLease(place.project.api, id)
    await untilOrder(place.project.api, lease.order_id!, ['running'])
    await stage.world.change(place.project, 'end', id, 'DELETE', `/api/leases/${id}`)
    const next = await stage.world.lease(place.project, { end_in_ms: 40_000, order: { count: 1 }, hosts })
    const { order_id } = await untilLease(place.project.api, next.id, ['ACTIVE'])
    expect((await getLease(place.project.api, id)).state).toBe('TERMINATED')
    await untilOrder(place.project.api, order_id!, ['running'])
    await stage.world.change(place.project, 'end', next.id, 'DELETE', `/api/leases/${next.id}`)
    await untilLease(place.project.api, next.id, ['TERMINATED'])
  }
  await untilLease(place.project.api, id, ['TERMINATED'])
  expect((await place.cloud.control.machines()).filter((machine) => machine.gone_at === null)).toEqual([])
  expect(injected.struck()).toBeGreaterThan(0)
  injected.lift()
}

/** A watch stays for minutes: "after" is when it has shown the order its machines, and the first run goes on, stale. */
const watchCloud: Scenario = async (stage) => {
  const name = unique('watched')
  const project_ready = Promise.withResolvers<Place>()
  const order_ready = Promise.withResolvers<string>()
  const injected = stage.faults.inject({
    activity: 'watchCloud',
    kind: stage.kind,
    strikes: (workflow_id) => workflow_id === `cloud/${name}`,
    cancel: async () => cancelOrder(stage, await project_ready.promise)(await order_ready.promise),
    effect: async () => {
      const { project } = await project_ready.promise
      const id = await order_ready.promise
      await waitFor(async () => (await instancesOf(project.api, id)).some((instance) => instance.state !== 'pending'), {
        what: 'a machine to be seen',
        timeout_ms: SETTLE_TIMEOUT_MS,
      })
    },
  })
  const place = await stage.world.place({ name })
  project_ready.resolve(place)
  const { id } = await stage.world.order(place.project, { count: 2 })
  order_ready.resolve(id)
  if (stage.kind === 'until_lifted') await untilSaid(stage, `cloud/${name}`, 'step_failing')
  await untilBlocked(stage, injected, place, `order/${id}`, 'cloud_unseen')
  await endOrder(stage, place, id)
  expect(injected.struck()).toBeGreaterThan(0)
  injected.lift()
}

/** A hook in trouble: its receiver refuses first attempts, so that its lane has work. The cancel deletes the hook. */
const onLane =
  (activity: string): Scenario =>
  async (stage) => {
    const place = await placeOf(stage)
    place.hook.receiver.answer = (received) => ({ status: received.attempt === 1 ? 500 : 200 })
    const injected = strikeProject(stage, place, activity, async (id) => {
      await stage.world.change(place.project, 'end', id, 'DELETE', `/api/hooks/${id}`)
    })
    const { id } = await stage.world.order(place.project, { count: 1 })
    await waitFor(async () => injected.struck() > 0, {
      what: `${activity} to be struck`,
      timeout_ms: SETTLE_TIMEOUT_MS,
    })
    // Seen from the record: its next delivery is due, and nobody comes for it.
    await untilBlocked(stage, injected, place, `hook/${place.hook.id}`, 'planning_overdue')
    place.hook.receiver.answer = () => ({ status: 200 })
    await endOrder({ ...stage, kind: 'fail_before' }, place, id)
    await untilDelivered(stage, place)
    injected.lift()
  }

/** Everything was delivered, or cancelled with its hook. */
async function untilDelivered(stage: Stage, place: Place): Promise<void> {
  const deliveries = () =>
    stage.world.h.store.db.selectFrom('deliveries').select('state').where('hook_id', '=', place.hook.id).execute()
  await waitFor(async () => (await deliveries()).every(({ state }) => state === 'delivered' || state === 'cancelled'), {
    what: 'all deliveries to end',
    timeout_ms: SETTLE_TIMEOUT_MS,
    interval_ms: 100,
  })
}

/** Activities of flows that are told apart by what they look after: these share one worker and run side by side. */
export const SCENARIOS: Readonly<Record<string, Scenario>> = {
  planOrder: onOrder('planOrder'),
  createInstances: onOrder('createInstances'),
  deleteInstances,
  planInstance: onInstance('planInstance'),
  terminateInstance: onInstance('terminateInstance'),
  actOnInstance,
  tagInstance,
  nameInstance: onEntry('nameInstance'),
  recordInstance: onEntry('recordInstance'),
  planDeployment,
  planLease,
  watchCloud,
  planLane: onLane('planLane'),
  attemptDelivery: onLane('attemptDelivery'),
}
