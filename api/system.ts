/** The service about itself: alive, ready, figures, and its own description. */
import { createRoute, z } from '@hono/zod-openapi'
import { authenticateScraper } from './auth.ts'
import type { Api } from './context.ts'
import { errors, guarded, SECURITY_SCHEMES } from './route.ts'
import { json } from './schemas.ts'

const Live = z.strictObject({ live: z.literal(true) }).openapi('Live')
const Ready = z
  .strictObject({
    ready: z.boolean(),
    degraded: z.array(z.string()).openapi({ description: 'What is away although the service goes on.' }),
    reasons: z.array(z.string()).openapi({ description: 'Why it is not ready.' }),
  })
  .openapi('Ready')

const livez = createRoute({
  method: 'get',
  path: '/livez',
  tags: ['system'],
  summary: 'The process runs',
  responses: { 200: json('It does.', Live) },
})

const readyz = createRoute({
  method: 'get',
  path: '/readyz',
  tags: ['system'],
  summary: 'The process takes requests',
  responses: { 200: json('It does, perhaps degraded.', Ready), 503: json('It does not.', Ready) },
})

const metrics = createRoute({
  method: 'get',
  path: '/metrics',
  tags: ['system'],
  summary: 'Figures for Prometheus',
  ...guarded('read'),
  middleware: [authenticateScraper()],
  responses: {
    200: { description: 'Text format 0.0.4.', content: { 'text/plain': { schema: z.string() } } },
    ...errors,
  },
})

const VERSION = '0.1.0'

/** Registers the routes of the service itself; all but the figures are public. */
export function routeSystem(app: Api): void {
  app.openapi(livez, (c) => c.json({ live: true as const }, 200))
  app.openapi(readyz, async (c) => {
    const { postgres, temporal, draining } = await c.get('deps').health()
    const reasons = [...(postgres ? [] : ['postgres']), ...(draining ? ['draining'] : [])]
    const ready = reasons.length === 0
    if (!ready) c.header('Retry-After', '2')
    return c.json({ ready, degraded: temporal ? [] : ['temporal'], reasons }, ready ? 200 : 503)
  })
  app.openapi(metrics, async (c) => {
    const { metrics: registry, more_metrics } = c.get('deps')
    const [own, more] = await Promise.all([registry.metrics(), more_metrics?.() ?? ''])
    return c.text(`${own}${more}`, 200, { 'Content-Type': registry.contentType })
  })

  for (const [name, scheme] of Object.entries(SECURITY_SCHEMES)) {
    app.openAPIRegistry.registerComponent('securitySchemes', name, scheme)
  }
  let document: ReturnType<Api['getOpenAPI31Document']> | undefined
  app.get('/openapi.json', (c) => {
    document ??= app.getOpenAPI31Document({
      openapi: '3.1.0',
      info: {
        title: 'Holdfast',
        version: VERSION,
        description: 'Launches cloud instances, leases them over time and tells hooks what changed: durably.',
      },
    })
    return c.json(document)
  })
}
