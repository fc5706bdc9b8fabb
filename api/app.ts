/** The API put together: what runs around every route, the routes by noun, and what answers when none fits. */
import { OpenAPIHono } from '@hono/zod-openapi'
import type { MiddlewareHandler } from 'hono'
import { Counter, Histogram } from 'prom-client'
import { ulid } from 'ulid'
import { DomainError } from '../domain/errors.ts'
import type { Api, ApiContext, ApiDeps, ApiEnv } from './context.ts'
import { renderError } from './errors.ts'
import { routeClouds } from './native/clouds.ts'
import { routeDeliveries } from './native/deliveries.ts'
import { routeDeployments } from './native/deployments.ts'
import { routeEvents } from './native/events.ts'
import { routeExplain } from './native/explain.ts'
import { routeHooks } from './native/hooks.ts'
import { routeInstances } from './native/instances.ts'
import { routeLaunchOrders } from './native/launch-orders.ts'
import { routeLeases } from './native/leases.ts'
import { routeProjects } from './native/projects.ts'
import { routeTokens } from './native/tokens.ts'
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
  app.use(limitBody)
  routeSystem(app)
  routeLaunchOrders(app)
  routeInstances(app)
  routeDeployments(app)
  routeLeases(app)
  routeHooks(app)
  routeDeliveries(app)
  routeEvents(app)
  routeClouds(app)
  routeExplain(app)
  routeProjects(app)
  routeTokens(app)
  app.onError(renderError)
  app.notFound(answerUnrouted(app))
  return app
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

/** Counts and times requests by route pattern, so that ids make no series of their own. */
function measure({ metrics }: ApiDeps): MiddlewareHandler<ApiEnv> {
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
    const route = c.req.routePath.includes('*') ? 'none' : c.req.routePath
    count.inc({ method: c.req.method, route, status: String(c.res.status) })
    seconds.observe({ method: c.req.method, route }, (performance.now() - started_ms) / 1_000)
  }
}
