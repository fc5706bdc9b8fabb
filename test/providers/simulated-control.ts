/** A simulated cloud for tests: its server in this process or one of its own, and the control API in a few words. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Provider } from '../../providers/provider.ts'
import type { CloudConfigurationInput, FaultInput } from '../../providers/simulated/configuration.ts'
import { createSimulatedProvider } from '../../providers/simulated/provider.ts'
import type { LedgerLine } from '../../providers/simulated/records.ts'
import { startSimulatedCloud } from '../../providers/simulated/server.ts'

const SERVER = join(import.meta.dirname, '../../providers/simulated/server.ts')

/** The server in this process, over a folder of its own. */
export async function openSimulatedCloud(): Promise<{ url: string; close(): Promise<void> }> {
  const data = await mkdtemp(join(tmpdir(), 'simulated-cloud-'))
  const server = await startSimulatedCloud({ port: 0, data })
  return {
    url: server.url,
    close: async () => {
      await server.close()
      await rm(data, { recursive: true, force: true })
    },
  }
}

/** The server as a process of its own, to be killed. */
export async function spawnSimulatedCloud(data: string, port = 0): Promise<{ url: string; process: ChildProcess }> {
  const child = spawn(process.execPath, [SERVER, '--port', String(port), '--data', data], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint += text
  })
  const ended = once(child, 'exit').then(() => {
    throw new Error(`the simulated cloud ended before it was ready: ${complaint}`)
  })
  const ready = once(createInterface(child.stdout), 'line') as Promise<[string]>
  const [line] = await Promise.race([ready, ended])
  ended.catch(() => undefined)
  const { url } = JSON.parse(line) as { url: string }
  return { url, process: child }
}

/** Ends a process and waits until it is gone. */
export async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  const exited = once(child, 'exit')
  child.kill(signal)
  const [code] = (await exited) as [number | null]
  return code
}

export interface MachineLife {
  readonly id: string
  readonly name: string
  readonly state: string
  readonly host: string | null
  readonly created_at: number
  readonly booted_at: number | null
  readonly gone_at: number | null
  readonly gone_how: string | null
  readonly tags: Readonly<Record<string, string>>
}

/** The control API of one cloud. */
export class CloudControl {
  readonly endpoint: string
  readonly #control: string

  constructor(url: string, name: string) {
    this.endpoint = `${url}/clouds/${name}`
    this.#control = `${url}/control/clouds/${name}`
  }

  /** An adapter for this cloud. */
  provider(settings: Record<string, unknown> = {}, credential: string | null = null): Provider {
    return createSimulatedProvider({ endpoint: this.endpoint, credential, settings })
  }

  configure(configuration: CloudConfigurationInput): Promise<unknown> {
    return this.send('PUT', '', configuration)
  }

  change(changes: CloudConfigurationInput): Promise<unknown> {
    return this.send('PATCH', '', changes)
  }

  async fault(fault: FaultInput): Promise<string> {
    return ((await this.send('POST', '/faults', fault)) as { id: string }).id
  }

  noFaults(): Promise<unknown> {
    return this.send('DELETE', '/faults')
  }

  async machines(): Promise<MachineLife[]> {
    return ((await this.send('GET', '/machines')) as { machines: MachineLife[] }).machines
  }

  fate(machine_id: string, fate: 'die' | 'vanish'): Promise<unknown> {
    return this.send('POST', `/machines/${machine_id}/${fate}`)
  }

  /** The whole ledger, page by page. */
  async ledger(limit = 1_000): Promise<LedgerLine[]> {
    const lines: LedgerLine[] = []
    for (;;) {
      const response = await fetch(`${this.#control}/ledger?after=${lines.at(-1)?.seq ?? 0}&limit=${limit}`)
      const text = await response.text()
      const page = text.split('\n').filter(Boolean)
      lines.push(...page.map((line) => JSON.parse(line) as LedgerLine))
      if (page.length < limit) return lines
    }
  }

  async send(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(`${this.#control}${path}`, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return text === '' ? undefined : JSON.parse(text)
  }
}
