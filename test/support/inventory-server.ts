/**
 * An inventory outside: a real HTTP server that gives names, the same for the same request, takes records, keeps a ledger
 * of all it was asked, and misbehaves as told.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

export interface InventoryRequest {
  readonly kind: 'name' | 'record'
  /** The request's id, or the name. */
  readonly key: string
  readonly body: Readonly<Record<string, unknown>>
  /** What was answered; 0: nothing. */
  status: number
}

/** `lose`: no answer; `before` it is carried out, or after. `body` with a status: instead of carrying it out. */
export type InventoryFault =
  | { readonly lose: 'before' | 'after' }
  | { readonly delay_ms: number }
  | { readonly status: number; readonly body: string }

export interface InventoryServer {
  readonly url: string
  readonly username: string
  /** Set at any time. */
  password: string
  readonly ledger: InventoryRequest[]
  /** Names by request. */
  readonly names: Map<string, string>
  /** The record it has of each name. */
  readonly records: Map<string, Readonly<Record<string, unknown>>>
  /** Set at any time; asked for each request. */
  fault: (request: InventoryRequest) => InventoryFault | undefined
  /** The name for a new request; set at any time. */
  newName: () => string
  /** What its file says. */
  file(): { url: string; username: string; password: string }
  close(): Promise<void>
}

let serial = 0

/** Starts one on a free port of 127.0.0.1. */
export async function startInventory(): Promise<InventoryServer> {
  const ledger: InventoryRequest[] = []
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const inventory: InventoryServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/inventory`,
    username: 'holdfast',
    password: 'open-sesame-inventory',
    ledger,
    names: new Map(),
    records: new Map(),
    fault: () => undefined,
    newName: () => `host-${++serial}`,
    file: () => ({ url: inventory.url, username: inventory.username, password: inventory.password }),
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return inventory

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const [, kind, key] = /^\/inventory\/(requests|names)\/([^/]+)$/.exec(request.url ?? '') ?? []
    if (request.method !== 'PUT' || !key) return answer(404, 'there is nothing here')
    const entry: InventoryRequest = {
      kind: kind === 'requests' ? 'name' : 'record',
      key: decodeURIComponent(key),
      body: JSON.parse(Buffer.concat(chunks).toString('utf8')) as InventoryRequest['body'],
      status: 0,
    }
    ledger.push(entry)
    // It may have expected any password up to now: what it says back must not give one away.
    const given = Buffer.from(request.headers.authorization?.split(' ')[1] ?? '', 'base64').toString('utf8')
    if (given !== `${inventory.username}:${inventory.password}`) return answer(401, `not for "${given}"`, entry)
    const fault = inventory.fault(entry)
    if (fault && 'delay_ms' in fault) await delay(fault.delay_ms)
    if (fault && 'lose' in fault && fault.lose === 'before') return void request.socket.destroy()
    if (fault && 'status' in fault) return answer(fault.status, fault.body, entry)
    const [status, body] = carryOut(entry)
    if (fault && 'lose' in fault) return void request.socket.destroy()
    answer(status, body, entry)

    function answer(code: number, text: string, asked?: InventoryRequest): void {
      if (asked) asked.status = code
      response.writeHead(code, { 'content-type': 'application/json' })
      response.end(text)
    }
  }

  function carryOut({ kind, key, body }: InventoryRequest): [number, string] {
    if (kind === 'record') {
      const is_new = !inventory.records.has(key)
      inventory.records.set(key, body)
      return [is_new ? 201 : 200, '{}']
    }
    const known = inventory.names.get(key)
    const name = known ?? inventory.newName()
    inventory.names.set(key, name)
    return [known ? 200 : 201, JSON.stringify({ name })]
  }
}
