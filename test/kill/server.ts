/** `npm start` as a person starts it: a real process on a data folder, its engine processes, and the end of them all. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { chmod, mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { inject } from 'vitest'
import { identify, untilGone } from '../../embedded/identity.ts'
import { isFree } from '../../embedded/ports.ts'
import { waitFor } from '../support/wait-for.ts'

const ROOT = join(import.meta.dirname, '../..')
const START = join(ROOT, 'worker/start.ts')
const READY_TIMEOUT_MS = 90_000
const GONE_TIMEOUT_MS = 10_000

export type EngineName = 'postgres' | 'temporal'

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface ServerProcess {
  readonly pid: number
  readonly url: string
  /** What the ready line says. */
  readonly ready: { readonly api: string; readonly operator_token_file: string | null }
  readonly ended: Promise<Ended>
  stderr(): string
  kill(signal: NodeJS.Signals): void
}

export interface StartOptions {
  readonly arguments?: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
}

/** A folder for one installation; PostgreSQL's own user must be able to enter it when we are root. */
export async function dataFolder(): Promise<string> {
  const folder = await mkdtemp(join(process.env.HOLDFAST_TEST_FOLDER ?? tmpdir(), 'kill-'))
  await chmod(folder, 0o755)
  return folder
}

/** A port that no outgoing connection takes while its server is dead. */
export async function freePort(): Promise<number> {
  const [first, count] = [12_000, 8_000]
  return waitFor(
    async () => {
      const port = first + Math.floor(Math.random() * count)
      return (await isFree(port)) && port
    },
    { what: 'a free port', interval_ms: 0 },
  )
}

function spawnServer(options: StartOptions): { child: ChildProcess; ended: Promise<Ended>; stderr(): string } {
  const { NODE_OPTIONS: _, ...inherited } = process.env
  const kept = Object.entries(inherited).filter(
    ([name]) => !/^(HOLDFAST_|VITEST|DATABASE_URL$|TEMPORAL_(?!CLI$))/.test(name),
  )
  const child = spawn(process.execPath, [START, ...(options.arguments ?? [])], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...Object.fromEntries(kept), HOLDFAST_HOOK_ALLOW: '127.0.0.0/8', ...options.environment },
  })
  let [stdout, stderr] = ['', '']
  const log = join(inject('logs_folder'), `server-${child.pid}.log`)
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
    appendFileSync(log, text)
  })
  const ended = once(child, 'close').then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as NodeJS.Signals | null,
    stdout,
    stderr,
  }))
  return { child, ended, stderr: () => stderr }
}

/** Starts a server and resolves with its ready line; rejects with its last words when there is none. */
export async function startServer(options: StartOptions): Promise<ServerProcess> {
  const { child, ended, stderr } = spawnServer(options)
  const early = ended.then((end) => {
    throw new Error(`the server ended before it was ready (${end.code ?? end.signal}): ${end.stderr.slice(-2_000)}`)
  })
  const timeout = setTimeout(() => child.kill('SIGKILL'), READY_TIMEOUT_MS)
  const lines = createInterface({ input: child.stdout! })
  const [line] = (await Promise.race([once(lines, 'line'), early]).finally(() => clearTimeout(timeout))) as [string]
  early.catch(() => {})
  const ready = JSON.parse(line) as ServerProcess['ready']
  return { pid: child.pid!, url: ready.api, ready, ended, stderr, kill: (signal) => child.kill(signal) }
}

/** Runs a server that is to end by itself, within the time of a start. */
export async function runServer(options: StartOptions): Promise<Ended> {
  const { child, ended } = spawnServer(options)
  const timeout = setTimeout(() => child.kill('SIGKILL'), READY_TIMEOUT_MS)
  return ended.finally(() => clearTimeout(timeout))
}

/** The process of that name which a data folder's server looks after now. */
export async function enginePid(data: string, name: EngineName): Promise<number> {
  const text = await readFile(join(data, 'run', `${name}.json`), 'utf8')
  return (JSON.parse(text) as { pid: number }).pid
}

/** `kill -9`, and the certainty that it is gone. */
export async function killHard(pid: number): Promise<void> {
  const identity = identify(pid)
  process.kill(pid, 'SIGKILL')
  if (identity && !(await untilGone(identity, GONE_TIMEOUT_MS))) throw new Error(`process ${pid} outlives its kill`)
}

export async function databaseUrl(data: string): Promise<string> {
  const text = await readFile(join(data, 'run', 'endpoints.json'), 'utf8')
  return (JSON.parse(text) as { database_url: string }).database_url
}

export async function operatorToken(data: string): Promise<string> {
  return (await readFile(join(data, 'operator-token'), 'utf8')).trim()
}

/** Living processes whose command line names the folder, as `ps` would show them, or that work in it. */
export async function processesOf(data: string): Promise<{ pid: number; command: string }[]> {
  const found: { pid: number; command: string }[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    const folder = await readlink(`/proc/${name}/cwd`).catch(() => '')
    if (command.includes(data) || folder.startsWith(data))
      found.push({ pid: Number(name), command: command.replaceAll('\0', ' ') })
  }
  return found
}

/** A process and the ones it started, itself first. PostgreSQL's each have a group of their own. */
export async function familyOf(pid: number): Promise<number[]> {
  const children: number[] = []
  for (const name of await readdir('/proc')) {
    const stat = /^\d+$/.test(name) ? await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '') : ''
    const [, parent] = stat.split(') ').at(-1)!.split(' ')
    if (Number(parent) === pid) children.push(Number(name))
  }
  return [pid, ...children]
}

/** Ends whatever runs on the folder and removes it; also after a failed test. */
export async function dropFolder(data: string, server?: ServerProcess): Promise<void> {
  if (server) {
    server.kill('SIGCONT')
    server.kill('SIGKILL')
    await server.ended
  }
  for (const { pid } of await processesOf(data)) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // gone meanwhile
    }
  }
  await waitFor(async () => (await processesOf(data)).length === 0, { what: `the processes of ${data} to be gone` })
  await rm(data, { recursive: true, force: true, maxRetries: 5 })
}
