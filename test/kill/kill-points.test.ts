/**
 * Kills at every point: before and after each commit of the store, before and after each call to a cloud or a receiver.
 * The points are found by running, so a new one is visited without being listed. Each life of the service dies at the
 * first point that no life died at before, and the next goes on from there; at the end the outside checker judges.
 */
import { randomUUID } from 'node:crypto'
import { glob, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { HOUSEKEEPING } from '../../domain/workflow-ids.ts'
import { actOnDeployment, getOrder, instancesOf } from '../support/flow.ts'
import { type Place, startWorld, type World } from '../support/world.ts'
import { type Lives, openLives, untilTrue } from './lives.ts'

const STORE = join(import.meta.dirname, '../../store')
/** A life that passes no new point for so long is ended, and the next one has a try. */
const POINT_TIMEOUT_MS = 60_000
const SILENT_LIVES_MAX = 2
/** Functions whose commits are not in the way of any request or flow, and where they are killed or repeated instead. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  wakeAll: 'a new engine: test/flows/engine-loss.test.ts',
  changeOnce: 'named by what it does for whom',
  createToken: 'the command line, one transaction',
  importClouds: 'files that changed, one transaction: test/store/cloud-files.test.ts',
  noteRefused: 'a refused account, one transaction: test/flows/credentials.test.ts',
  resealOld: 'another master key, one transaction a piece: test/store/reseal.test.ts',
  releaseSshKey: 'given out once, one transaction: test/api/cloud-state.test.ts',
  takeBack: 'a machine that was denied and comes back, one transaction: test/flows/denied.test.ts',
  dropOld: 'what nobody needs any more, one transaction a piece: test/flows/credentials.test.ts',
  settleLostClaims: 'a connection that broke under a claim, one transaction: test/activities/deliveries.test.ts',
  shiftClock: 'only tests shift the clock',
  mendClock: 'a clock set back, one transaction: test/flows/clock-back.test.ts',
  advanceClock: 'a clock set right again, one transaction: test/flows/clock-back.test.ts',
  markRestored: 'the first start after a restore, one transaction: test/flows/restore.test.ts',
  beginCall: 'an inventory outside: test/kill/inventory.test.ts',
  storeNamed: 'an inventory outside: test/kill/inventory.test.ts',
  storeRecorded: 'an inventory outside: test/kill/inventory.test.ts',
  ensureDefaultIdentity: 'the start without tokens: test/kill/edges.test.ts',
}

let world: World
let place: Place
let second: Place
/** Machines with our tag turn up there that nobody ordered. */
let stray: Place['cloud']
let lives: Lives
beforeAll(async () => {
  lives = await openLives()
})
afterAll(async () => {
  await lives.close()
  await world?.close()
})

/** Functions of the store that commit, read from its code: one that no life passes fails the test. */
async function sitesInCode(): Promise<string[]> {
  const files = await Array.fromAsync(glob('*.ts', { cwd: STORE }))
  const texts = await Promise.all(files.map((file) => readFile(join(STORE, file), 'utf8')))
  return texts
    .flatMap((text) => text.split(/^(?=(?:export )?(?:async )?function )/m))
    .filter((part) => /\bwrite\(store\b|\.db\.transaction\(\)/.test(part))
    .flatMap((part) => /^(?:export )?(?:async )?function (\w+)/.exec(part)?.[1] ?? [])
    .filter((name) => name !== 'write')
}

/** A job under which the process may die; what it was about is then unknown, as for any client. */
async function tolerant(job: () => Promise<unknown>): Promise<void> {
  await job().catch((error: unknown) => {
    // The connection broke, the record is busy with the ends of the lives before, or it took so long that a moment passed.
    if (!(error instanceof TypeError || / answered 503: | must be in the future/.test(String(error)))) throw error
  })
}

/** A machine with our tag that nobody ordered. */
async function strayMachine(round: number): Promise<string> {
  const tag = { attempt_id: randomUUID(), installation_id: world.h.service.installation_id }
  const machine = { ...tag, name: `stray-${round}`, size: 'm1.small', image: 'debian-13' }
  return (await stray.control.provider().create(machine, AbortSignal.timeout(10_000))).provider_id
}

/** Whether the record knows it; asks the service as well, so that it ends when that dies. */
async function isOrphan(provider_id: string): Promise<boolean> {
  await world.h.operator.get(`/api/clouds/${stray.name}`)
  const { db } = world.h.store
  return Boolean(await db.selectFrom('orphans').select('tag').where('provider_id', '=', provider_id).executeTakeFirst())
}

/** One of everything that changes the record, each by itself, so that the death of one leaves the others their turn. */
async function submitLoad(round: number): Promise<void> {
  const { project } = place
  const { api } = project
  const clouds = [place.cloud.name, second.cloud.name]
  const untilRunning = (id: string) => untilTrue(async () => (await getOrder(api, id)).state === 'running')
  const jobs: (() => Promise<unknown>)[] = [
    async () => {
      const order = await world.order(project, { name: `fail-over-${round}`, count: 3, clouds })
      const [instance] = await instancesOf(api, order.id)
      const action = `/api/instances/${instance!.id}/actions`
      await world.change(project, 'terminate', instance!.id, 'POST', action, { action: 'terminate' })
      await world.change(project, 'terminate', order.id, 'DELETE', `/api/launch-orders/${order.id}`)
    },
    async () => {
      const cancelled = await world.order(project, { name: `cancelled-${round}`, clouds: [second.cloud.name] })
      await world.change(project, 'cancel', cancelled.id, 'DELETE', `/api/launch-orders/${cancelled.id}`)
    },
    async () => {
      const order = { clouds: [second.cloud.name] }
      const times = { start_in_ms: 100, before_end_in_ms: 900, end_in_ms: 20_000 }
      const { id } = await world.lease(project, { ...times, order })
      const end_at = new Date(Date.now() + 2_000).toISOString()
      await world.change(project, 'extend', id, 'PATCH', `/api/leases/${id}`, { end_at })
    },
    async () => {
      const { id } = await world.lease(project, { start_in_ms: 0, end_in_ms: 20_000 })
      await world.change(project, 'end', id, 'DELETE', `/api/leases/${id}`)
    },
    async () => {
      const { id } = await world.order(project, { name: `vanishing-${round}`, count: 1, clouds: [second.cloud.name] })
      await untilRunning(id)
      const [instance] = await instancesOf(api, id)
      await second.cloud.control.fate(instance!.provider_id!, 'vanish')
    },
    async () => {
      const at = second.cloud.name
      const credentials = [{ cloud: at, secret: 'sesame' }]
      const { id } = await world.order(project, { name: `switched-${round}`, count: 1, clouds: [at], credentials })
      await untilRunning(id)
      const [instance] = await instancesOf(api, id)
      for (const action of ['stop', 'start', 'reboot'])
        await api.post(`/api/instances/${instance!.id}/actions`, { action })
    },
    async () => {
      const order = { name: `restarted-${round}`, count: 2, clouds: [second.cloud.name] }
      const { id, deployment } = await world.order(project, order)
      await untilRunning(id)
      await actOnDeployment(api, deployment.id, { action: 'restart', wave_size: 1 })
      const path = `/api/deployments/${deployment.id}/actions`
      await world.change(project, 'terminate', id, 'POST', path, { action: 'terminate' })
    },
    async () => {
      const [removed, vanishing, adopted] = await Promise.all([1, 2, 3].map(() => strayMachine(round)))
      const { operator } = world.h
      const path = `/api/clouds/${stray.name}`
      await operator.patch(path, { priority: round + 1 }) // is looked at again
      await untilTrue(async () => (await isOrphan(removed!)) && (await isOrphan(vanishing!)))
      await operator.delete(`${path}/orphans/${removed}`)
      await stray.control.fate(vanishing!, 'vanish')
      const adopt = `${path}/machines/${adopted}/adopt`
      const { body } = await operator.post<{ adoption: { instance_id: string } }>(adopt, { project: project.name })
      const { instance_id } = body.adoption
      await world.change(project, 'terminate', instance_id, 'POST', `/api/instances/${instance_id}/release`)
    },
    async () => {
      // Those whose life ended before their end would be sent everything: more of them with each life.
      const { body } = await api.get<{ hooks: { id: string }[] }>('/api/hooks')
      for (const { id } of body.hooks)
        if (id !== place.hook.id) await world.change(project, 'end', id, 'DELETE', `/api/hooks/${id}`)
      const { id } = await world.addHook(project)
      await api.request('POST', `/api/hooks/${id}/disable`)
      await api.request('POST', `/api/hooks/${id}/enable`)
      await world.change(project, 'end', id, 'DELETE', `/api/hooks/${id}`)
    },
    () => world.h.operator.request('POST', '/api/tokens', { project: project.name, role: 'reader' }),
    () => world.h.temporal.schedule.getHandle(HOUSEKEEPING).trigger(),
  ]
  await Promise.all(jobs.map(tolerant))
}

test('killed at every point, nothing is lost, doubled or left behind', async () => {
  world = await startWorld()
  place = await world.place({ configuration: { capacity: 2 } })
  second = await world.place({ configuration: { presents_as: 'aws' } })
  stray = await world.h.cloud(place.project)
  await world.h.operator.put(`/api/clouds/${second.cloud.name}/grants/${place.project.name}`, undefined)
  // Some first attempts fail, so that the hook's lane has its points, too.
  place.hook.receiver.answer = ({ attempt, sequence }) => ({ status: attempt === 1 && sequence === 4 ? 500 : 200 })
  const port = Number(new URL(world.h.service.url!).port)
  await world.h.stopService()
  const base = {
    database_url: world.h.database_url,
    namespace: world.h.namespace,
    master_key: world.h.master_key.toString('base64'),
    port,
  }

  // A life without a kill shows which points there are.
  const first = await lives.begin({ ...base, die_at: [] })
  await submitLoad(0)
  await world.untilQuiet()
  first.process.kill('SIGTERM')
  await first.ended
  const found = new Set(await lives.points())

  const died_at = new Set<string>()
  for (let round = 1, silent = 0; silent < SILENT_LIVES_MAX; round++) {
    const life = await lives.begin({ ...base, die_at: [...found].filter((point) => !died_at.has(point)) })
    const load = submitLoad(round)
    const died = await Promise.race([life.ended.then(() => true), delay(POINT_TIMEOUT_MS, false)])
    if (!died) life.process.kill('SIGKILL')
    await life.ended
    await load
    const passed = await lives.points()
    for (const point of passed) found.add(point)
    silent = died ? 0 : silent + 1
    if (died) died_at.add(passed.at(-1)!)
    if (died_at.size === found.size) break
  }
  const missed = [...found].filter((point) => !died_at.has(point))
  process.stdout.write(`killed at ${died_at.size} of ${found.size} points\n`)
  expect(missed, 'points that did not come again').toEqual([])
  const named = (site: string) => [...found].some((point) => point.split(' ').includes(site))
  expect((await sitesInCode()).filter((site) => !named(site) && !(site in ELSEWHERE))).toEqual([])

  place.hook.receiver.answer = () => ({ status: 200 })
  await world.h.startService(port)
  // Of some hooks the process died between disabling and enabling: now they get what they missed.
  const { body } = await place.project.api.get<{ hooks: { id: string; state: string }[] }>('/api/hooks')
  for (const { id, state } of body.hooks)
    if (state === 'disabled') await place.project.api.request('POST', `/api/hooks/${id}/enable`)
  await world.judgeAll()
}, 1_800_000)
