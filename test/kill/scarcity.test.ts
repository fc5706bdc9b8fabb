/**
 * What a process lacks, on real processes: disk space, a folder it may write to, memory. It says so, loses nothing, and
 * goes on by itself, or at its next start.
 */
import { type ChildProcess, spawnSync } from 'node:child_process'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CloudControl, endProcess, spawnSimulatedCloud } from '../providers/simulated-control.ts'
import { waitFor } from '../support/wait-for.ts'
import {
  databaseUrl,
  dataFolder,
  dropFolder,
  freePort,
  operatorToken,
  processesOf,
  runServer,
  type ServerProcess,
  startServer,
} from './server.ts'

const OUTAGE_TIMEOUT_MS = 60_000
const SETTLE_TIMEOUT_MS = 90_000
const REQUEST_TIMEOUT_MS = 30_000
/** Just enough for a start. */
const LITTLE_HEAP_MIB = 96
/** Machines of an order that fills the disk with others. */
const PIECE = 40
/** PostgreSQL fresh from its making takes some 60 MiB, Temporal's file few. */
const SMALL_DISK = '320m'

const refusals = (stderr: string): string[] => stderr.split('\n').filter((line) => line && !line.startsWith('{'))

/** A file system of its own that is small. Only root may mount one. */
const mount = (...args: string[]): boolean => spawnSync('mount', args, { stdio: 'ignore' }).status === 0
const mountSmall = (folder: string): boolean =>
  mount('-t', 'tmpfs', '-o', `size=${SMALL_DISK},mode=0755`, 'tmpfs', folder)
const unmount = (folder: string): unknown => spawnSync('umount', ['--lazy', folder], { stdio: 'ignore' })

const probe = await dataFolder()
const MOUNTS = mountSmall(probe)
if (MOUNTS) unmount(probe)
await rm(probe, { recursive: true, force: true })

let simulated: { url: string; process: ChildProcess }
let cloud_data: string
beforeAll(async () => {
  cloud_data = await dataFolder()
  simulated = await spawnSimulatedCloud(cloud_data)
})
afterAll(async () => {
  if (simulated) await endProcess(simulated.process, 'SIGTERM')
  if (cloud_data) await dropFolder(cloud_data)
})

interface Client {
  send(method: string, path: string, body?: unknown, key?: string): Promise<Response>
  /** Orders machines; a repeat with the same key is the same order. */
  order(key: string, count: number): Promise<Response>
  untilRunning(id: string): Promise<void>
}

/** An operator with a cloud of the simulated ones. */
async function openClient(url: () => string, data: string, cloud: string): Promise<Client> {
  const token = await operatorToken(data)
  const send = (method: string, path: string, body?: unknown, key?: string): Promise<Response> =>
    fetch(url() + path, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(key ? { 'idempotency-key': key } : {}),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    })
  await new CloudControl(simulated.url, cloud).configure({ boot_latency_ms: 100 })
  const made = await send('POST', '/api/clouds', {
    name: cloud,
    provider: 'simulated',
    endpoint: `${simulated.url}/clouds/${cloud}`,
    sizes: { small: 'm1.small' },
    images: { debian: 'debian-13' },
    settings: { settle_ms: 2_000 },
  })
  expect(made.status).toBe(201)
  return {
    send,
    order: (key, count) =>
      send('POST', '/api/launch-orders', { name: 'web', count, size: 'small', image: 'debian' }, key),
    async untilRunning(id) {
      await waitFor(
        async () => {
          const { launch_order } = (await (await send('GET', `/api/launch-orders/${id}`)).json()) as {
            launch_order: { state: string; partial: boolean }
          }
          return launch_order.state === 'running' && !launch_order.partial
        },
        { what: `order ${id} to run`, timeout_ms: SETTLE_TIMEOUT_MS, interval_ms: 100 },
      )
    },
  }
}

const idOf = async (response: Response): Promise<string> =>
  ((await response.json()) as { launch_order: { id: string } }).launch_order.id

/** Takes all that is left on the disk of a folder. Returns the way to give it back. */
async function fillDisk(folder: string): Promise<() => Promise<void>> {
  const path = join(folder, 'ballast')
  const file = await open(path, 'w')
  try {
    for (let piece = Buffer.alloc(1 << 20); piece.length; ) {
      const written = await file.write(piece).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOSPC') throw error
        return null
      })
      if (!written) piece = piece.subarray(0, piece.length >> 1)
    }
  } finally {
    await file.close()
  }
  return () => rm(path)
}

/** Makes a PostgreSQL without room begin new files of its log until it ends over it. */
async function crashPostgres(data: string): Promise<void> {
  const client = new pg.Client({ connectionString: await databaseUrl(data) })
  client.on('error', () => {})
  await client.connect()
  try {
    for (let number = 0; number < 100; number++)
      await client.query("select pg_logical_emit_message(false, 'test', repeat('x', 1000000)), pg_switch_wal()")
    throw new Error('PostgreSQL outlived a full disk')
  } catch (error) {
    expect(String(error)).toMatch(/Connection terminated|could not|terminating|shut/)
  } finally {
    await client.end().catch(() => {})
  }
}

describe.skipIf(!MOUNTS)('on a small disk of its own', { timeout: 240_000 }, () => {
  let data: string
  let server: ServerProcess
  let client: Client
  const start = async (port: number) => startServer({ arguments: ['--port', String(port), '--data', data] })
  beforeAll(async () => {
    data = await dataFolder()
    expect(mountSmall(data)).toBe(true)
    server = await start(await freePort())
    client = await openClient(() => server.url, data, 'disk')
  }, 120_000)
  afterAll(async () => {
    await dropFolder(data, server).catch(() => {}) // the mount point itself stays until it is unmounted
    unmount(data)
    await rm(data, { recursive: true, force: true })
  })

  test('a full one is 503 with a time to come back, and nothing accepted is lost', async () => {
    const before = await idOf(await client.order('before', 2))
    await client.untilRunning(before)
    const giveBack = await fillDisk(data)
    const accepted: string[] = []
    const refused: string[] = []
    try {
      for (let number = 0; refused.length < 3; number++) {
        expect(number, 'the disk to be full for PostgreSQL, too').toBeLessThan(200)
        const key = `full-${number}`
        const response = await client.order(key, PIECE)
        if (response.status === 202) accepted.push(await idOf(response))
        else {
          expect({ status: response.status, text: await response.text() }).toMatchObject({ status: 503 })
          expect(response.headers.get('retry-after')).toMatch(/^\d+$/)
          refused.push(key)
        }
      }
      // Without room for its log PostgreSQL goes down, and cannot come up before there is some.
      await crashPostgres(data)
      const response = await client.order('down', 1)
      expect({ status: response.status, text: await response.text() }).toMatchObject({ status: 503 })
      refused.push('down')
      expect((await fetch(`${server.url}/livez`)).status).toBe(200)
    } finally {
      await giveBack()
    }
    await waitFor(async () => (await fetch(`${server.url}/readyz`)).status === 200, {
      what: 'the server to be ready again',
      timeout_ms: OUTAGE_TIMEOUT_MS,
      interval_ms: 100,
    })
    for (const key of refused) {
      const response = await waitFor(
        async () => {
          const again = await client.order(key, PIECE)
          return again.status === 202 && again
        },
        { what: 'a refused order to be accepted', timeout_ms: OUTAGE_TIMEOUT_MS, interval_ms: 200 },
      )
      accepted.push(await idOf(response))
    }
    await Promise.all(accepted.map((id) => client.untilRunning(id)))
    expect((await processesOf(data)).map(({ pid }) => pid)).toContain(server.pid)
    expect(server.stderr()).not.toMatch(/"msg":"request failed"|failed unexpectedly/)
  })

  test('one that may only be read is one line and exit 1, and nothing keeps running', async () => {
    server.kill('SIGTERM')
    expect(await server.ended).toMatchObject({ code: 0 })
    expect(mount('-o', 'remount,ro', data)).toBe(true)
    try {
      for (const folder of [data, join(data, 'fresh')]) {
        const end = await runServer({ arguments: ['--port', '0', '--data', folder] })
        expect({ code: end.code, stdout: end.stdout }).toEqual({ code: 1, stdout: '' })
        expect(refusals(end.stderr)).toEqual([
          expect.stringMatching(
            /^holdfast: data folder \S+ cannot be written to \(\w+\): name another with --data or HOLDFAST_DATA$/,
          ),
        ])
      }
      expect(await processesOf(data)).toEqual([])
    } finally {
      mount('-o', 'remount,rw', data)
    }
  })
})

test('a data folder that cannot be made is one line and exit 1', async () => {
  const end = await runServer({ arguments: ['--port', '0', '--data', '/dev/null/holdfast'] })
  expect({ code: end.code, stdout: end.stdout }).toEqual({ code: 1, stdout: '' })
  expect(refusals(end.stderr)).toEqual([
    'holdfast: data folder /dev/null/holdfast cannot be written to (ENOTDIR): name another with --data or HOLDFAST_DATA',
  ])
})

describe('with little memory', { timeout: 240_000 }, () => {
  let data: string
  let port: number
  let server: ServerProcess
  const start = async (environment: Record<string, string> = {}) => {
    server = await startServer({ arguments: ['--port', String(port), '--data', data], environment })
  }
  beforeAll(async () => {
    ;[data, port] = [await dataFolder(), await freePort()]
  })
  afterAll(() => dropFolder(data, server))

  test('a process that dies of it loses nothing: the next one takes up what it left', async () => {
    await start({ NODE_OPTIONS: `--max-old-space-size=${LITTLE_HEAP_MIB}` })
    const client = await openClient(() => server.url, data, 'memory')
    const accepted: string[] = []
    let over = false
    const ended = server.ended.finally(() => {
      over = true
    })
    for (let round = 0; !over; round++) {
      expect(round, 'the process to run out of memory').toBeLessThan(20)
      const order = await client.order(`order-${round}`, 20).catch(() => null)
      if (order?.status === 202) accepted.push(await idOf(order))
      // About as large as a body may be, dear to parse, as many as it takes.
      const fill = Array.from({ length: 300_000 }, () => ({}))
      const large = { name: 'web', count: 1, size: 'small', image: 'debian', extra: { fill } }
      const answers = await Promise.all(
        Array.from({ length: 200 }, () => client.send('POST', '/api/launch-orders', large).catch(() => null)),
      )
      for (const answer of answers) if (answer) expect(answer.status).not.toBe(500)
    }
    const end = await ended
    expect(end.signal ?? end.code).toMatch(/SIGABRT|SIGKILL/)
    expect(end.stderr).toContain('heap out of memory')
    expect(accepted.length).toBeGreaterThan(0)
    await start()
    await Promise.all(accepted.map((id) => client.untilRunning(id)))
    server.kill('SIGTERM')
    expect(await server.ended).toMatchObject({ code: 0 })
    expect(await processesOf(data)).toEqual([])
  })
})
