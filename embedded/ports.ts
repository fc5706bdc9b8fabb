/** Ports of the engine's processes: free ones, remembered so that a restart keeps them. All on the loopback. */
import { randomInt } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { readText } from './identity.ts'

export type PortName = 'postgres' | 'temporal' | 'temporal_ui' | 'simulated'

/** Ports that were asked for; the others are free ones. */
export type Ports = Partial<Record<PortName, number>>

/** True when nothing listens on the port and we may. */
export function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)))
  })
}

/** True when something accepts connections there. */
export function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' })
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}

/** The ports of one data folder. */
export class PortBook {
  readonly #file: string
  readonly #given: Ports
  readonly #known: Ports

  constructor(file: string, given: Ports) {
    this.#file = file
    this.#given = given
    this.#known = readPorts(file)
  }

  /**
   * The port for a process that is about to start. One that was asked for must be free; one that was chosen by an
   * earlier start and is taken by now is replaced.
   */
  async claim(name: PortName, log: (line: string) => void): Promise<number> {
    const given = this.#given[name]
    if (given !== undefined && given !== 0) {
      if (await isFree(given)) return this.#keep(name, given)
      throw new Error(`port ${given} for ${name} is in use: choose another one with ports.${name}, or none for any`)
    }
    const known = this.#known[name]
    if (known !== undefined) {
      if (await isFree(known)) return known
      log(`port ${known} of ${name} is in use by another program by now: taking another one`)
    }
    return this.#keep(name, await freePort(Object.values(this.#known)))
  }

  /** Remembers the port of a process that was found running. */
  adopt(name: PortName, port: number): void {
    this.#keep(name, port)
  }

  /** What is remembered for a name. */
  known(name: PortName): number | undefined {
    return this.#known[name]
  }

  #keep(name: PortName, port: number): number {
    this.#known[name] = port
    writeFileSync(this.#file, `${JSON.stringify(this.#known)}\n`)
    return port
  }
}

function readPorts(file: string): Ports {
  const ports: Ports = {}
  try {
    const value: unknown = JSON.parse(readText(file) ?? '{}')
    if (typeof value !== 'object' || value === null) return ports
    for (const [name, port] of Object.entries(value)) {
      if (typeof port === 'number' && isPortName(name)) ports[name] = port
    }
  } catch {
    // half written by a process that was killed: new ports it is
  }
  return ports
}

function isPortName(name: string): name is PortName {
  return name === 'postgres' || name === 'temporal' || name === 'temporal_ui' || name === 'simulated'
}

/**
 * Below the ports the system gives to outgoing connections: one of these could take it between this look and the
 * listen of its user.
 */
async function freePort(taken: readonly number[]): Promise<number> {
  const [first, last, tries] = [20_000, 32_000, 100]
  for (let attempt = 0; attempt < tries; attempt++) {
    const port = randomInt(first, last)
    if (!taken.includes(port) && (await isFree(port))) return port
  }
  throw new Error(`no free port found between ${first} and ${last}`)
}
