/**
 * The simulated cloud: a small server of its own with its own file store, so that calls cross a wire that can break
 * and machines outlive crashes of whoever launched them. One process serves many clouds.
 *
 *     node providers/simulated/server.ts --port 4600 --data .holdfast/simulated
 */
import type { AddressInfo } from 'node:net'
import { parseArgs } from 'node:util'
import { createAdaptorServer } from '@hono/node-server'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Hono } from 'hono'
import { controlRoutes } from './control-routes.ts'
import { machineRoutes } from './machine-routes.ts'
import type { Environment } from './wire.ts'
import { World } from './world.ts'

export interface SimulatedCloudOptions {
  /** 0 takes a free one. */
  readonly port: number
  /** Folder of the file store; made when it is not there. */
  readonly data: string
}
export interface SimulatedCloud {
  readonly url: string
  close(): Promise<void>
}

/** Starts the server on the loopback address; resolves when it listens. */
export async function startSimulatedCloud({ port, data }: SimulatedCloudOptions): Promise<SimulatedCloud> {
  const world = new World(data)
  let is_closing = false
  const app = new Hono<Environment>()
  // Clouds are called by programs. A browser tells where its page comes from, and no page has business here.
  app.use(async (context, next) =>
    context.req.header('origin') === undefined ? next() : context.json({ error: 'Not for web pages.' }, 403),
  )
  app.get('/healthz', (context) => context.json({ ok: true }))
  app.route('/control', controlRoutes(world))
  app.route('/clouds', machineRoutes(world))
  app.onError((error, context) => {
    // Calls that were still waiting when the store was closed have nobody left to answer.
    if (is_closing) return RESPONSE_ALREADY_SENT
    console.error(error)
    return context.json({ error: { code: 'internalError', message: 'The simulated cloud has a bug.' } }, 500)
  })

  const server = createAdaptorServer({ fetch: app.fetch })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => resolve())
  }).catch((error: unknown) => {
    world.close()
    throw error
  })
  const address = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${address.port}`,
    close: () => {
      is_closing = true
      return new Promise((resolve) => {
        server.close(() => resolve())
        if ('closeAllConnections' in server) server.closeAllConnections()
        world.close()
      })
    },
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { port: { type: 'string' }, data: { type: 'string' } } })
  const port = Number(values.port ?? '0')
  if (!values.data || !Number.isInteger(port) || port < 0 || port > 65_535) {
    console.error('usage: server.ts --port PORT --data FOLDER')
    process.exitCode = 2
    return
  }
  const { data } = values
  const cloud = await startSimulatedCloud({ port, data }).catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error)
    console.error(`the simulated cloud does not start on port ${port} with ${data}: ${reason}`)
    process.exit(1)
  })
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => void cloud.close().then(() => process.exit(0)))
  }
  console.log(JSON.stringify({ ready: true, url: cloud.url }))
}

if (import.meta.main) await main()
