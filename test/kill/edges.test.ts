/** The edges of a process's life, on real processes: what it refuses to start with, what it outlives, how it leaves. */
import { type ChildProcess, execFile } from 'node:child_process'
import { once } from 'node:events'
import { readdir, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Client, Connection } from '@temporalio/client'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { HOUSEKEEPING } from '../../domain/workflow-ids.ts'
import { CloudControl, endProcess, spawnSimulatedCloud } from '../providers/simulated-control.ts'
import { type FreshStore, freshStore } from '../support/database.ts'
import { freshNamespace } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'
import {
  dataFolder,
  dropFolder,
  type EngineName,
  enginePid,
  familyOf,
  freePort,
  killHard,
  operatorToken,
  processesOf,
  runServer,
  type ServerProcess,
  startServer,
} from './server.ts'
import { openWitness, type Witness } from './witness.ts'

const EXIT_WITHIN_MS = 10_000
const OUTAGE_TIMEOUT_MS = 30_000
const SETTLE_TIMEOUT_MS = 60_000

/** The one line a refused start leaves; everything else it says is a log. */
const refusals = (stderr: string): string[] => stderr.split('\n').filter((line) => line && !line.startsWith('{'))

describe('a wrong configuration is one line on stderr and exit 1, before anything starts', () => {
  let data: string
  beforeEach(async () => {
    data = await dataFolder()
  })
  afterEach(() => rm(data, { recursive: true, force: true }))

  test.each<{ name: string; flags?: string[]; environment?: Record<string, string>; says: RegExp }>([
    { name: 'HOLDFAST_AUTH', environment: { HOLDFAST_AUTH: 'maybe' }, says: /HOLDFAST_AUTH: .*"token"\|"none"/ },
    { name: 'DATABASE_URL', environment: { DATABASE_URL: 'mysql://host/db' }, says: /DATABASE_URL: .*postgres:\/\// },
    { name: 'HOLDFAST_PORT', environment: { HOLDFAST_PORT: '99999' }, says: /HOLDFAST_PORT: .*65535/ },
    { name: 'a port that is no number', flags: ['--port', 'eighty'], says: /--port .*0 to 65535/ },
    { name: 'a port out of range', flags: ['--port', '65536'], says: /--port .*0 to 65535/ },
    { name: 'role api without DATABASE_URL', flags: ['--role', 'api'], says: /--role api needs DATABASE_URL/ },
    {
      name: 'role api with an empty DATABASE_URL',
      flags: ['--role', 'api'],
      environment: { DATABASE_URL: '' },
      says: /--role api needs DATABASE_URL/,
    },
    {
      name: 'role worker without TEMPORAL_ADDRESS',
      flags: ['--role', 'worker'],
      environment: { DATABASE_URL: 'postgres://host/db' },
      says: /--role worker needs TEMPORAL_ADDRESS/,
    },
    { name: 'an unknown role', flags: ['--role', 'boss'], says: /--role .*all, api, worker/ },
    { name: 'an unknown flag', flags: ['--prot', '80'], says: /unknown option '--prot'/ },
    { name: 'an extra word', flags: ['now'], says: /now/ },
    {
      name: 'TEMPORAL_ADDRESS',
      environment: { TEMPORAL_ADDRESS: 'http://host' },
      says: /TEMPORAL_ADDRESS: .*host:port/,
    },
    { name: 'HOLDFAST_HOST', environment: { HOLDFAST_HOST: 'localhost' }, says: /HOLDFAST_HOST: .*IP address/ },
    {
      name: 'no authentication beyond loopback',
      environment: { HOLDFAST_AUTH: 'none', HOLDFAST_HOST: '0.0.0.0' },
      says: /HOLDFAST_AUTH=none .*HOLDFAST_HOST=0\.0\.0\.0/,
    },
    { name: 'an unknown engine', flags: ['--engine', 'mysql'], says: /--engine .*sqlite, postgres/ },
    {
      name: 'an engine beside TEMPORAL_ADDRESS',
      flags: ['--engine', 'postgres'],
      environment: { TEMPORAL_ADDRESS: 'host:7233' },
      says: /--engine .*TEMPORAL_ADDRESS/,
    },
    { name: 'HOLDFAST_HOOK_ALLOW', environment: { HOLDFAST_HOOK_ALLOW: 'home' }, says: /HOLDFAST_HOOK_ALLOW: .*home/ },
    { name: 'HOLDFAST_CLOCK_START', environment: { HOLDFAST_CLOCK_START: 'soon' }, says: /HOLDFAST_CLOCK_START: / },
  ])('$name', async ({ flags = [], environment = {}, says }) => {
    const { code, stdout, stderr } = await runServer({ arguments: ['--data', data, ...flags], environment })
    expect(stderr).toMatch(/^holdfast: configuration: [^\n]+\n$/)
    expect(stderr).toMatch(says)
    expect({ code, stdout, files: await readdir(data) }).toEqual({ code: 1, stdout: '', files: [] })
  })

  test('a PostgreSQL that is not there is named by its setting', async () => {
    const { code, stdout, stderr } = await runServer({
      arguments: ['--role', 'api', '--port', '0', '--data', data],
      environment: { DATABASE_URL: 'postgres://holdfast:sesame@127.0.0.1:1/holdfast' },
    })
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(refusals(stderr)).toEqual([expect.stringMatching(/^holdfast: .*DATABASE_URL.*ECONNREFUSED 127\.0\.0\.1:1/)])
    expect(stderr).not.toContain('sesame')
  })
})

describe('beside a given PostgreSQL and Temporal', () => {
  let data: string
  let fresh: FreshStore
  let environment: Record<string, string>
  beforeAll(async () => {
    data = await dataFolder()
    fresh = await freshStore()
    await sql`update installation set id = gen_random_uuid()`.execute(fresh.store.db)
    environment = { DATABASE_URL: fresh.database_url, TEMPORAL_ADDRESS: inject('temporal_address') }
  })
  afterAll(async () => {
    await fresh?.close()
    await dropFolder(data)
  })
  const refused = async (role: string, port: number, more: Record<string, string> = {}): Promise<string> => {
    const end = await runServer({
      arguments: ['--role', role, '--port', String(port), '--data', data],
      environment: { ...environment, ...more },
    })
    const lines = refusals(end.stderr)
    const { code, stdout } = end
    expect({ code, stdout, lines: lines.length }, end.stderr).toEqual({ code: 1, stdout: '', lines: 1 })
    return lines[0]!
  }

  test('a port in use is named together with its settings', async () => {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const { port } = taken.address() as { port: number }
    try {
      expect(await refused('api', port)).toBe(
        `holdfast: port ${port} is in use: choose another with --port or HOLDFAST_PORT`,
      )
    } finally {
      taken.close()
    }
  })

  test.runIf(process.platform === 'linux')(
    'listens where HOLDFAST_HOST says, and tells an address of use',
    async () => {
      for (const [host, elsewhere] of [
        ['0.0.0.0', 200],
        ['127.0.0.1', 'refused'],
      ] as const) {
        const server = await startServer({
          arguments: ['--role', 'api', '--port', '0', '--data', data],
          environment: { ...environment, HOLDFAST_HOST: host },
        })
        const url = new URL('/livez', server.url)
        expect(url.hostname).toBe('127.0.0.1')
        expect((await fetch(url)).status).toBe(200)
        url.hostname = '127.0.0.2'
        expect(
          await fetch(url).then(
            ({ status }) => status,
            () => 'refused',
          ),
        ).toBe(elsewhere)
        server.kill('SIGTERM')
        expect(await server.ended).toMatchObject({ code: 0 })
      }
      expect(await refused('api', 0, { HOLDFAST_HOST: '192.0.2.1' })).toBe(
        'holdfast: HOLDFAST_HOST: this machine has no address 192.0.2.1',
      )
    },
  )

  test('a schema that asks for a later release is refused, and so is one that is too old', async () => {
    const { db } = fresh.store
    const { min_compatible, schema_version } = await db
      .selectFrom('installation')
      .select(['min_compatible', 'schema_version'])
      .executeTakeFirstOrThrow()
    try {
      await db.updateTable('installation').set({ min_compatible: 99, schema_version: 99 }).execute()
      expect(await refused('api', 0)).toMatch(
        /schema \(version 99\) asks for .* version 99; this one knows \d+: upgrade/,
      )
      // A newer schema that still serves this release is no reason to refuse.
      await db.updateTable('installation').set({ min_compatible, schema_version: 99 }).execute()
      const server = await startServer({ arguments: ['--role', 'api', '--port', '0', '--data', data], environment })
      server.kill('SIGTERM')
      expect(await server.ended).toMatchObject({ code: 0 })
      await db.updateTable('installation').set({ min_compatible, schema_version: 0 }).execute()
      expect(await refused('api', 0)).toMatch(/schema is version 0, this release needs \d+: run the migrations/)
    } finally {
      await db.updateTable('installation').set({ min_compatible, schema_version }).execute()
    }
  })

  test('one that was put back from a backup is marked so at the start that says it, and only there', async () => {
    const installation = () => fresh.store.db.selectFrom('installation').selectAll().executeTakeFirstOrThrow()
    const startAndEnd = async (...flags: string[]) => {
      const server = await startServer({
        arguments: ['--role', 'api', '--port', '0', '--data', data, ...flags],
        environment,
      })
      server.kill('SIGTERM')
      const { code, stderr } = await server.ended
      expect(code).toBe(0)
      expect(stderr).toMatch(/automatic removal is off: .*PATCH \/api\/installation/)
    }
    try {
      await startAndEnd('--restored')
      const marked = await installation()
      expect(marked).toMatchObject({ automatic_removal: false, restored_at: expect.any(Date) })
      await startAndEnd()
      expect(await installation()).toEqual(marked)
    } finally {
      await fresh.store.db.updateTable('installation').set({ automatic_removal: true }).execute()
    }
  })

  test('a Temporal namespace of another installation is refused', async () => {
    const namespace = await freshNamespace()
    const connection = await Connection.connect({ address: inject('temporal_address') })
    try {
      const client = new Client({ connection, namespace })
      await client.schedule.create({
        scheduleId: HOUSEKEEPING,
        spec: {},
        action: { type: 'startWorkflow', workflowType: HOUSEKEEPING, taskQueue: 'nobody' },
        memo: { installation_id: 'somebody-else' },
      })
      expect(await refused('all', 0, { TEMPORAL_NAMESPACE: namespace })).toMatch(
        /this Temporal namespace belongs to installation somebody-else, not to .*TEMPORAL_NAMESPACE/,
      )
    } finally {
      await connection.close()
    }
  })

  test('a Temporal that is not there keeps nobody from starting, nor from leaving', async () => {
    const server = await startServer({
      arguments: ['--port', '0', '--data', data],
      environment: { ...environment, TEMPORAL_ADDRESS: '127.0.0.1:1' },
    })
    const response = await fetch(`${server.url}/readyz`)
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({ ready: true, degraded: ['temporal'], reasons: [] })
    const asked_at = performance.now()
    server.kill('SIGTERM')
    expect(await server.ended).toMatchObject({ code: 0, signal: null })
    expect(performance.now() - asked_at).toBeLessThan(EXIT_WITHIN_MS)
  })

  test('a transaction held open too long, idle or busy, ends by itself and never the process', async () => {
    const script = `
      import { openStore, isAway } from ${JSON.stringify(join(import.meta.dirname, '../../store/database.ts'))}
      import { sql } from 'kysely'
      let reported = 0
      const store = openStore(process.argv[1], { size: 2, onError: () => void reported++ })
      const failure = (job) => store.db.transaction().execute(job).then(() => 'committed', (error) => ({ away: isAway(error) }))
      const busy = await failure((trx) => sql\`select pg_sleep(60)\`.execute(trx))
      const before = reported
      const idle = await failure(async (trx) => {
        await sql\`select 1\`.execute(trx)
        while (reported === before) await new Promise((resolve) => setImmediate(resolve))
        await sql\`select 1\`.execute(trx)
      })
      const { rows } = await sql\`select 1 as one\`.execute(store.db)
      await store.close()
      console.log(JSON.stringify({ busy, idle, rows }))`
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--input-type=module', '--eval', script, fresh.database_url],
      { cwd: join(import.meta.dirname, '../..') },
    )
    expect(JSON.parse(stdout)).toEqual({ busy: { away: true }, idle: { away: true }, rows: [{ one: 1 }] })
  })
})

describe('a server with its own engine', { timeout: 120_000 }, () => {
  let data: string
  let cloud_data: string
  let port: number
  let server: ServerProcess
  let simulated: { url: string; process: ChildProcess }
  let client: Witness
  let token: string

  const start = (): Promise<ServerProcess> =>
    startServer({ arguments: ['--role', 'all', '--port', String(port), '--data', data] })

  beforeAll(async () => {
    ;[data, cloud_data] = await Promise.all([dataFolder(), dataFolder()])
    port = await freePort()
    simulated = await spawnSimulatedCloud(cloud_data)
    server = await start()
    token = await operatorToken(data)
    client = openWitness(() => server.url, token)
    await new CloudControl(simulated.url, 'east').configure({ boot_latency_ms: 300, create_latency_ms: 100 })
    const cloud = { name: 'east', provider: 'simulated', endpoint: `${simulated.url}/clouds/east` }
    const names = { sizes: { small: 'm1.small' }, images: { debian: 'debian-13' }, settings: { settle_ms: 2_000 } }
    await client.ask({ kind: 'order', method: 'POST', path: '/api/clouds', body: { ...cloud, ...names } })
    await client.ask({ kind: 'order', method: 'PUT', path: '/api/clouds/east/grants/default' })
  })
  afterAll(async () => {
    if (simulated) await endProcess(simulated.process, 'SIGTERM')
    if (data) await dropFolder(data, server)
    if (cloud_data) await dropFolder(cloud_data)
  })

  const body = { name: 'web', count: 2, size: 'small', image: 'debian' }
  const post = (key: string): Promise<Response> =>
    fetch(`${server.url}/api/launch-orders`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', 'idempotency-key': key },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(OUTAGE_TIMEOUT_MS),
    })
  const order = async (): Promise<string> => {
    const told = await client.ask({ kind: 'order', method: 'POST', path: '/api/launch-orders', body })
    expect(told.status).toBe(202)
    return String(told.body.launch_order!.id)
  }
  const stateOf = async (id: string): Promise<string> => {
    const response = await fetch(`${server.url}/api/launch-orders/${id}`, {
      headers: { authorization: `Bearer ${token}` },
    })
    return ((await response.json()) as { launch_order: { state: string } }).launch_order.state
  }
  const untilRunning = (id: string): Promise<unknown> =>
    waitFor(async () => (await stateOf(id)) === 'running', {
      what: `order ${id} to run`,
      timeout_ms: SETTLE_TIMEOUT_MS,
      interval_ms: 50,
    })
  const ready = async (): Promise<{ status: number; degraded: string[]; reasons: string[] }> => {
    const response = await fetch(`${server.url}/readyz`, { signal: AbortSignal.timeout(OUTAGE_TIMEOUT_MS) })
    return { status: response.status, ...((await response.json()) as { degraded: string[]; reasons: string[] }) }
  }
  const untilReady = (state: Record<string, unknown>): Promise<unknown> =>
    waitFor(async () => expect(await ready()).toMatchObject(state) ?? true, {
      what: `/readyz to say ${JSON.stringify(state)}`,
      timeout_ms: OUTAGE_TIMEOUT_MS,
      interval_ms: 50,
    })
  /** The same process, and it never said anything it should not. */
  const expectUnharmed = async (): Promise<void> => {
    await untilReady({ status: 200, degraded: [], reasons: [] })
    expect(client.complaints).toEqual([])
    expect((await processesOf(data)).map(({ pid }) => pid)).toContain(server.pid)
  }

  test('keeps a second one off its data folder, which names it', async () => {
    const second = await runServer({ arguments: ['--port', '0', '--data', data] })
    expect(second).toMatchObject({ code: 1, stdout: '' })
    expect(refusals(second.stderr)).toEqual([`holdfast: data folder ${data} is in use by process ${server.pid}`])
    await expectUnharmed()
  })

  test('stands beside another on a folder of its own, which leaves nothing behind', async () => {
    const other_data = await dataFolder()
    let other: ServerProcess | undefined
    try {
      other = await startServer({ arguments: ['--port', '0', '--data', other_data] })
      expect((await fetch(`${other.url}/readyz`)).status).toBe(200)
      await untilRunning(await order())
      other.kill('SIGTERM')
      expect(await other.ended).toMatchObject({ code: 0, signal: null })
      expect(await processesOf(other_data)).toEqual([])
    } finally {
      await dropFolder(other_data, other)
    }
    await expectUnharmed()
  })

  test('says 503 and when to come back while PostgreSQL does not answer, and goes on by itself', async () => {
    const before = await order()
    const frozen = await familyOf(await enginePid(data, 'postgres'))
    for (const pid of frozen) process.kill(pid, 'SIGSTOP')
    try {
      const response = await post('frozen')
      expect({ status: response.status, retry_after: response.headers.get('retry-after') }).toEqual({
        status: 503,
        retry_after: expect.stringMatching(/^\d+$/),
      })
      await untilReady({ status: 503, reasons: ['postgres'] })
      expect((await fetch(`${server.url}/livez`)).status).toBe(200)
    } finally {
      for (const pid of frozen.toReversed()) process.kill(pid, 'SIGCONT')
    }
    const repeated = await waitFor(
      async () => {
        const response = await post('frozen')
        return response.status === 202 && ((await response.json()) as { launch_order: { id: string } })
      },
      { what: 'the write to be accepted', timeout_ms: OUTAGE_TIMEOUT_MS },
    )
    await untilRunning(before)
    await untilRunning(repeated.launch_order.id)
    await expectUnharmed()
  })

  test('takes writes while Temporal does not answer, says so, and settles them afterwards', async () => {
    const pid = await enginePid(data, 'temporal')
    process.kill(pid, 'SIGSTOP')
    const orders: string[] = []
    try {
      orders.push(await order())
      await untilReady({ status: 200, degraded: ['temporal'], reasons: [] })
      orders.push(await order())
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    await Promise.all(orders.map(untilRunning))
    await expectUnharmed()
  })

  test.each<EngineName>(['postgres', 'temporal'])('starts a killed %s again and loses nothing by it', async (name) => {
    const killed = await enginePid(data, name)
    const asking = Promise.all([order(), order()])
    await killHard(killed)
    const during = await order()
    await waitFor(async () => (await enginePid(data, name)) !== killed, {
      what: `${name} to be started again`,
      timeout_ms: OUTAGE_TIMEOUT_MS,
    })
    await Promise.all([...(await asking), during].map(untilRunning))
    await expectUnharmed()
  })

  test('leaves on SIGTERM under load, soon, whole and with code 0; the next start goes on', async () => {
    const orders = await Promise.all(Array.from({ length: 8 }, order))
    const asking = Promise.all(Array.from({ length: 4 }, order))
    const asked_at = performance.now()
    server.kill('SIGTERM')
    const { code, signal } = await server.ended
    expect(performance.now() - asked_at).toBeLessThan(EXIT_WITHIN_MS)
    expect({ code, signal }).toEqual({ code: 0, signal: null })
    expect(await processesOf(data)).toEqual([])
    server = await start()
    await Promise.all([...orders, ...(await asking)].map(untilRunning))
    await expectUnharmed()
  })
})
