/** A server whose Temporal keeps its state in the embedded PostgreSQL: killed together with it, lost, and exchanged. */
import { type ChildProcess, execFile, execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { identify } from '../../embedded/identity.ts'
import {
  databaseUrl,
  dataFolder,
  dropFolder,
  enginePid,
  freePort,
  killHard,
  operatorToken,
  processesOf,
  type ServerProcess,
  startServer,
} from '../kill/server.ts'
import { CloudControl, endProcess, spawnSimulatedCloud } from '../providers/simulated-control.ts'
import { type ApiClient, openApiClient } from '../support/api-client.ts'
import { instancesOf, submitLease, submitOrder, untilLease, untilOrder } from '../support/flow.ts'
import type { Project } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'

const BUILD_TIMEOUT_MS = 30 * 60_000
const OUTAGE_TIMEOUT_MS = 30_000
const BOOT_LATENCY_MS = 5_000

/** Only our own build works on PostgreSQL. */
const builder = join(import.meta.dirname, '../../tools/build-temporal.mjs')
const built = execFileSync(process.execPath, [builder, '--path'], { encoding: 'utf8' }).trim()
const can_build = existsSync(built) || spawnSync('go', ['version']).status === 0

describe.runIf(can_build)('Temporal on PostgreSQL', { timeout: 120_000 }, () => {
  let data: string
  let cloud_data: string
  let port: number
  let simulated: { url: string; process: ChildProcess }
  let server: ServerProcess
  let project: Project
  let api: ApiClient

  const start = (flags: readonly string[], environment: Readonly<Record<string, string>> = {}) =>
    startServer({ arguments: ['--port', String(port), '--data', data, ...flags], environment })
  const query = async (database: string, text: string): Promise<Record<string, unknown>[]> => {
    const url = new URL(await databaseUrl(data))
    url.pathname = database
    const client = new pg.Client({ connectionString: url.href })
    await client.connect()
    try {
      return (await client.query(text)).rows
    } finally {
      await client.end()
    }
  }
  const untilWell = () =>
    waitFor(async () => (await api.get<{ degraded: string[] }>('/readyz')).body.degraded.length === 0, {
      what: 'everything to be well again',
      timeout_ms: OUTAGE_TIMEOUT_MS,
      interval_ms: 50,
    })

  beforeAll(async () => {
    await promisify(execFile)(process.execPath, [builder])
    ;[data, cloud_data, port] = [await dataFolder(), await dataFolder(), await freePort()]
    // A program that knows nothing of PostgreSQL, as Temporal's own does not, is passed over.
    const stock = join(data, 'stock-temporal')
    await writeFile(stock, '#!/bin/sh\necho "--db-filename string"\n', { mode: 0o755 })
    simulated = await spawnSimulatedCloud(cloud_data)
    server = await start(['--engine', 'postgres'], { TEMPORAL_CLI: stock })
    const token = await operatorToken(data)
    api = openApiClient(server.url, token)
    project = { name: 'default', id: '', api, token }
    await new CloudControl(simulated.url, 'east').configure({ boot_latency_ms: BOOT_LATENCY_MS })
    await api.post('/api/clouds', {
      ...{ name: 'east', provider: 'simulated', endpoint: `${simulated.url}/clouds/east` },
      ...{ sizes: { small: 'm1.small' }, images: { debian: 'debian-13' }, settings: { settle_ms: 2_000 } },
    })
    await api.put('/api/clouds/east/grants/default')
  }, BUILD_TIMEOUT_MS)
  afterAll(async () => {
    if (simulated) await endProcess(simulated.process, 'SIGTERM')
    if (data) await dropFolder(data, server)
    if (cloud_data) await dropFolder(cloud_data)
  })

  test('is two databases of 4 shards beside ours, made by a program that can, with no password to be read', async () => {
    expect(server.stderr()).toContain('stock-temporal: cannot work on PostgreSQL, only our own build can')
    expect(
      await query('postgres', "select datname from pg_database where datname like 'holdfast%' order by 1"),
    ).toEqual(['holdfast', 'holdfast_temporal', 'holdfast_temporal_visibility'].map((datname) => ({ datname })))
    expect(await query('holdfast_temporal', 'select count(*)::int as shards from shards')).toEqual([{ shards: 4 }])
    expect(await readdir(data)).not.toContain('temporal')
    const { password } = new URL(await databaseUrl(data))
    const commands = (await processesOf(data)).map(({ command }) => command)
    expect(commands.join('\n')).not.toContain(password)
  })

  test('goes on with orders and timers after its database was killed, and after both were', async () => {
    for (const killed of [['postgres'], ['temporal', 'postgres']] as const) {
      const order = await submitOrder(project, { count: 2 })
      const lease = await submitLease(project, { end_in_ms: 8_000 })
      await untilOrder(api, order.id, ['launching', 'settling'])
      const temporal = await enginePid(data, 'temporal')
      await Promise.all(killed.map(async (name) => killHard(await enginePid(data, name))))
      await untilWell()
      await untilOrder(api, order.id, ['running'])
      const { events } = await untilLease(api, lease.id, ['TERMINATED'])
      for (const { late_ms } of events) expect(late_ms ?? 0).toBeGreaterThanOrEqual(0)
      // A Temporal whose database came back needs no new start.
      expect(identify(temporal) !== null).toBe(killed.length === 1)
      expect(await instancesOf(api, order.id)).toHaveLength(2)
    }
  })

  test('is adopted by the next start after its owner was killed', async () => {
    const temporal = await enginePid(data, 'temporal')
    await killHard(server.pid)
    server = await start(['--engine', 'postgres'])
    expect(await enginePid(data, 'temporal')).toBe(temporal)
    await untilOrder(api, (await submitOrder(project, { count: 1 })).id, ['running'])
  })

  test('leaves nothing when stopped, and what is open goes on from the record on the other engine', async () => {
    const lease = await submitLease(project, { end_in_ms: 15_000, order: { count: 1 } })
    await untilLease(api, lease.id, ['ACTIVE'])
    server.kill('SIGTERM')
    expect(await server.ended).toMatchObject({ code: 0 })
    expect(await processesOf(data)).toEqual([])
    server = await start([])
    expect(await readdir(data)).toContain('temporal')
    await untilLease(api, lease.id, ['TERMINATED'])
  })

  test('is not taken for the other engine that a killed owner left running', async () => {
    const other = await enginePid(data, 'temporal')
    await killHard(server.pid)
    server = await start(['--engine', 'postgres'])
    expect(identify(other)).toBeNull()
    expect(await enginePid(data, 'temporal')).not.toBe(other)
    await untilOrder(api, (await submitOrder(project, { count: 1 })).id, ['running'])
  })
})
