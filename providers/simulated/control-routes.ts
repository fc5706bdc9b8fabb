/** The control API: what an operator or a test does to the clouds, under `/control`. Not rate limited, never faulty. */
import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { cloudConfiguration } from './configuration.ts'
import { removeFaults, setFault } from './faults.ts'
import { appendLedger, readLedger } from './ledger.ts'
import { kill, vanish } from './lifecycle.ts'
import type { MachineRow } from './records.ts'
import type { Environment } from './wire.ts'
import { type Cloud, type World, withoutKeys } from './world.ts'

const CLOUD_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/
const LEDGER_PAGE = 1_000
const page = z.object({
  after: z.coerce.number().int().min(0).default(0),
  limit: z.coerce.number().int().min(1).max(10_000).default(LEDGER_PAGE),
})

/** Routes of the control API. */
export function controlRoutes(world: World): Hono<Environment> {
  const routes = new Hono<Environment>()
  /** Runs `work` on the cloud of the path, or says that there is none. */
  const withCloud = (work: (cloud: Cloud, context: Context<Environment>) => Response | Promise<Response>) => {
    return (context: Context<Environment>) => {
      const cloud = world.cloud(context.req.param('cloud') ?? '')
      if (!cloud) return context.json({ error: 'There is no cloud of this name; PUT its configuration first.' }, 404)
      world.advance()
      return work(cloud, context)
    }
  }
  const withMachine = (work: (machine: MachineRow, context: Context<Environment>) => Response | Promise<Response>) =>
    withCloud((cloud, context) => {
      const machine = world.store.machine(cloud.name, context.req.param('id') ?? '')
      return machine ? work(machine, context) : context.json({ error: 'There is no machine of this id.' }, 404)
    })

  routes.onError((error, context) => {
    if (error instanceof z.ZodError) return context.json({ error: z.prettifyError(error) }, 400)
    if (error instanceof SyntaxError) return context.json({ error: 'The body is not JSON.' }, 400)
    throw error
  })

  routes.get('/clouds', (context) => context.json({ clouds: world.clouds().map(show) }))
  routes.put('/clouds/:cloud', async (context) => {
    const name = context.req.param('cloud')
    if (!CLOUD_NAME.test(name)) return context.json({ error: 'This is no name for a cloud.' }, 400)
    const is_new = !world.cloud(name)
    const body: unknown = await context.req.json()
    cloudConfiguration.parse(body)
    return context.json(show(world.configure(name, body as object)), is_new ? 201 : 200)
  })
  routes.patch(
    '/clouds/:cloud',
    withCloud(async (cloud, context) => {
      const changes = z.record(z.string(), z.unknown()).parse(await context.req.json())
      return context.json(show(world.configure(cloud.name, { ...cloud.input, ...changes })))
    }),
  )
  routes.get(
    '/clouds/:cloud',
    withCloud((cloud, context) => context.json(show(cloud))),
  )
  routes.delete(
    '/clouds/:cloud',
    withCloud((cloud, context) => {
      world.remove(cloud)
      return context.body(null, 204)
    }),
  )
  routes.post(
    '/clouds/:cloud/reset',
    withCloud((cloud, context) => {
      world.reset(cloud)
      return context.body(null, 204)
    }),
  )

  routes.get(
    '/clouds/:cloud/faults',
    withCloud((cloud, context) => context.json({ faults: cloud.faults })),
  )
  routes.post(
    '/clouds/:cloud/faults',
    withCloud(async (cloud, context) => context.json(setFault(world, cloud, await context.req.json()), 201)),
  )
  routes.delete(
    '/clouds/:cloud/faults',
    withCloud((cloud, context) => context.json({ removed: removeFaults(world, cloud, null) })),
  )
  routes.delete(
    '/clouds/:cloud/faults/:fault',
    withCloud((cloud, context) => {
      const removed = removeFaults(world, cloud, context.req.param('fault') ?? '')
      return removed ? context.json({ removed }) : context.json({ error: 'There is no fault of this id.' }, 404)
    }),
  )

  routes.get(
    '/clouds/:cloud/machines',
    withCloud((cloud, context) => {
      const rows = world.store.all<MachineRow>('SELECT * FROM machines WHERE cloud = ? ORDER BY number', cloud.name)
      const pending_late_creates = world.store.lateCommands(cloud.name).filter(({ verb }) => verb === 'create').length
      return context.json({ machines: rows.map(life), pending_late_creates })
    }),
  )
  routes.get(
    '/clouds/:cloud/machines/:id',
    withMachine((machine, context) => context.json(life(machine))),
  )
  for (const [path, fate] of [
    ['die', kill],
    ['vanish', vanish],
  ] as const) {
    routes.post(
      `/clouds/:cloud/machines/:id/${path}`,
      withMachine((machine, context) => {
        world.store.transaction(() => fate(world, machine, 'told to'))
        return context.json(life(world.store.machine(machine.cloud, machine.id) ?? machine))
      }),
    )
  }
  routes.put(
    '/clouds/:cloud/machines/:id/raw-state',
    withMachine(async (machine, context) => {
      const { raw_state } = z.strictObject({ raw_state: z.string().min(1).nullable() }).parse(await context.req.json())
      world.store.transaction(() => {
        world.store.updateMachine(machine.cloud, machine.id, { raw_state_override: raw_state })
        const line = { action: 'raw_state', raw_state, target: machine.id }
        appendLedger(world.store, machine.cloud, 'control', line)
      })
      return context.json(life({ ...machine, raw_state_override: raw_state }))
    }),
  )

  routes.get(
    '/clouds/:cloud/ledger',
    withCloud((cloud, context) => {
      const { after, limit } = page.parse(context.req.query())
      const lines = readLedger(world.store, cloud.name, after, limit)
      const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('')
      return context.body(text, 200, {
        'content-type': 'application/x-ndjson',
        'x-next-after': String(lines.at(-1)?.seq ?? after),
        'x-complete': String(lines.length < limit),
      })
    }),
  )
  return routes
}

function show(cloud: Cloud): Record<string, unknown> {
  return { name: cloud.name, configuration: withoutKeys(cloud.configuration), faults: cloud.faults.length }
}

/** A machine's life as the control API tells it: in our words, with everything, gone or not. */
function life(machine: MachineRow): Record<string, unknown> {
  const { cloud: _cloud, shuffle_key: _key, tags, listed, ...rest } = machine
  return { ...rest, tags: JSON.parse(tags) as unknown, listed: listed === 1 }
}
