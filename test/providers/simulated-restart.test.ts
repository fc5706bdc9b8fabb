/** The simulated cloud as a process of its own: what it has acknowledged or promised survives its death. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ulid } from 'ulid'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { waitFor } from '../support/wait-for.ts'
import { expectClass, listAll } from './contract.ts'
import { CloudControl, endProcess, spawnSimulatedCloud } from './simulated-control.ts'

const installation_id = 'installation-1'
const signal = () => AbortSignal.timeout(10_000)
const request = (attempt_id = ulid()) => ({
  attempt_id,
  installation_id,
  name: attempt_id,
  size: 'm1.tiny',
  image: 'debian-13',
})

let data: string
let server: Awaited<ReturnType<typeof spawnSimulatedCloud>>
let cloud: CloudControl

beforeEach(async () => {
  data = await mkdtemp(join(tmpdir(), 'simulated-cloud-'))
  await start()
})
afterEach(async () => {
  await endProcess(server.process, 'SIGKILL')
  await rm(data, { recursive: true, force: true })
})

async function start(): Promise<void> {
  server = await spawnSimulatedCloud(data)
  cloud = new CloudControl(server.url, 'main')
}

async function killAndRestart(): Promise<void> {
  await endProcess(server.process, 'SIGKILL')
  await start()
}

test('kill -9 under load loses no acknowledged machine and forgets no configuration', async () => {
  await cloud.configure({ boot_latency_ms: 5, capacity: 100_000 })
  const acknowledged: string[] = []
  for (let round = 0; round < 3; round += 1) {
    const provider = cloud.provider()
    const target = acknowledged.length + 100
    const creating = Array.from({ length: 8 }, async () => {
      // Each goes on until the server dies under it.
      for (;;) {
        const machine = await provider.create(request(), signal()).catch(() => null)
        if (machine === null) return
        acknowledged.push(machine.provider_id)
      }
    })
    await waitFor(() => acknowledged.length >= target, { what: 'a hundred machines' })
    await endProcess(server.process, 'SIGKILL')
    await Promise.all(creating)
    await start()
  }
  const listed = new Set((await listAll(cloud.provider(), installation_id)).map(({ provider_id }) => provider_id))
  expect(acknowledged.filter((provider_id) => !listed.has(provider_id))).toEqual([])
  const is_booted = async () => (await cloud.machines()).every(({ state }) => state === 'running')
  await waitFor(is_booted, { what: 'all boots to go on' })
  expect(await cloud.send('GET', '')).toMatchObject({ configuration: { capacity: 100_000 } })
  const answered = (await cloud.ledger()).filter(({ kind, status }) => kind === 'answer' && status === 202)
  expect(answered.length).toBeGreaterThanOrEqual(acknowledged.length)
})

test('a late create appears although the server died and came back meanwhile', async () => {
  await cloud.configure({})
  await cloud.fault({ times: 1, effect: { kind: 'late', after_ms: 8_000 } })
  await expectClass(cloud.provider().create(request('late'), signal()), 'lost_reply')
  await killAndRestart()
  expect(await listAll(cloud.provider(), installation_id)).toEqual([])
  expect(await cloud.send('GET', '/machines')).toMatchObject({ pending_late_creates: 1 })
  const appeared = await waitFor(async () => (await listAll(cloud.provider(), installation_id))[0], {
    what: 'it',
    timeout_ms: 30_000,
  })
  expect(appeared.attempt_id).toBe('late')
})

test('a fault goes on counting where it was', async () => {
  await cloud.configure({})
  await cloud.fault({ times: 3, effect: { kind: 'error', class: 'capacity' } })
  await expectClass(cloud.provider().create(request(), signal()), 'capacity')
  await killAndRestart()
  await expectClass(cloud.provider().create(request(), signal()), 'capacity')
  await expectClass(cloud.provider().create(request(), signal()), 'capacity')
  await cloud.provider().create(request(), signal())
})

test('a request that the death cut off stands in the ledger without an answer', async () => {
  await cloud.configure({ create_latency_ms: 60_000 })
  const lost = expectClass(cloud.provider().create(request(), signal()), 'lost_reply')
  await waitFor(async () => (await cloud.ledger()).some(({ verb }) => verb === 'create'), { what: 'the request' })
  await killAndRestart()
  await lost
  const lines = await cloud.ledger()
  const { seq } = lines.find(({ verb }) => verb === 'create')!
  expect(lines.filter(({ request_seq }) => request_seq === seq)).toEqual([])
})

test('SIGTERM ends it at once, hanging calls or not, and with exit code 0', async () => {
  await cloud.configure({})
  await cloud.fault({ effect: { kind: 'hang' } })
  const hanging = expectClass(cloud.provider().create(request(), signal()), 'lost_reply')
  await waitFor(async () => (await cloud.ledger()).some(({ verb }) => verb === 'create'), { what: 'the call' })
  const begin = performance.now()
  expect(await endProcess(server.process, 'SIGTERM')).toBe(0)
  expect(performance.now() - begin).toBeLessThan(1_000)
  await hanging
  await start()
})

test('two servers never share a folder', async () => {
  await expect(spawnSimulatedCloud(data).then(({ process }) => endProcess(process, 'SIGKILL'))).rejects.toThrow(
    /does not start.*locked/,
  )
})
