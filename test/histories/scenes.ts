/** The scenes that `record.ts` plays: each brings a flow to go one of the ways of the catalogue. */
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { ScheduleOverlapPolicy } from '@temporalio/client'
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js'
import type { ActivityInterceptorsFactory } from '@temporalio/worker'
import { afterAll, beforeAll, test } from 'vitest'
import { HOUSEKEEPING, WAKE } from '../../domain/workflow-ids.ts'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'
import { createFaults, type Injected } from '../support/faults.ts'
import {
  actOn,
  actOnDeployment,
  getLease,
  instancesOf,
  untilActed,
  untilInstance,
  untilLease,
  untilOrder,
} from '../support/flow.ts'
import { adopt, machineAt } from '../support/found-machines.ts'
import { unique } from '../support/harness.ts'
import { type InventoryServer, startInventory } from '../support/inventory-server.ts'
import { openPcmClient } from '../support/pcm-client.ts'
import { waitFor } from '../support/wait-for.ts'
import { type Place, startWorld, type World } from '../support/world.ts'
import { FOLDER, fileOf, type JsonHistory, look, WAYS } from './catalogue.ts'

const SCENE_TIMEOUT_MS = 120_000
const DAY_MS = 24 * 3_600_000
/** More wakes than a history may have events. */
const WAKES = 500
const WAKES_AT_ONCE = 50
/** Local attempts at a plan, and one regular one. */
const PLANS_FAILED = 4
/** Attempts at a step before its failure comes back to the flow. */
const STEPS_FAILED = 4

/** A watch and a sender's round last ten minutes: to see their runs renewed, these ones end at once, so often. */
const SHORT_ROUNDS = 60
const short_rounds = new Map([
  ['hook-sender/3', SHORT_ROUNDS],
  ['cloud/renewed', SHORT_ROUNDS],
])
const shortened: ActivityInterceptorsFactory = ({ info }) => ({
  inbound: {
    async execute(input, next) {
      const workflow_id = info.workflowExecution!.workflowId
      const left = short_rounds.get(workflow_id) ?? 0
      if (!left) return next(input)
      short_rounds.set(workflow_id, left - 1)
      return info.activityType === 'sendShard' ? { sends: 0, failures: 0, hooks: 0 } : true
    },
  },
})

const faults = createFaults()
let world: World
let inventory: InventoryServer
let folder: ConfigFolder
/** How often the inventory refuses machines of a cloud. */
const refusals = new Map<string, number>()
beforeAll(async () => {
  failSome('hook-sender/1', 'sendShard')
  inventory = await startInventory()
  inventory.fault = ({ body }) => {
    const left = refusals.get(String(body.cloud)) ?? 0
    refusals.set(String(body.cloud), left - 1)
    return left > 0 ? { status: 503, body: 'later' } : undefined
  }
  folder = await openConfigFolder({ inventory: inventory.file() })
  const worker_options = { interceptors: { activity: [faults.interceptor, shortened] } }
  world = await startWorld({ config_dir: folder.path, worker_options })
})
afterAll(async () => {
  await world.close()
  await inventory.close()
  await folder.close()
})

const wait = (what: string) => ({ what, timeout_ms: SCENE_TIMEOUT_MS, interval_ms: 50 })

/** Plays a scene, unless its history is there; the scene says which workflows to look at. */
function scene(type: string, way: string, play: () => Promise<string>): void {
  const file = join(FOLDER, fileOf(type, way))
  test.skipIf(existsSync(file)).concurrent(
    `${type}: ${way}`,
    async () => {
      const shown = await findRun(await play(), WAYS[type]![way]!)
      await writeFile(file, `${withoutThisMachine(shown)}\n`)
    },
    2 * SCENE_TIMEOUT_MS,
  )
}

function findRun(query: string, shows: (seen: ReturnType<typeof look>) => boolean): Promise<JsonHistory> {
  const { workflow } = world.h.temporal
  return waitFor(
    async () => {
      for await (const { workflowId, runId } of workflow.list({ query })) {
        const history = JSON.parse(
          historyToJSON(await workflow.getHandle(workflowId, runId).fetchHistory()),
        ) as JsonHistory
        if (shows(look(history))) return history
      }
      return null
    },
    wait(`a run of ${query} that shows it`),
  )
}

/** Names of machine, process and folder are nobody's business, and replay needs none of them. */
function withoutThisMachine(history: JsonHistory): string {
  const json = JSON.stringify(history, (key, value: unknown) => (key === 'stackTrace' ? '' : value))
  const clean = json.replaceAll(`${process.pid}@${hostname()}`, 'recorder')
  for (const word of [hostname(), process.cwd()])
    if (clean.includes(word)) throw new Error(`a history must not name ${word}`)
  return clean
}

const idIs = (workflow_id: string): string => `WorkflowId = '${workflow_id}'`

/** A fault that lasts for so many failures, on one project. */
async function failing(place: Place, activity: string, times: number, act: () => Promise<unknown>): Promise<void> {
  const injected: Injected = faults.inject({
    activity,
    kind: 'until_lifted',
    strikes: async (workflow_id) => (await world.projectOf(workflow_id)) === place.project.id,
  })
  await act()
  await waitFor(() => injected.struck() >= times, wait(`${activity} to fail ${times} times`))
  injected.lift()
}

/** The same for a flow that serves many: it is to be in place before the flow begins. */
function failSome(workflow_id: string, activity: string): void {
  const injected: Injected = faults.inject({
    activity,
    kind: 'until_lifted',
    strikes: (id) => {
      if (injected.struck() >= STEPS_FAILED) injected.lift()
      return id === workflow_id && injected.struck() < STEPS_FAILED
    },
  })
}

/** In small lots: the engine keeps no more than a hundred for a flow that is in the middle of a task. */
async function manyWakes(workflow_id: string): Promise<void> {
  const run = world.h.temporal.workflow.getHandle(workflow_id)
  for (let sent = 0; sent < WAKES; sent += WAKES_AT_ONCE) {
    await Promise.all(Array.from({ length: WAKES_AT_ONCE }, () => run.signal(WAKE)))
    await waitFor(async () => !(await run.describe()).raw.pendingWorkflowTask, wait('the wakes to be heard'))
  }
}

const cancel = (place: Place, id: string) =>
  place.project.api.delete(`/api/launch-orders/${id}`).then(() => untilOrder(place.project.api, id, OVER))
const OVER = ['cancelled', 'terminated', 'failed']

/** An order that runs, and the first of its instances. */
async function running(place: Place, count = 1): Promise<{ id: string; instance_id: string }> {
  const { id } = await world.order(place.project, { count })
  await untilOrder(place.project.api, id, ['running'])
  const [instance] = await instancesOf(place.project.api, id)
  return { id, instance_id: instance!.id }
}
const terminate = (place: Place, instance_id: string) =>
  place.project.api.post(`/api/instances/${instance_id}/actions`, { action: 'terminate' })

const called = (place: Place, verb: string) =>
  waitFor(
    async () => (await place.cloud.control.ledger()).some((line) => line.kind === 'request' && line.verb === verb),
    wait(`a ${verb} call`),
  )

const SLOW = { kind: 'delay', latency_ms: 2_000 } as const
const PATIENT = { settings: { call_timeout_ms: 5_000 } }

// Orders

scene('launchOrder', 'plain', async () => {
  const { id } = await running(await world.place(), 2)
  return idIs(`order/${id}`)
})

scene('launchOrder', 'cancel-before-create', async () => {
  const place = await world.place()
  await world.h.operator.patch(`/api/clouds/${place.cloud.name}`, { enabled: false })
  const { id } = await world.order(place.project)
  await waitFor(
    async () => (await world.details(`order/${id}`)).includes('cloud_disabled'),
    wait('the order to wait for its cloud'),
  )
  await cancel(place, id)
  return idIs(`order/${id}`)
})

scene('launchOrder', 'cancel-in-create', async () => {
  const place = await world.place(PATIENT)
  await place.cloud.control.fault({ match: { verb: 'create' }, effect: SLOW })
  const { id } = await world.order(place.project)
  await called(place, 'create')
  await cancel(place, id)
  return idIs(`order/${id}`)
})

scene('launchOrder', 'cancel-in-boot', async () => {
  const place = await world.place({ configuration: { boot_latency_ms: 60_000 } })
  const { id } = await world.order(place.project)
  // Its create step stays a second for the machines to be seen; then only the flow's own timer is left.
  const run = world.h.temporal.workflow.getHandle(`order/${id}`)
  await waitFor(async () => {
    const { raw } = await run.describe()
    return (await instancesOf(place.project.api, id))[0]?.state === 'starting' && !raw.pendingActivities?.length
  }, wait('the machines to boot'))
  await cancel(place, id)
  return idIs(`order/${id}`)
})

scene('launchOrder', 'cancel-in-compensation', async () => {
  const place = await world.place({ configuration: { capacity: 1 }, ...PATIENT })
  await place.cloud.control.fault({ match: { verb: 'delete' }, times: 1, effect: SLOW })
  const { id } = await world.order(place.project)
  await untilOrder(place.project.api, id, ['compensating'])
  await called(place, 'delete')
  await cancel(place, id)
  return idIs(`order/${id}`)
})

scene('launchOrder', 'terminate', async () => {
  const place = await world.place()
  const { id } = await running(place)
  await cancel(place, id)
  return idIs(`order/${id}`)
})

scene('launchOrder', 'failover', async () => {
  const place = await world.place({ configuration: { capacity: 1 } })
  const large = await world.place()
  await world.h.operator.put(`/api/clouds/${large.cloud.name}/grants/${place.project.name}`, undefined)
  const { id } = await world.order(place.project, { clouds: [place.cloud.name, large.cloud.name] })
  await untilOrder(place.project.api, id, ['running'])
  return idIs(`order/${id}`)
})

scene('launchOrder', 'lost-reply', async () => {
  const place = await world.place()
  await place.cloud.control.fault({
    match: { verb: 'create' },
    times: 1,
    effect: { kind: 'hang' },
  })
  const { id } = await running(place)
  return idIs(`order/${id}`)
})

scene('launchOrder', 'compensation', async () => {
  const place = await world.place({ configuration: { capacity: 1 } })
  const { id } = await world.order(place.project)
  await untilOrder(place.project.api, id, ['failed'])
  return idIs(`order/${id}`)
})

scene('launchOrder', 'failing-step', async () => {
  const place = await world.place()
  let order_id = ''
  await failing(place, 'createInstances', STEPS_FAILED, async () => {
    order_id = (await world.order(place.project)).id
  })
  return idIs(`order/${order_id}`)
})

scene('launchOrder', 'record-away', async () => {
  const place = await world.place()
  let order_id = ''
  await failing(place, 'planOrder', PLANS_FAILED, async () => {
    order_id = (await world.order(place.project)).id
  })
  return idIs(`order/${order_id}`)
})

scene('launchOrder', 'continue-as-new', async () => {
  const place = await world.place({ configuration: { boot_latency_ms: 600_000 } })
  const { id } = await world.order(place.project)
  await waitFor(
    async () => (await instancesOf(place.project.api, id))[0]?.state === 'starting',
    wait('the machines to boot'),
  )
  await manyWakes(`order/${id}`)
  return idIs(`order/${id}`)
})

// Instances

scene('instance', 'plain', async () => {
  const place = await world.place()
  const { instance_id } = await running(place)
  await terminate(place, instance_id)
  return idIs(`instance/${instance_id}`)
})

scene('instance', 'cancel', async () => {
  const place = await world.place({ settings: { call_timeout_ms: 10_000 } })
  await place.cloud.control.fault({ match: { verb: 'delete' }, times: 1, effect: { kind: 'hang', for_ms: 8_000 } })
  const { id, instance_id } = await running(place)
  await terminate(place, instance_id)
  await called(place, 'delete')
  await cancel(place, id) // its order is quicker: the step in hand has nothing left to do
  await world.h.temporal.workflow.getHandle(`instance/${instance_id}`).signal(WAKE)
  return idIs(`instance/${instance_id}`)
})

scene('instance', 'power', async () => {
  const place = await world.place()
  const { instance_id } = await running(place)
  await place.cloud.control.fault({ match: { verb: 'stop' }, times: 1, effect: { kind: 'lost_reply' } })
  for (const action of ['stop', 'start', 'reboot']) await actOn(place.project.api, instance_id, { action })
  await untilActed(place.project.api, instance_id)
  return idIs(`instance/${instance_id}`)
})

scene('instance', 'power-superseded', async () => {
  const place = await world.place({ settings: { call_timeout_ms: 10_000 } })
  await place.cloud.control.fault({ match: { verb: 'stop' }, times: 1, effect: { kind: 'hang', for_ms: 8_000 } })
  const { instance_id } = await running(place)
  await actOn(place.project.api, instance_id, { action: 'stop' })
  await called(place, 'stop')
  await terminate(place, instance_id)
  await untilInstance(place.project.api, instance_id, ['terminated'])
  return idIs(`instance/${instance_id}`)
})

scene('instance', 'tagged', async () => {
  const place = await world.place()
  const { instance_id } = await adopt(world, place, await machineAt(world, place, 'stranger'))
  return idIs(`instance/${instance_id}`)
})

scene('instance', 'tagged-late', async () => {
  const place = await world.place()
  const refused = { kind: 'error', class: 'unavailable' } as const
  await place.cloud.control.fault({ match: { verb: 'tag' }, times: 2, effect: refused })
  const { instance_id } = await adopt(world, place, await machineAt(world, place, 'stranger'))
  return idIs(`instance/${instance_id}`)
})

scene('instance', 'named', async () => idIs(`instance/${await namedOutside(0)}`))
scene('instance', 'named-late', async () => idIs(`instance/${await namedOutside(2)}`))
scene('instance', 'recorded', async () => idIs(`instance/${await namedOutside(0)}`))

/** A machine that the inventory outside names, after so many errors, and is told of. */
async function namedOutside(errors: number): Promise<string> {
  const place = await world.place()
  refusals.set(place.cloud.name, errors)
  const pcm = openPcmClient(world.h.service.url!, place.project.token)
  const { body } = await pcm('POST', `/v2/clouds/${place.cloud.name}/instances`, { size: 'small', image: 'debian' })
  await untilInstance(place.project.api, body.id, ['running'])
  await waitFor(
    () =>
      [...inventory.records.values()].some(({ status, cloud }) => status === 'active' && cloud === place.cloud.name),
    wait('its record to be taken'),
  )
  return body.id
}

scene('instance', 'failing-step', async () => {
  const place = await world.place()
  const { instance_id } = await running(place)
  await failing(place, 'terminateInstance', STEPS_FAILED, () => terminate(place, instance_id))
  return idIs(`instance/${instance_id}`)
})

scene('instance', 'record-away', async () => {
  const place = await world.place()
  const { instance_id } = await running(place)
  await failing(place, 'planInstance', PLANS_FAILED, () => terminate(place, instance_id))
  await untilInstance(place.project.api, instance_id, ['terminated'])
  return idIs(`instance/${instance_id}`)
})

// Deployments

/** Three instances of a deployment, and what is asked of all of them. */
async function deployed(
  place: Place,
): Promise<{ id: string; ask: (body: Record<string, unknown>) => Promise<unknown> }> {
  const { id: order_id, deployment } = await world.order(place.project, { count: 3 })
  await untilOrder(place.project.api, order_id, ['running'])
  return { id: deployment.id, ask: (body) => actOnDeployment(place.project.api, deployment.id, body) }
}

scene('deployment', 'plain', async () => {
  const { id, ask } = await deployed(await world.place())
  await ask({ action: 'restart', wave_size: 2 })
  return idIs(`deployment/${id}`)
})

scene('deployment', 'terminate', async () => {
  const { id, ask } = await deployed(await world.place())
  await ask({ action: 'terminate' })
  return idIs(`deployment/${id}`)
})

scene('deployment', 'superseded', async () => {
  const place = await world.place({ configuration: { stop_latency_ms: 60_000 } })
  const { id, ask } = await deployed(place)
  await ask({ action: 'stop', wave_size: 2 })
  await called(place, 'stop')
  await ask({ action: 'terminate' })
  return idIs(`deployment/${id}`)
})

scene('deployment', 'record-away', async () => {
  const place = await world.place()
  const { id, ask } = await deployed(place)
  await failing(place, 'planDeployment', PLANS_FAILED, () => ask({ action: 'restart', wave_size: 3 }))
  return idIs(`deployment/${id}`)
})

// Leases

/** A lease by the name of its way, so that its history tells which one it is. */
const lease = async (place: Place, name: string, moments: { start_in_ms?: number; end_in_ms: number }) =>
  (await world.lease(place.project, { name, ...moments })).id
const change = (place: Place, id: string, end_in_ms: number) =>
  place.project.api.patch(`/api/leases/${id}`, { end_at: new Date(Date.now() + end_in_ms).toISOString() })
const end = async (place: Place, id: string) => {
  await place.project.api.delete(`/api/leases/${id}`)
  await untilLease(place.project.api, id, ['TERMINATED'])
}

scene('lease', 'plain', async () => {
  const place = await world.place()
  const moments = { start_in_ms: 500, before_end_in_ms: 3_000, end_in_ms: 4_000 }
  const { id } = await world.lease(place.project, { ...moments, order: { count: 1 } })
  return idIs(`lease/${id}`)
})

scene('lease', 'start-delay', async () => {
  const place = await world.place()
  return idIs(`lease/${await lease(place, 'start-delay', { start_in_ms: 5_000, end_in_ms: 6_500 })}`)
})

scene('lease', 'extended', async () => {
  const place = await world.place()
  const id = await lease(place, 'extended', { end_in_ms: 5_000 })
  await untilLease(place.project.api, id, ['ACTIVE'])
  await change(place, id, 7_000)
  return idIs(`lease/${id}`)
})

scene('lease', 'shortened', async () => {
  const place = await world.place()
  const id = await lease(place, 'shortened', { end_in_ms: DAY_MS })
  await untilLease(place.project.api, id, ['ACTIVE'])
  await change(place, id, 2_000)
  return idIs(`lease/${id}`)
})

scene('lease', 'ended', async () => {
  const place = await world.place()
  const { id } = await world.lease(place.project, { name: 'ended', end_in_ms: DAY_MS, order: { count: 1 } })
  await untilLease(place.project.api, id, ['ACTIVE'])
  await untilOrder(place.project.api, (await getLease(place.project.api, id)).order_id!, ['running'])
  await end(place, id)
  return idIs(`lease/${id}`)
})

scene('lease', 'cancel-before-start', async () => {
  const place = await world.place()
  const id = await lease(place, 'cancel-before-start', { start_in_ms: DAY_MS, end_in_ms: 2 * DAY_MS })
  await end(place, id)
  return idIs(`lease/${id}`)
})

scene('lease', 'record-away', async () => {
  const place = await world.place()
  let lease_id = ''
  await failing(place, 'planLease', PLANS_FAILED, async () => {
    lease_id = await lease(place, 'record-away', { end_in_ms: 3_000 })
  })
  return idIs(`lease/${lease_id}`)
})

// Hooks

/** A hook that fails its first attempts, until told otherwise. */
async function trouble(place: Place): Promise<string> {
  place.hook.receiver.answer = ({ attempt }) => ({ status: attempt === 1 ? 500 : 200 })
  await lease(place, 'told', { end_in_ms: DAY_MS })
  return `hook/${place.hook.id}`
}
/** Its lane waits for the moment of the next attempt. */
const inLane = (place: Place) =>
  waitFor(
    async () => (await world.details(`hook/${place.hook.id}`)).includes('waiting'),
    wait('the hook to be in its lane'),
  )

scene('hookSender', 'plain', async () => idIs('hook-sender/0'))
scene('hookSender', 'failing-step', async () => idIs('hook-sender/1'))
scene('hookSender', 'continue-as-new', async () => idIs('hook-sender/3'))

scene('hookLane', 'plain', async () => idIs(await trouble(await world.place())))

scene('hookLane', 'cancel', async () => {
  const place = await world.place()
  // Fails until it is deleted: the lane has attempted before, and waits.
  place.hook.receiver.answer = () => ({ status: 500 })
  await lease(place, 'told', { end_in_ms: DAY_MS })
  await waitFor(() => place.hook.receiver.ledger.some(({ attempt }) => attempt > 1), wait('a second attempt'))
  await inLane(place)
  await place.project.api.delete(`/api/hooks/${place.hook.id}`)
  return idIs(`hook/${place.hook.id}`)
})

scene('hookLane', 'failing-step', async () => {
  const place = await world.place()
  await failing(place, 'attemptDelivery', STEPS_FAILED, () => trouble(place))
  return idIs(`hook/${place.hook.id}`)
})

scene('hookLane', 'record-away', async () => {
  const place = await world.place()
  await failing(place, 'planLane', PLANS_FAILED, () => trouble(place))
  return idIs(`hook/${place.hook.id}`)
})

scene('hookLane', 'continue-as-new', async () => {
  const place = await world.place()
  place.hook.receiver.answer = () => ({ status: 500 })
  await lease(place, 'told', { end_in_ms: DAY_MS })
  await inLane(place)
  await manyWakes(`hook/${place.hook.id}`)
  return idIs(`hook/${place.hook.id}`)
})

// Clouds

scene('cloudWatch', 'plain', async () => idIs(`cloud/${(await world.place()).cloud.name}`))

scene('cloudWatch', 'taken-over', async () => {
  const name = unique('contested')
  const twice = faults.inject({
    activity: 'watchCloud',
    kind: 'twice',
    strikes: (workflow_id) => workflow_id === `cloud/${name}`,
    effect: async () => {},
  })
  await world.place({ name })
  await waitFor(() => twice.struck() > 0, wait('two watchers at once'))
  return idIs(`cloud/${name}`)
})

scene('cloudWatch', 'failing-step', async () => {
  const name = unique('failing')
  failSome(`cloud/${name}`, 'watchCloud')
  await world.place({ name })
  return idIs(`cloud/${name}`)
})

scene('cloudWatch', 'continue-as-new', async () => idIs(`cloud/${(await world.place({ name: 'renewed' })).cloud.name}`))

// Housekeeping

scene('housekeeping', 'plain', async () => {
  await world.h.temporal.schedule.getHandle(HOUSEKEEPING).trigger(ScheduleOverlapPolicy.ALLOW_ALL)
  return `WorkflowType = '${HOUSEKEEPING}'`
})

scene('housekeeping', 'failed', async () => {
  const injected = faults.inject({ activity: 'keepHouse', kind: 'until_lifted', strikes: () => true })
  await world.h.temporal.schedule.getHandle(HOUSEKEEPING).trigger(ScheduleOverlapPolicy.ALLOW_ALL)
  const failed = `WorkflowType = '${HOUSEKEEPING}' AND ExecutionStatus = 'Failed'`
  await waitFor(
    async () => (await world.h.temporal.workflow.count(failed)).count > 0,
    wait('a round of housekeeping to fail'),
  )
  injected.lift()
  return failed
})
