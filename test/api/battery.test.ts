/** What every route in the document must refuse, whatever it is about. A new route is in here by being described. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type ApiClient,
  type ErrorAnswer,
  type OpenApiDocument,
  openApiClient,
  readDocument,
} from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'

interface Route {
  readonly method: string
  readonly template: string
  readonly guarded: boolean
  readonly body: boolean
  readonly query: ReadonlySet<string>
  readonly versioned: boolean
}

let folder: ConfigFolder
let server: ApiServer
let member: ApiClient
let routes: Route[]
/** Ids of things that are the project's, by the name of the parameter. */
const own: Record<string, string> = {}

beforeAll(async () => {
  folder = await openConfigFolder({ 'sizes/small': {}, 'images/debian': {} })
  server = await startApi({ config_dir: folder.path })
  member = await server.client('mine')
  await server.cloud('east', ['mine'])
  routes = routesOf(await readDocument(server.url))
  await makeOneOfEach()
})
afterAll(async () => {
  await server.close()
  await folder.close()
})

function routesOf(document: OpenApiDocument): Route[] {
  return Object.entries(document.paths).flatMap(([template, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      template,
      guarded: operation.security !== undefined,
      body: operation.requestBody !== undefined,
      versioned: operation.parameters?.some((entry) => entry.name === 'if-match') ?? false,
      query: new Set(operation.parameters?.filter((entry) => entry.in === 'query').map((entry) => entry.name)),
    })),
  )
}

async function makeOneOfEach(): Promise<void> {
  interface Made {
    launch_order: { id: string; deployment: { id: string } }
    launch_orders: { id: string }[]
    instance: { id: string }
    callbacks: { id: string }[]
    credential: { id: string }
    lease: { id: string }
    hook: { id: string }
    action: { id: string }
    host: { name: string }
    deliveries: { id: number }[]
    events: { id: string }[]
  }
  own.hook_id = (await member.post<Made>('/api/hooks', { uri: 'https://example.com/mine' })).body.hook.id
  const callback = 'https://example.com/told'
  const launched = { name: 'a', image_id: 'debian', hwp_id: 'small', callback }
  own.instance = (await member.post<Made>('/api/cloud_state/instances', launched)).body.instance.id
  own.instance_id = own.instance
  own.order_id = (await member.get<Made>('/api/launch-orders')).body.launch_orders[0]!.id
  const order = (await member.get<Made>(`/api/launch-orders/${own.order_id}`)).body
  own.deployment_id = order.launch_order.deployment.id
  own.callback_id = (await member.get<Made>('/api/cloud_state/callbacks')).body.callbacks[0]!.id
  const account = { name: 'mine', cloud: 'east', secret: 'sesame' }
  own.credential_id = (await member.post<Made>('/api/credentials', account)).body.credential.id
  const action = await member.post<Made>(`/api/instances/${own.instance_id}/actions`, { action: 'terminate' })
  own.action_id = action.body.action.id
  const of_all = await member.post<Made>(`/api/deployments/${own.deployment_id}/actions`, { action: 'terminate' })
  own.deployment_action_id = of_all.body.action.id
  const lease = { name: 'l', start_at: 'now', end_at: new Date(Date.now() + 3_600_000).toISOString() }
  own.lease_id = (await member.post<Made>('/api/leases', lease)).body.lease.id
  own.delivery_id = String((await member.get<Made>('/api/deliveries')).body.deliveries[0]!.id)
  await server.stamp()
  own.event_id = (await member.get<Made>('/api/events')).body.events[0]!.id
  own.cloud = 'east'
  own.host = (await server.operator.post<Made>('/api/clouds/east/hosts', { name: 'compute-1' })).body.host.name
  own.size = 'small'
  own.image = 'debian'
  const made = { size: 'small', image: 'debian' }
  own.name = (await member.post<{ name: string }>('/pcm_api/v2/clouds/east/instances', made)).body.name
  own.project = 'mine'
}

const UNKNOWN = '01890000-0000-7000-8000-000000000000'

/** The address with the project's own ids. */
function ownPath({ template }: Route): string {
  return template.replaceAll(/\{([^}]+)\}/g, (_, name: string) => own[name === 'id' ? idOf(template) : name] ?? UNKNOWN)
}

const idOf = (template: string): string =>
  `${{ 'launch-orders': 'order', instances: 'instance', deployments: 'deployment', leases: 'lease', hooks: 'hook' }[template.split('/')[2]!]}_id`

const bodyOf = (route: Route): object | undefined => (route.body ? {} : undefined)

/** Runs a check over routes, and says all that failed at once. */
async function forEach(chosen: readonly Route[], check: (route: Route) => Promise<unknown>): Promise<void> {
  expect(chosen.length).toBeGreaterThan(0)
  const failures: string[] = []
  for (const route of chosen) {
    await check(route).catch((error: Error) => failures.push(`${route.method} ${route.template}: ${error.message}`))
  }
  expect(failures).toEqual([])
}

describe('every route', () => {
  test('that is not public refuses a request without a token, or with garbage', async () => {
    const tokens = ['garbage', 'hft_', 'x'.repeat(2_000), '%00']
    await forEach(
      routes.filter((route) => route.guarded),
      async (route) => {
        for (const client of [null, ...tokens].map((token) => openApiClient(server.url, token))) {
          const answer = await client.request(route.method, ownPath(route), bodyOf(route), { expect: 401 })
          expect(answer.headers.get('www-authenticate')).toContain('Bearer')
        }
      },
    )
  })

  test('only the public ones of the decisions are public', () => {
    const open = routes.filter((route) => !route.guarded).map((route) => route.template)
    expect(open.toSorted()).toEqual(['/livez', '/readyz'])
  })

  test('that writes refuses a reader, before it looks at the body', async () => {
    const reader = await server.client('mine', 'reader')
    await forEach(
      routes.filter((route) => route.guarded && route.method !== 'GET'),
      (route) => reader.request(route.method, ownPath(route), undefined, { raw: '{', expect: 403 }),
    )
  })

  test('for operators refuses a member', async () => {
    const chosen = routes.filter(
      ({ template, method }) =>
        /^\/api\/(projects|tokens)/.test(template) || (template.startsWith('/api/clouds') && method !== 'GET'),
    )
    await forEach(chosen, (route) => member.request(route.method, ownPath(route), bodyOf(route), { expect: 403 }))
  })

  test("does not know another project's things", async () => {
    const stranger = await server.client('theirs')
    const chosen = routes.filter(
      ({ template }) =>
        template.includes('{') && !/^\/api\/(projects|tokens|clouds)|^\/pcm_api\/v2\/(sizes|images)/.test(template),
    )
    const valid: Record<string, unknown> = { actions: { action: 'terminate' } }
    const foreign: Record<string, unknown> = {
      '/api/cloud_state/instances/{instance}/actions': { action: 'destroy' },
      '/api/cloud_state/callbacks/{callback_id}': { action: 'https://example.com/theirs' },
    }
    await forEach(chosen, (route) =>
      stranger.request(
        route.method,
        ownPath(route),
        route.body ? (foreign[route.template] ?? valid[route.template.split('/').at(-1)!] ?? {}) : undefined,
        {
          expect: 404,
        },
      ),
    )
  })

  test('answers 404 for an id that is none, and for one of nothing', async () => {
    const operator = server.operator
    const ids = ['x', '..%2f', '%00', '%', UNKNOWN, UNKNOWN.toUpperCase(), '1e9', '-1', "1';--", '99999999999999']
    const chosen = routes.filter(({ template, body }) => template.includes('{') && !body)
    await forEach(chosen, async (route) => {
      for (const id of ids) {
        const path = route.template.replaceAll(/\{[^}]+\}/g, id)
        await operator.request(route.method, path, undefined, { expect: 404 })
      }
    })
  })

  test('with a body refuses an unknown field, malformed JSON, and what is no object', async () => {
    await forEach(
      routes.filter((route) => route.body),
      async (route) => {
        const send = (raw: string, headers?: Record<string, string>, status = 400) =>
          asker(route).request<ErrorAnswer>(route.method, ownPath(route), undefined, {
            raw,
            expect: status,
            ...(headers ? { headers } : {}),
          })
        if (isNative(route)) {
          const { body } = await send('{"no_such_field":1}')
          const problem = body.error.problems?.find((found) => found.path === 'body.no_such_field')
          expect(problem?.accepted?.length, JSON.stringify(body)).toBeGreaterThan(0)
        }
        for (const raw of ['{', '', 'null', '[]', '"a"', '1', '\u0000', '{"a":"\\u0000"}', `${'['.repeat(5_000)}`])
          await send(raw)
        await send(`${'[{"a":'.repeat(100)}1${'}]'.repeat(100)}`)
        await send('{"__proto__":{"a":1}}')
        const status = isPcm(route) ? 415 : 400
        await send('<hook/>', { 'content-type': 'application/xml' }, status)
        await send('a=1', { 'content-type': 'application/x-www-form-urlencoded' }, status)
      },
    )
  })

  test('with a body refuses one beyond 1 MiB, announced or not', async () => {
    const raw = JSON.stringify({ name: 'x'.repeat(1_100_000) })
    await forEach(
      routes.filter((route) => route.body),
      async (route) => {
        await server.operator.request(route.method, ownPath(route), undefined, { raw, expect: 413 })
      },
    )
    const stream = new ReadableStream({
      pull(controller) {
        controller.enqueue(new TextEncoder().encode('x'.repeat(65_536)))
      },
    })
    const request = { method: 'POST', body: stream, duplex: 'half', headers: { 'X-Auth-Token': server.operator_token } }
    const answer = await fetch(`${server.url}/api/hooks`, request as RequestInit)
    expect(answer.status).toBe(413)
  })

  test('that lists refuses a bad cursor, a bad limit and an unknown parameter', async () => {
    const lists = routes.filter((route) => route.query.has('limit'))
    await forEach(lists, async (route) => {
      const path = ownPath(route)
      for (const cursor of ['x', '%00', 'bGF1bmNoLW9yZGVyczp4', 'a'.repeat(500), '..', 'ZXZlbnRzOi0x'])
        await asker(route).get(`${path}?cursor=${cursor}`, { expect: 400 })
      for (const limit of ['0', '101', '-1', 'x', '1.5', '1e9', 'NaN'])
        await asker(route).get(`${path}?limit=${limit}`, { expect: 400 })
      if (!isNative(route)) return
      const { body } = await asker(route).get<ErrorAnswer>(`${path}?no_such=1`, { expect: 400 })
      expect(body.error.problems![0]).toMatchObject({
        path: 'query.no_such',
        accepted: expect.arrayContaining(['limit']),
      })
    })
  })

  test('that writes refuses a key or a version that is none', async () => {
    const chosen = routes.filter((route) => route.guarded && route.method !== 'GET' && !route.body)
    await forEach(chosen, async (route) => {
      await asker(route).request(route.method, ownPath(route), undefined, { key: 'with blank', expect: 400 })
      if (route.versioned)
        await asker(route).request(route.method, ownPath(route), undefined, { if_match: '"x"', expect: 400 })
    })
  })

  test('answers another method with 405 and what is allowed', async () => {
    const templates = [...new Set(routes.map((route) => route.template))]
    for (const template of templates) {
      const route = routes.find((entry) => entry.template === template)!
      const allowed = routes.filter((entry) => entry.template === template).map((entry) => entry.method)
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND']) {
        if (allowed.includes(method)) continue
        const { headers } = await member.request(method, ownPath(route), undefined, { expect: 405 })
        for (const name of allowed) expect(headers.get('allow')).toContain(name)
      }
    }
  })

  test('reads without fault', async () => {
    await forEach(
      routes.filter((route) => route.method === 'GET' && !/\{(project_id|token_id)\}/.test(route.template)),
      (route) => server.operator.get(ownPath(route), { expect: mineOrGlobal(route) ? 200 : 404 }),
    )
    await forEach(
      routes.filter(
        (route) =>
          route.method === 'GET' &&
          !/projects|tokens|orphans|grants|hosts|installation|console_log/.test(route.template),
      ),
      (route) => member.get(ownPath(route), { expect: 200 }),
    )
  })
})

/** Other dialects leave aside what they do not know. */
const isNative = (route: Route): boolean => !route.template.startsWith('/api/cloud_state/') && !isPcm(route)
const isPcm = ({ template }: Route): boolean => template.startsWith('/pcm_api')

/** Who may ask: the member, and for what is the installation's the operator. */
const asker = ({ template }: Route): ApiClient =>
  /^\/api\/(projects|tokens|clouds|installation)/.test(template) ? server.operator : member

/** The operator is of another project: single things of `mine` are not there for it. */
const mineOrGlobal = ({ template }: Route): boolean =>
  !template.includes('{') || /^\/api\/clouds|^\/pcm_api(?!.*\/\{instance_id\})/.test(template)

describe('no route', () => {
  test.each(['/', '/api', '/api/', '/api/nothing', '/api/hooks/', '/api//hooks', '/%', '/api/hooks/%00/x'])(
    'is at %s: 404 in the usual shape',
    async (path) => {
      const { body } = await member.get<ErrorAnswer>(path, { expect: 404 })
      expect(body.error.code).toBe('not_found')
    },
  )
})

test('nothing in all this was a fault of ours', () => {
  expect(server.logged).toEqual([])
})
