/** The API put together: what runs around every route, the routes by noun, and what answers when none fits. */
import { OpenAPIHono } from '@hono/zod-openapi'
import { context, propagation, SpanKind } from '@opentelemetry/api'
import type { MiddlewareHandler } from 'hono'
import { Counter, Histogram } from 'prom-client'
import { ulid } from 'ulid'
import { DomainError } from '../domain/errors.ts'
import { EMPTY_CONFIGURATION } from '../domain/pcm/configuration.ts'
import { inSpan, traceOf } from '../domain/tracing.ts'
import { routeCloudStateCallbacks } from './cloud-state/callbacks.ts'
import { routeCloudStateInstances } from './cloud-state/instances.ts'
import { routeCloudStateOrders } from './cloud-state/launch-orders.ts'
import type { Api, ApiContext, ApiDeps, ApiEnv } from './context.ts'
import { routeDocs } from './docs.ts'
import { renderError } from './errors.ts'
import { routeCloudOffers } from './native/cloud-offers.ts'
import { routeClouds } from './native/clouds.ts'
import { routeCredentials } from './native/credentials.ts'
import { routeDeliveries } from './native/deliveries.ts'
import { routeDeployments } from './native/deployments.ts'
import { routeEvents } from './native/events.ts'
import { routeExplain } from './native/explain.ts'
import { routeHooks } from './native/hooks.ts'
import { routeHosts } from './native/hosts.ts'
import { routeInstallation } from './native/installation.ts'
import { routeInstances } from './native/instances.ts'
import { routeLaunchOrders } from './native/launch-orders.ts'
import { routeLeases } from './native/leases.ts'
import { routeMachines } from './native/machines.ts'
import { routeProjects } from './native/projects.ts'
import { routeProof } from './native/proof.ts'
import { routeTokens } from './native/tokens.ts'
import { routePcm } from './pcm/routes.ts'
import { limitBody } from './request.ts'
import { schemaError } from './schemas.ts'
import { routeSystem } from './system.ts'

/** Makes the API; whoever calls listens. */
export function createApp(deps: ApiDeps): Api {
  const app: Api = new OpenAPIHono<ApiEnv>({
    defaultHook: (result) => {
      if (!result.success) throw schemaError(result.target, result.error.issues)
    },
  })
  app.use(measure(deps))
  app.use(async function prepare(c, next) {
    c.set('deps', deps)
    c.set('request_id', `req_${ulid()}`)
    c.header('X-Request-Id', c.get('request_id'))
    c.header('X-Content-Type-Options', 'nosniff')
    c.header('Cache-Control', 'no-store')
    await next()
  })
  app.use(traced)
  app.use(limitBody)
  for (const path of ['/api/clouds/*', '/api/cloud_state/*', '/pcm_api', '/pcm_api/*']) app.use(path, lookAtFiles)
  app.on('POST', ['/api/launch-orders', '/api/leases'], lookAtFiles)
  routeSystem(app)
  routeDocs(app)
  routeLaunchOrders(app)
  routeInstances(app)
  routeDeployments(app)
  routeLeases(app)
  routeHooks(app)
  routeDeliveries(app)
  routeEvents(app, deps)
  routeClouds(app)
  routeCloudOffers(app)
  routeHosts(app)
  routeMachines(app)
  routeCredentials(app)
  routeExplain(app)
  routeProof(app)
  routeProjects(app)
  routeTokens(app)
  routeInstallation(app)
  routePcm(app)
  routeCloudStateOrders(app)
  routeCloudStateInstances(app)
  routeCloudStateCallbacks(app)
  app.onError(renderError)
  app.notFound(answerUnrouted(app))
  return app
}

/** Where it matters which clouds there are. Files are read on demand: here is the demand. */
const lookAtFiles: MiddlewareHandler<ApiEnv> = async function lookAtFiles(c, next) {
  c.set('configuration', (await c.get('deps').configuration?.current()) ?? EMPTY_CONFIGURATION)
  await next()
}

/** 405 with `Allow` where the address is right and the method is not, else 404. */
function answerUnrouted(app: Api): (c: ApiContext) => Response {
  const routes = app.routes
    .filter((route) => route.method !== 'ALL')
    .map(({ method, path }) => ({ method, pattern: new RegExp(`^${path.replaceAll(/:[^/]+/g, '[^/]+')}$`) }))
  return (c) => {
    const allowed = new Set(routes.filter((route) => route.pattern.test(c.req.path)).map((route) => route.method))
    if (allowed.has('GET')) allowed.add('HEAD')
    if (!allowed.size) return renderError(new DomainError('not_found', 'there is nothing at this address'), c)
    const list = [...allowed].toSorted().join(', ')
    c.header('Allow', list)
    return renderError(new DomainError('method_not_allowed', `${c.req.method} is not among: ${list}`), c)
  }
}

/** Asked so often that a line for each says nothing. */
const QUIET = new Set(['/livez', '/readyz', '/metrics'])
const ID_IN_LOCATION = /[0-9a-f]{8}-[0-9a-f-]{27}$/

/** A span for each request, below the caller's, linked to the traces of the nouns it speaks of. */
const traced: MiddlewareHandler<ApiEnv> = async function traced(c, next) {
  const caller = propagation.extract(context.active(), c.req.header())
  await context.with(caller, () =>
    inSpan(
      c.req.method,
      { 'http.request.method': c.req.method, 'holdfast.request_id': c.get('request_id') },
      async (span) => {
        await next()
        if (!span.isRecording()) return
        const route = routeOf(c)
        span.updateName(`${c.req.method} ${route}`)
        span.setAttributes({ 'http.route': route, 'http.response.status_code': c.res.status })
        const made = ID_IN_LOCATION.exec(c.res.headers.get('location') ?? '')?.[0]
        for (const id of [...Object.values(c.req.param()), made]) {
          const noun = traceOf(id)
          if (noun) span.addLink({ context: noun })
        }
      },
      SpanKind.SERVER,
    ),
  )
}

const routeOf = (c: ApiContext): string => (c.req.routePath.includes('*') ? 'none' : c.req.routePath)

/** Counts and times requests by route pattern, so that ids make no series of their own, and writes a line for each. */
function measure({ metrics, log }: ApiDeps): MiddlewareHandler<ApiEnv> {
  const labelNames = ['method', 'route', 'status'] as const
  const count =
    (metrics.getSingleMetric('holdfast_http_requests_total') as Counter<(typeof labelNames)[number]> | undefined) ??
    new Counter({ name: 'holdfast_http_requests_total', help: 'HTTP requests', labelNames, registers: [metrics] })
  const seconds =
    (metrics.getSingleMetric('holdfast_http_request_seconds') as Histogram<'method' | 'route'> | undefined) ??
    new Histogram({
      name: 'holdfast_http_request_seconds',
      help: 'Duration of HTTP requests in seconds',
      labelNames: ['method', 'route'] as const,
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
      registers: [metrics],
    })
  return async function measured(c, next) {
    const started_ms = performance.now()
    await next()
    const route = routeOf(c)
    const { method, path } = c.req
    const { status } = c.res
    const ms = performance.now() - started_ms
    count.inc({ method, route, status: String(status) })
    seconds.observe({ method, route }, ms / 1_000)
    const project = c.get('identity')?.project_id ?? null
    const line = { request_id: c.get('request_id'), project, method, path, status, ms: Math.round(ms) }
    log[QUIET.has(path) ? 'debug' : 'info'](line, 'request')
  }
}
