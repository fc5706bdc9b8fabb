/** Traces: one order, from the request to its cloud and its hook, is one trace; without an endpoint nothing is loaded. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startTracing } from '../../worker/tracing.ts'
import { type ShownOrder, untilOrder } from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { waitFor } from '../support/wait-for.ts'

/** As OTLP over HTTP sends it. */
interface Span {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
  readonly attributes: readonly { readonly key: string; readonly value: Readonly<Record<string, unknown>> }[]
  readonly links?: readonly { readonly traceId: string }[]
}

/** A caller's own trace, as W3C Trace Context carries it. */
const CALLER = { trace_id: '0af7651916cd43dd8448eb211c80319c', span_id: 'b7ad6b7169203331' }

describe('with an endpoint', () => {
  const spans: Span[] = []
  let collector: Server
  let h: Harness
  let project: Project
  let receiver: Receiver
  let order: ShownOrder
  let endTracing: (() => Promise<void>) | undefined
  const named = (name: string, trace_id?: string) =>
    spans.filter((span) => span.name === name && (!trace_id || span.traceId === trace_id))
  const linked = (span: Span | undefined) => (span?.links ?? []).map(({ traceId }) => traceId)
  const traceOf = (id: string) => id.replaceAll('-', '')

  beforeAll(async () => {
    collector = createServer((request, response) => {
      let body = ''
      request.setEncoding('utf8').on('data', (text: string) => {
        body += text
      })
      request.on('end', () => {
        const { resourceSpans } = JSON.parse(body) as { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] }
        spans.push(...resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans)))
        response.setHeader('content-type', 'application/json').end('{}')
      })
    }).listen(0, '127.0.0.1')
    await once(collector, 'listening')
    process.env.OTEL_EXPORTER_OTLP_ENDPOINT = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`
    endTracing = await startTracing(process.env, 'all')
    h = await startHarness()
    project = await h.project()
    const cloud = await h.cloud(project)
    receiver = await startReceiver()
    await project.api.post('/api/hooks', { uri: receiver.uri })
    const answer = await fetch(`${h.service.url}/api/launch-orders`, {
      method: 'POST',
      headers: {
        'x-auth-token': project.token,
        'content-type': 'application/json',
        traceparent: `00-${CALLER.trace_id}-${CALLER.span_id}-01`,
      },
      body: JSON.stringify({ name: 'web', count: 2, size: 'small', image: 'debian', clouds: [cloud.name] }),
    })
    order = ((await answer.json()) as { launch_order: ShownOrder }).launch_order
    await untilOrder(project.api, order.id, ['running'])
    await waitFor(
      () => receiver.ledger.some(({ resource, sequence }) => resource === `order/${order.id}` && sequence > 1),
      {
        what: 'an event of the order at its hook',
        timeout_ms: 20_000,
      },
    )
    await h.close()
    await endTracing?.()
  })
  afterAll(async () => {
    delete process.env.OTEL_EXPORTER_OTLP_ENDPOINT
    collector.close()
    await receiver.close()
  })

  test("an order's trace has its id, and goes from its acceptance to its machines and its hook", () => {
    const trace_id = traceOf(order.id)
    for (const [name, count] of [
      ['accept order', 1],
      ['hand over to Temporal', 1],
      ['planOrder', 1],
      ['createInstances', 1],
      ['cloud create', 2],
      ['deliver order.created', 1],
    ] as const) {
      expect(named(name, trace_id).length, name).toBeGreaterThanOrEqual(count)
    }
    const whole = spans.filter((span) => span.traceId === trace_id)
    const ids = new Set(whole.map(({ spanId }) => spanId))
    const roots = whole.filter(({ parentSpanId }) => !parentSpanId || !ids.has(parentSpanId))
    expect(roots.map(({ name }) => name)).toEqual(['accept order'])
    const [step] = named('createInstances', trace_id)
    expect(named('cloud create', trace_id).map(({ parentSpanId }) => parentSpanId)).toEqual([
      step!.spanId,
      step!.spanId,
    ])
  })

  test("the request is in its caller's trace, and linked with the order's both ways", () => {
    const [request] = named('POST /api/launch-orders')
    expect(request).toMatchObject({ traceId: CALLER.trace_id, parentSpanId: CALLER.span_id })
    expect(linked(request)).toContain(traceOf(order.id))
    expect(linked(named('accept order')[0])).toEqual([CALLER.trace_id])
  })

  test("an instance's deliveries are linked to its order", () => {
    const deliveries = spans.filter(({ name }) => name.startsWith('deliver instance.'))
    expect(deliveries.length).toBeGreaterThan(0)
    for (const span of deliveries) expect(linked(span), span.name).toContain(traceOf(order.id))
  })

  test('nothing of it is secret', () => {
    expect(JSON.stringify(spans)).not.toContain(project.token)
  })
})

test('without an endpoint no SDK is loaded', async () => {
  const program = `
    import { registerHooks } from 'node:module'
    const loaded = []
    registerHooks({ resolve(name, context, next) {
      const found = next(name, context)
      loaded.push(found.url)
      return found
    } })
    const { startTracing } = await import('./worker/tracing.ts')
    await import('./worker/service.ts')
    const ended = await startTracing({}, 'all')
    const sdk = loaded.filter((url) => /@opentelemetry.(?!api)/.test(url))
    process.stdout.write(JSON.stringify({ on: ended !== undefined, all: loaded.length > 100, sdk }))
    process.exit()`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
    cwd: new URL('../../', import.meta.url),
  })
  expect(JSON.parse(stdout)).toEqual({ on: false, all: true, sdk: [] })
})
