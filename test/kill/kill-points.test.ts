/**
 * Kills at every point: before and after each commit of the store, before and after each call to a cloud or a receiver.
 * The points are found by running, so a new one is visited without being listed. Each life of the service dies at the
 * first point that no life died at before, and the next goes on from there; at the end the outside checker judges.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import { type Place, startWorld, type World } from '../support/world.ts'
import type { ChildConfiguration } from './kill-child.ts'

const CHILD = join(import.meta.dirname, 'kill-child.ts')
/** Points that do not come within this long (what is done every half minute) are left out, and said so. */
const POINT_TIMEOUT_MS = 20_000
/** Lives that passed no new point, before the rest is left out. */
const SILENT_LIVES_MAX = 3
/** Of all points so many may be left out. */
const MISSED_SHARE_MAX = 0.15

let world: World
let place: Place
let second: Place
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-points-'))
})
afterAll(async () => {
  for (const { process } of lives) process.kill('SIGKILL')
  await world?.close()
  await rm(folder, { recursive: true, force: true })
})

const lives: Life[] = []

interface Life {
  readonly process: ChildProcess
  readonly ended: Promise<unknown>
}

/** Starts the service as a process that dies at a point; resolves when it is ready, or dead already. */
async function live(
  configuration: Omit<ChildConfiguration, 'points_file' | 'workflow_bundle' | 'temporal_address'>,
): Promise<Life> {
  const full: ChildConfiguration = {
    ...configuration,
    points_file: join(folder, 'points'),
    temporal_address: inject('temporal_address'),
    workflow_bundle: inject('workflow_bundle'),
  }
  const child = spawn(process.execPath, [CHILD], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, KILL_CHILD: JSON.stringify(full) },
  })
  const life = { process: child, ended: once(child, 'exit') }
  lives.push(life)
  await Promise.race([once(createInterface(child.stdout!), 'line'), life.ended])
  return life
}

const points = async (): Promise<string[]> =>
  (await readFile(join(folder, 'points'), 'utf8').catch(() => '')).split('\n').filter(Boolean)

/** One of everything: an order that fails over, a cancel, a lease with an order, a person's terminate, an extension. */
async function submitLoad(round: number): Promise<void> {
  const { project } = place
  const clouds = [place.cloud.name, second.cloud.name]
  const tolerant = async (job: () => Promise<unknown>) => {
    await job().catch((error: unknown) => {
      if (!(error instanceof TypeError)) throw error // the process died under the request
    })
  }
  await tolerant(async () => {
    const order = await world.order(project, { name: `fail-over-${round}`, count: 3, clouds })
    await world.lease(project, {
      start_in_ms: 100,
      before_end_in_ms: 900,
      end_in_ms: 1_800,
      order: { clouds: [second.cloud.name] },
    })
    const cancelled = await world.order(project, { name: `cancelled-${round}`, count: 2, clouds: [second.cloud.name] })
    await world.change(project, 'cancel', cancelled.id, 'DELETE', `/api/launch-orders/${cancelled.id}`)
    const { body } = await project.api.get<{ instances: { id: string }[] }>(`/api/launch-orders/${order.id}/instances`)
    await world.change(
      project,
      'terminate',
      body.instances[0]!.id,
      'POST',
      `/api/instances/${body.instances[0]!.id}/actions`,
      { action: 'terminate' },
    )
    await world.change(project, 'terminate', order.id, 'DELETE', `/api/launch-orders/${order.id}`)
  })
}

test('killed at every point, nothing is lost, doubled or left behind', async () => {
  world = await startWorld()
  place = await world.place({ configuration: { capacity: 2 } })
  second = await world.place({ configuration: { presents_as: 'aws' } })
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
  const first = await live({ ...base, die_at: [] })
  await submitLoad(0)
  await world.untilQuiet()
  first.process.kill('SIGTERM')
  await first.ended
  const found = new Set(await points())
  expect(found.size).toBeGreaterThan(30)

  const died_at = new Set<string>()
  let silent = 0
  for (let round = 1; ; round++) {
    await writeFile(join(folder, 'points'), '')
    const life = await live({ ...base, die_at: [...found].filter((point) => !died_at.has(point)) })
    const load = submitLoad(round)
    const died = await Promise.race([life.ended.then(() => true), delay(POINT_TIMEOUT_MS, false)])
    if (!died) life.process.kill('SIGKILL')
    await life.ended
    await load
    const passed = await points()
    for (const point of passed) found.add(point)
    if (!died && ++silent === SILENT_LIVES_MAX) break
    if (!died) continue
    died_at.add(passed.at(-1)!)
    if (died_at.size === found.size) break
  }
  const missed = [...found].filter((point) => !died_at.has(point))
  process.stdout.write(
    `killed at ${died_at.size} of ${found.size} points; not passed again: ${missed.join(', ') || 'none'}\n`,
  )
  expect(missed.length).toBeLessThanOrEqual(Math.ceil(found.size * MISSED_SHARE_MAX))

  place.hook.receiver.answer = () => ({ status: 200 })
  await world.h.startService(port)
  await world.judgeAll()
}, 900_000)
