/** Sends traces where OTEL_EXPORTER_OTLP_ENDPOINT says; the SDK is loaded only then. */
import { setTimeout as delay } from 'node:timers/promises'
import { first_span } from '../domain/tracing.ts'

const SHUTDOWN_MS = 2_000

/** Starts sending if the environment asks for it; returns what sends the rest and ends it. */
export async function startTracing(
  environment: NodeJS.ProcessEnv,
  role: string,
): Promise<(() => Promise<void>) | undefined> {
  if (!environment.OTEL_EXPORTER_OTLP_ENDPOINT && !environment.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) return undefined
  if (environment.OTEL_SDK_DISABLED === 'true') return undefined
  const [api, sdk, { OTLPTraceExporter }, { AsyncLocalStorageContextManager }, resources, core] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/sdk-trace'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/context-async-hooks'),
    import('@opentelemetry/resources'),
    import('@opentelemetry/core'),
  ])
  const random = new sdk.RandomIdGenerator()
  const provider = new sdk.TracerProvider({
    resource: resources
      .resourceFromAttributes({ 'service.name': 'holdfast', 'holdfast.role': role, 'process.pid': process.pid })
      .merge(resources.detectResources({ detectors: [resources.envDetector] })),
    // The first span of a noun's trace has the noun's id.
    idGenerator: {
      generateSpanId: () => first_span.ids?.spanId ?? random.generateSpanId(),
      generateTraceId: () => first_span.ids?.traceId ?? random.generateTraceId(),
    },
    spanProcessors: [new sdk.BatchSpanProcessor({ exporter: new OTLPTraceExporter(), scheduledDelayMillis: 1_000 })],
  })
  api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  api.propagation.setGlobalPropagator(new core.W3CTraceContextPropagator())
  api.trace.setGlobalTracerProvider(provider)
  return async () => {
    // A receiver that is away must not keep the process.
    await Promise.race([provider.shutdown().catch(() => {}), delay(SHUTDOWN_MS, undefined, { ref: false })])
    api.trace.disable()
    api.context.disable()
    api.propagation.disable()
  }
}
