/**
 * Traces. The trace of a noun has the noun's id as its trace id, so that whatever works on it, in whichever process,
 * today or in a year, adds to the same trace: nothing has to be carried along. Where no SDK is registered, which is
 * usual, nothing here does anything.
 */
import {
  type Attributes,
  context,
  type Link,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  trace,
} from '@opentelemetry/api'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const tracer = () => trace.getTracer('holdfast')

/** The first span of a noun's trace; undefined for what is no id of ours. */
export function traceOf(noun_id: unknown): SpanContext | undefined {
  if (typeof noun_id !== 'string' || !UUID.test(noun_id)) return undefined
  const hex = noun_id.replaceAll('-', '')
  return { traceId: hex, spanId: hex.slice(16), traceFlags: TraceFlags.SAMPLED, isRemote: true }
}

/** Ids of the span that is started next; worker/tracing.ts gives them to the SDK. Starting a span is synchronous. */
export const first_span: { ids: { traceId: string; spanId: string } | undefined } = { ids: undefined }

/** Begins the trace of a new noun, linked both ways with the request that made it. */
export function beginTrace(noun_id: string, name: string, started_at: Date): void {
  const first = traceOf(noun_id)
  if (!first) return
  const request = trace.getActiveSpan()
  first_span.ids = first
  tracer()
    .startSpan(name, { root: true, startTime: started_at, links: linksTo(request?.spanContext()) })
    .end()
  first_span.ids = undefined
  request?.addLink({ context: first })
}

/** Runs a job as a span of a noun's trace; of the active one where the noun has none. */
export function inTraceOf<T>(
  noun_id: unknown,
  name: string,
  attributes: Attributes,
  job: (span: Span) => Promise<T>,
  kind = SpanKind.INTERNAL,
): Promise<T> {
  const first = traceOf(noun_id)
  const active = trace.getActiveSpan()?.spanContext()
  if (!first || first.traceId === active?.traceId) return inSpan(name, attributes, job, kind)
  const links = linksTo(active)
  return context.with(trace.setSpanContext(ROOT_CONTEXT, first), () => inSpan(name, attributes, job, kind, links))
}

/** Runs a job as a span below the active one. */
export function inSpan<T>(
  name: string,
  attributes: Attributes,
  job: (span: Span) => Promise<T>,
  kind = SpanKind.INTERNAL,
  links: Link[] = [],
): Promise<T> {
  return tracer().startActiveSpan(name, { attributes, kind, links }, async (span) => {
    try {
      return await job(span)
    } catch (error) {
      // The name alone: a message may hold what has no place in a trace.
      span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.name : 'error' })
      throw error
    } finally {
      span.end()
    }
  })
}

const linksTo = (other: SpanContext | undefined): Link[] => (other ? [{ context: other }] : [])
