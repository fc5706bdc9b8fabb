/** The engine room on real processes: what survives which kill, and what is left behind by a stop. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Client, Connection } from '@temporalio/client'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Engine, type EngineOptions, type EngineProcessName, startEngine } from '../../embedded/engine.ts'
import { identify, isAlive } from '../../embedded/identity.ts'

const child_script = fileURLToPath(new URL('./child.ts', import.meta.url))
const root = fileURLToPath(new URL('../../', import.meta.url))
const folders: string[] = []

async function dataFolder(): Promise<string> {
  const folder = await mkdtemp(join(process.env.HOLDFAST_TEST_FOLDER ?? tmpdir(), 'engine-'))
  await chmod(folder, 0o755) // PostgreSQL's own user must be able to enter it when we are root
  folders.push(folder)
  return folder
}

afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))))

async function start(data: string, more: Partial<EngineOptions> = {}): Promise<{ engine: Engine; lines: string[] }> {
  const lines: string[] = []
  const engine = await startEngine({ data, log: (line) => lines.push(line), ...more })
  return { engine, lines }
}

function processOf(engine: Pick<Engine, 'processes'>, name: EngineProcessName): { pid: number; port: number } {
  return engine.processes().find((process) => process.name === name)!
}

function nextRestart(engine: Engine, name: EngineProcessName): Promise<void> {
  return new Promise((resolve) => {
    const leave = engine.onRestart((restarted) => {
      if (restarted !== name) return
      leave()
      resolve()
    })
  })
}

async function query(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => {})
  await client.connect()
  try {
    return (await client.query(text)).rows
  } finally {
    await client.end()
  }
}

async function withTemporal<T>(engine: Engine, work: (client: Client) => Promise<T>): Promise<T> {
  const connection = await Connection.connect({ address: engine.temporal_address })
  try {
    return await work(new Client({ connection, namespace: engine.namespace }))
  } finally {
    await connection.close()
  }
}

describe('a running engine', () => {
  let data: string
  let engine: Engine
  let lines: string[]

  beforeAll(async () => {
    data = await dataFolder()
    ;({ engine, lines } = await start(data))
  })
  afterAll(() => engine?.stop())

  test('has a database with real durability, a namespace with search attributes, a page to look at', async () => {
    const rows = await query(
      engine.database_url,
      `select current_database() as database, current_setting('fsync') as fsync,
              current_setting('max_connections') as connections, current_setting('server_version_num')::int as version`,
    )
    expect(rows).toEqual([{ database: 'holdfast', fsync: 'on', connections: '200', version: expect.any(Number) }])
    expect(rows[0]!.version).toBeGreaterThanOrEqual(170_000)
    await withTemporal(engine, async ({ connection }) => {
      const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: 'holdfast' })
      expect(Object.keys(customAttributes ?? {})).toEqual(expect.arrayContaining(['HoldfastProject', 'HoldfastState']))
    })
    expect((await fetch(engine.temporal_ui!)).status).toBe(200)
  })

  test('keeps the password from other users', async () => {
    expect((await stat(join(data, 'postgres-password'))).mode & 0o077).toBe(0)
    const wrong = new URL(engine.database_url)
    wrong.password = 'guess'
    await expect(query(wrong.href, 'select 1')).rejects.toThrow(/password authentication failed/)
  })

  test('is refused to a second start on the same data folder, which names the first', async () => {
    await expect(start(data)).rejects.toThrow(`data folder ${data} is in use by process ${process.pid}`)
    await query(engine.database_url, 'select 1')
  })

  test('brings a killed PostgreSQL back on its port, with everything that was committed', async () => {
    await query(engine.database_url, 'create table kept (n int); insert into kept values (1)')
    const before = processOf(engine, 'postgres')
    // A backend in the middle of a statement is what makes a restart hard.
    const busy = query(engine.database_url, 'select pg_sleep(30)').catch(() => {})
    const restarted = nextRestart(engine, 'postgres')
    process.kill(before.pid, 'SIGKILL')
    await restarted
    await busy
    const after = processOf(engine, 'postgres')
    expect(after.port).toBe(before.port)
    expect(after.pid).not.toBe(before.pid)
    expect(await query(engine.database_url, 'select n from kept')).toEqual([{ n: 1 }])
    expect(lines).toContainEqual('postgres ended (SIGKILL), starting it again')
  })

  test('brings a killed Temporal back on its port, with its workflows', async () => {
    const before = processOf(engine, 'temporal')
    await withTemporal(engine, (client) =>
      client.workflow.start('nobodyRunsThis', { workflowId: 'kept', taskQueue: 'nobody' }),
    )
    const restarted = nextRestart(engine, 'temporal')
    process.kill(before.pid, 'SIGKILL')
    await restarted
    expect(processOf(engine, 'temporal').port).toBe(before.port)
    const { status } = await withTemporal(engine, (client) => client.workflow.getHandle('kept').describe())
    expect(status.name).toBe('RUNNING')
  })

  test('stands beside another one', async () => {
    const other = await start(await dataFolder())
    try {
      expect(other.engine.database_url).not.toBe(engine.database_url)
      expect(other.engine.temporal_address).not.toBe(engine.temporal_address)
      await Promise.all([engine, other.engine].map(({ database_url }) => query(database_url, 'select 1')))
    } finally {
      await other.engine.stop()
    }
  })

  test('leaves no process and no lock when stopped, and starts again with its data and ports', async () => {
    const running = engine.processes().map(({ pid }) => identify(pid)!)
    const { database_url } = engine
    await engine.stop()
    expect(running.filter(isAlive)).toEqual([])
    expect(await readdir(join(data, 'run'))).toEqual(['ports.json'])
    ;({ engine } = await start(data, { namespace: 'another' }))
    expect(engine.database_url).toBe(database_url)
    expect(await query(database_url, 'select n from kept')).toEqual([{ n: 1 }])
    await withTemporal(engine, ({ connection }) =>
      connection.workflowService.describeNamespace({ namespace: 'another' }),
    )
  })

  test('has a new Temporal when its file was deleted while it was stopped', async () => {
    await engine.stop()
    await rm(join(data, 'temporal', 'temporal.db'))
    ;({ engine } = await start(data))
    await expect(withTemporal(engine, (client) => client.workflow.getHandle('kept').describe())).rejects.toThrow()
  })
})

describe('after the death of its owner', () => {
  test('what still runs is adopted; what is then killed is started again', async () => {
    const data = await dataFolder()
    const owner = await startOwner(data)
    process.kill(owner.pid, 'SIGKILL')
    await owner.ended
    const { engine, lines } = await start(data)
    try {
      expect(engine.processes()).toEqual(expect.arrayContaining([...owner.processes]))
      expect(engine.database_url).toBe(owner.database_url)
      expect(lines).toContainEqual(expect.stringMatching(/^postgres: adopted process \d+ of an earlier start/))
      const before = processOf(engine, 'postgres')
      const restarted = nextRestart(engine, 'postgres')
      process.kill(before.pid, 'SIGKILL')
      await restarted
      expect(processOf(engine, 'postgres').port).toBe(before.port)
    } finally {
      await engine.stop()
    }
    expect(owner.processes.filter(({ pid }) => identify(pid))).toEqual([])
  })

  test('what died meanwhile is started, what is not wanted any more is ended', async () => {
    const data = await dataFolder()
    const owner = await startOwner(data)
    process.kill(owner.pid, 'SIGKILL')
    await owner.ended
    const [postgres, temporal] = ['postgres', 'temporal'].map(
      (name) => owner.processes.find((process) => process.name === name)!,
    )
    process.kill(postgres!.pid, 'SIGKILL')
    const { engine } = await start(data, { temporalAddress: '127.0.0.1:1' })
    try {
      expect(identify(temporal!.pid)).toBeNull()
      expect(engine.temporal_ui).toBeNull()
      expect(await query(engine.database_url, 'select 1 as one')).toEqual([{ one: 1 }])
    } finally {
      await engine.stop()
    }
  })
})

describe('a start', () => {
  test('ends what an owner started but could not write down any more', async () => {
    const data = await dataFolder()
    const owner = await startOwner(data)
    process.kill(owner.pid, 'SIGKILL')
    await owner.ended
    for (const { name } of owner.processes) await rm(join(data, 'run', `${name}.json`))
    const { engine } = await start(data)
    try {
      expect(owner.processes.filter(({ pid }) => identify(pid))).toEqual([])
      expect(engine.processes().map(({ port }) => port)).toEqual(
        expect.arrayContaining(owner.processes.map(({ port }) => port)),
      )
    } finally {
      await engine.stop()
    }
  })

  test('says which port is in use and what changes it, and leaves nothing behind', async () => {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const { port } = taken.address() as { port: number }
    const data = await dataFolder()
    try {
      await expect(start(data, { ports: { temporal: port } })).rejects.toThrow(
        `port ${port} for temporal is in use: choose another one with ports.temporal`,
      )
      expect(existsSync(join(data, 'run', 'lock'))).toBe(false)
      expect(await runningIn(data)).toEqual([])
    } finally {
      taken.close()
    }
  })

  test('that is given up ends what it has started', async () => {
    const data = await dataFolder()
    const given_up = new AbortController()
    const starting = start(data, { signal: given_up.signal })
    const reason = new Error('given up')
    given_up.abort(reason)
    await expect(starting).rejects.toBe(reason)
    expect(await runningIn(data)).toEqual([])
  })

  test('goes on when the folder was deleted together with everything in it', async () => {
    const data = await dataFolder()
    await (await start(data, { temporalAddress: '127.0.0.1:1' })).engine.stop()
    await rm(data, { recursive: true })
    const { engine } = await start(data, { temporalAddress: '127.0.0.1:1' })
    await query(engine.database_url, 'select 1')
    await engine.stop()
  })

  test.runIf(process.getuid?.() === 0)('as root finds a place for PostgreSQL when its user is shut out', async () => {
    const parent = await dataFolder()
    await chmod(parent, 0o700)
    const data = join(parent, 'data')
    const { engine, lines } = await start(data, { temporalAddress: '127.0.0.1:1' })
    const line = lines.find((text) => text.startsWith('postgres: its user cannot enter'))
    const cluster = /data in (\/var\/lib\/holdfast\/\S+)/.exec(line ?? '')?.[1]
    try {
      expect(cluster).toBeDefined()
      expect(await query(engine.database_url, 'show data_directory')).toEqual([{ data_directory: cluster }])
    } finally {
      await engine.stop()
      if (cluster) await rm(join(cluster, '..'), { recursive: true })
    }
  })
})

interface Owner {
  readonly pid: number
  readonly ended: Promise<unknown>
  readonly database_url: string
  readonly processes: readonly { name: string; pid: number; port: number }[]
}

async function startOwner(data: string): Promise<Owner> {
  const child: ChildProcess = spawn(process.execPath, [child_script, data], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  const [line] = await Promise.race([
    once(createInterface({ input: child.stdout! }), 'line'),
    ended.then(() => Promise.reject(new Error('the owner ended'))),
  ])
  return { pid: child.pid!, ended, ...(JSON.parse(line) as Pick<Owner, 'database_url' | 'processes'>) }
}

/** Command lines that name the folder, of whatever process. */
async function runningIn(folder: string): Promise<string[]> {
  const found: string[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    if (line.includes(folder)) found.push(line.replaceAll('\0', ' '))
  }
  return found
}
