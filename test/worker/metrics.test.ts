/**
 * What operators watch: every metric that dashboard and alerts ask for is there in a real scrape and says what is so;
 * each alert has its page; and a scrape neither fails nor hangs while the record is away.
 */
import { readFile } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { parser } from '@prometheus-io/lezer-promql'
import { sql } from 'kysely'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse as parseYaml } from 'yaml'
import { createApp } from '../../api/app.ts'
import { parseAllowList } from '../../domain/hook-address.ts'
import { openStore } from '../../store/database.ts'
import { registerMetrics } from '../../worker/metrics.ts'
import { freePort, installRuntime } from '../../worker/runtime.ts'
import { submitLease, submitOrder, untilLease, untilOrder } from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

const root = new URL('../../', import.meta.url)
const read = (path: string) => readFile(new URL(path, root), 'utf8')

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly annotations: { readonly summary: string; readonly runbook: string }
}
const rules = (parseYaml(await read('ops/alerts.yaml')) as { groups: { rules: Rule[] }[] }).groups[0]!.rules
interface Panel {
  readonly id: number
  readonly title: string
  readonly targets: readonly { readonly expr: string }[]
}
const { panels } = JSON.parse(await read('ops/grafana-dashboard.json')) as { panels: Panel[] }
const expressions = [
  ...rules.map(({ alert, expr }) => [alert, expr] as const),
  ...panels.flatMap(({ title, targets }) => targets.map(({ expr }) => [title, expr] as const)),
]

/** Names of metrics and labels in an expression; throws where it is not PromQL. */
function namesIn(expression: string): { metrics: string[]; labels: string[] } {
  const metrics: string[] = []
  const labels: string[] = []
  parser.parse(expression).iterate({
    enter({ type, from, to }) {
      if (type.isError) throw new Error(`not PromQL at ${from}: ${expression}`)
      if (type.name === 'VectorSelector') metrics.push(/^\w+/.exec(expression.slice(from, to))![0])
      if (type.name === 'LabelName') labels.push(expression.slice(from, to))
    },
  })
  return { metrics, labels }
}

/** Series of a scrape: `name{labels}` and value. */
function seriesOf(text: string): { name: string; labels: Record<string, string>; value: number }[] {
  return text
    .split('\n')
    .filter((line) => line && !line.startsWith('#'))
    .map((line) => {
      const [, name, labels = '', value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line)!
      return {
        name: name!,
        labels: Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1], m[2]])),
        value: Number(value),
      }
    })
}

describe('a real scrape', () => {
  let h: Harness
  let project: Project
  let cloud: Awaited<ReturnType<Harness['cloud']>>
  let receiver: Receiver
  let failing: Receiver
  const scrape = async () => seriesOf((await h.operator.get<string>('/metrics')).body)
  const find = async (name: string, labels: Record<string, string> = {}) =>
    (await scrape()).find(
      (series) => series.name === name && Object.entries(labels).every(([label, of]) => series.labels[label] === of),
    )
  const shows = (name: string, labels: Record<string, string>, fits: (value: number) => boolean) =>
    waitFor(
      async () => {
        const series = await find(name, labels)
        return series !== undefined && fits(series.value)
      },
      { what: `${name} ${JSON.stringify(labels)}`, timeout_ms: 30_000, interval_ms: 200 },
    )

  beforeAll(async () => {
    h = await startHarness({ temporal_metrics: installRuntime(pino({ level: 'silent' }), await freePort()) })
    project = await h.project()
    cloud = await h.cloud(project)
    receiver = await startReceiver()
    await project.api.post('/api/hooks', { uri: receiver.uri })
    const order = await submitOrder(project, { clouds: [cloud.name] })
    await untilOrder(project.api, order.id, ['running'])
    const lease = await submitLease(project, { start_in_ms: 300, end_in_ms: 1_500 })
    await untilLease(project.api, lease.id, ['TERMINATED'])
    // What stays: an order that waits, a hook in trouble.
    const full = await h.cloud(project)
    await h.operator.patch(`/api/clouds/${full.name}`, { allocation: 0 })
    await submitOrder(project, { clouds: [full.name] })
    await shows('holdfast_waiting', { noun: 'order', reason: 'allocation_exhausted' }, (value) => value === 1)
    failing = await startReceiver()
    failing.answer = () => ({ status: 500 })
    await project.api.post('/api/hooks', { uri: failing.uri })
    const other = await submitOrder(project, { clouds: [cloud.name] })
    await untilOrder(project.api, other.id, ['running'])
    await shows('holdfast_hook_lanes', {}, (value) => value === 1)
  })
  afterAll(async () => {
    await h.close()
    await Promise.all([receiver.close(), failing.close()])
  })

  test.each(expressions)('%s asks for what is there: %s', async (_, expression) => {
    const { metrics, labels } = namesIn(expression)
    const scraped = await scrape()
    expect(metrics.length).toBeGreaterThan(0)
    for (const metric of metrics) expect(scraped.map(({ name }) => name)).toContain(metric)
    // Those that Prometheus adds by itself are not here.
    const known = new Set(
      scraped.filter(({ name }) => metrics.includes(name)).flatMap((series) => Object.keys(series.labels)),
    )
    expect(labels.filter((label) => !known.has(label))).toEqual([])
  })

  test('lateness of each kind of due act', async () => {
    for (const kind of ['start_lease', 'end_lease', 'delivery']) {
      const late = await find('holdfast_lateness_seconds', { kind, quantile: '0.99' })
      expect(late?.value, kind).toBeGreaterThanOrEqual(0)
      expect(late?.value, kind).toBeLessThan(60)
    }
  })

  test('what waits by reason, open deliveries by state, hooks in trouble', async () => {
    await shows('holdfast_waiting', { noun: 'order', reason: 'allocation_exhausted' }, (value) => value === 1)
    await shows('holdfast_hook_lanes', {}, (value) => value === 1)
    await shows('holdfast_deliveries', { state: 'waiting' }, (value) => value > 0)
    await shows('holdfast_delivery_attempt_seconds_count', { outcome: 'http_500' }, (value) => value > 0)
  })

  test('a machine nobody knows is an orphan, a silent cloud is not up', async () => {
    const odd = await h.cloud(project)
    const provider = odd.control.provider()
    await provider.create(
      {
        attempt_id: '01890000-0000-7000-8000-00000000000a',
        installation_id: h.service.installation_id,
        name: 'nobody',
        size: 'm1.small',
        image: 'debian-13',
      },
      AbortSignal.timeout(5_000),
    )
    await submitOrder(project, { clouds: [odd.name] })
    await shows('holdfast_orphans', { cloud: odd.name }, (value) => value === 1)
    await shows('holdfast_cloud_up', { cloud: odd.name }, (value) => value === 1)
    await odd.control.fault({ match: { verb: 'list' }, effect: { kind: 'down' } })
    await shows('holdfast_cloud_up', { cloud: odd.name }, (value) => value === 0)
    await shows(
      'holdfast_cloud_call_seconds_count',
      { cloud: odd.name, call: 'list', outcome: 'unavailable' },
      (value) => value > 0,
    )
  })

  test('an outbox that nobody empties is old', async () => {
    await sql`insert into outbox (target, created_at, not_before) values ('order/01890000-0000-7000-8000-00000000000b',
      clock_timestamp() - interval '5 min', clock_timestamp() + interval '9 s')`.execute(h.store.db)
    expect((await find('holdfast_outbox_age_seconds'))!.value).toBeGreaterThan(290)
  })

  test('no series has an id in a label', async () => {
    const uuid = /[0-9a-f]{8}-[0-9a-f]{4}-/
    const own = (await scrape()).filter(({ name }) => name.startsWith('holdfast_'))
    expect(own.filter(({ labels }) => uuid.test(Object.values(labels).join(' ')))).toEqual([])
    expect(own.filter(({ labels }) => 'project' in labels)).toEqual([])
  })
})

describe('while the record is away', () => {
  let silent: Server
  const sockets = new Set<Socket>()
  beforeAll(async () => {
    // Takes connections and never says a word.
    silent = createServer((socket) => sockets.add(socket.on('error', () => {})))
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  })
  afterAll(() => {
    for (const socket of sockets) socket.destroy()
    silent.close()
  })

  const away = {
    'refuses connections': () => 'postgres://nobody@127.0.0.1:1/none',
    'does not answer': () => `postgres://nobody@127.0.0.1:${(silent.address() as { port: number }).port}/none`,
  }
  test.each(Object.entries(away))('%s: its figures are left out, the others are there', async (_, url) => {
    const store = openStore(url())
    const registry = new Registry()
    registerMetrics({ registry, store, role: 'api', engine: undefined })
    const scraped = seriesOf(await registry.metrics())
    const value = (name: string) => scraped.find((series) => series.name === name)?.value
    expect(value('holdfast_record_up')).toBe(0)
    expect(value('holdfast_figures_missing')).toBeGreaterThan(10)
    expect(value('process_start_time_seconds')).toBeGreaterThan(0)
    // A 0 would be a lie.
    for (const name of ['holdfast_outbox', 'holdfast_outbox_age_seconds', 'holdfast_orders', 'holdfast_hook_lanes'])
      expect(value(name)).toBeUndefined()
    await store.close()
  })

  test('a token that was let in before may still scrape, another may not', async () => {
    const h = await startHarness()
    try {
      const project = await h.project()
      const stores = { here: h.store, gone: openStore(away['refuses connections']()) }
      let which: keyof typeof stores = 'here'
      const registry = new Registry()
      const store = {
        ...h.store,
        get db() {
          return stores[which].db
        },
      }
      registerMetrics({ registry, store, role: 'api', engine: undefined })
      const app = createApp({
        store,
        envelope: h.envelope,
        hook_allow: parseAllowList(''),
        auth: 'token',
        findCloudProblems: () => [],
        health: async () => ({ postgres: which === 'here', temporal: true, draining: false }),
        metrics: registry,
        log: pino({ level: 'silent' }),
      })
      const scrape = (token: string) => app.request('/metrics', { headers: { 'X-Auth-Token': token } })
      expect((await scrape(project.token)).status).toBe(200)
      expect((await scrape('hft_nobody')).status).toBe(401)
      which = 'gone'
      const scraped = await scrape(project.token)
      expect(scraped.status).toBe(200)
      expect(await scraped.text()).toContain('holdfast_record_up 0')
      expect((await scrape('hft_nobody')).status).toBe(503)
      which = 'here'
      await sql`update tokens set revoked_at = clock_timestamp() where project_id = ${project.id}`.execute(h.store.db)
      expect((await scrape(project.token)).status).toBe(401)
      which = 'gone'
      expect((await scrape(project.token)).status).toBe(503)
      await stores.gone.close()
    } finally {
      await h.close()
    }
  })
})

describe('files for operators', () => {
  test('every alert has its page, and every page its alert', async () => {
    const pages = [...(await read('docs/OPERATIONS.md')).matchAll(/^### (Holdfast\w+)$/gm)].map(([, title]) => title)
    expect(pages.toSorted()).toEqual(rules.map(({ alert }) => alert).toSorted())
    for (const { alert, annotations } of rules) {
      expect(annotations.runbook).toBe(`docs/OPERATIONS.md#${alert.toLowerCase()}`)
      expect(annotations.summary).not.toBe('')
    }
  })

  test('an expression that is none is found out', () => {
    expect(() => namesIn('max by (kind (x)')).toThrow('not PromQL')
  })

  test('panels have ids of their own', () => {
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
  })
})
