/**
 * The only way errors leave activities: a code and a sentence of ours, never a provider's text, a statement or a value.
 * What surely had no effect may be retried by the engine; everything else is stored as an outcome and never thrown.
 */
import { ApplicationFailure, activityInfo, CancelledFailure, CompleteAsyncError } from '@temporalio/activity'
import { DomainError } from '../domain/errors.ts'
import { inTraceOf, traceOf } from '../domain/tracing.ts'
import { isAway } from '../store/database.ts'

/** Where something happened, for the log. */
export interface Where {
  readonly activity: string
  readonly workflow_id: string
  /** The noun the workflow looks after. */
  readonly noun_id: string
  readonly attempt: number
}

/** What an activity came to: the code of its failure, or what its plan says. */
export interface Ended {
  readonly ms: number
  readonly failure?: string
  readonly state?: string
  readonly why?: string
}

/** Who is told what activities do. */
export interface Watchers {
  /** Told of every error nobody expected, with all its detail. */
  readonly onBug: (where: Where, error: unknown) => void
  /** Told of every end. */
  readonly onEnd?: (where: Where, ended: Ended) => void
}

type Activity = (...args: unknown[]) => Promise<unknown>

/**
 * Wraps every function of a map of activities, so that only `ApplicationFailure`s of ours come out. What nobody expected
 * is told to `onBug` with all its detail, for the log, and leaves without it. Each is a span in the trace of its noun.
 */
export function guarded<T extends object>(activities: T, watchers: Watchers): T {
  const entries = Object.entries(activities).map(([name, activity]) => [
    name,
    async (...args: unknown[]) => {
      const where = whereOf(name)
      const begun_ms = performance.now()
      const end = (ended: Omit<Ended, 'ms'>) =>
        watchers.onEnd?.(where, { ms: Math.round(performance.now() - begun_ms), ...ended })
      try {
        const result = await spanOf(where, () => (activity as Activity)(...args))
        end(saidBy(result))
        return result
      } catch (error) {
        const failure = toFailure(where, error, watchers)
        end({ failure: failure instanceof ApplicationFailure ? (failure.type ?? 'failure') : failure.name })
        throw failure
      }
    },
  ])
  return Object.fromEntries(entries) as T
}

/** Activities of flows that stay have no noun of their own and last too long for a span. */
function spanOf(where: Where, job: () => Promise<unknown>): Promise<unknown> {
  if (!traceOf(where.noun_id)) return job()
  const attributes = { 'holdfast.workflow_id': where.workflow_id, 'holdfast.attempt': where.attempt }
  return inTraceOf(where.noun_id, where.activity, attributes, job)
}

function whereOf(activity: string): Where {
  const { workflowExecution, attempt } = activityInfo()
  const workflow_id = workflowExecution?.workflowId ?? ''
  return { activity, workflow_id, noun_id: workflow_id.slice(workflow_id.indexOf('/') + 1), attempt }
}

/** Plans say where their noun stands. */
function saidBy(result: unknown): Omit<Ended, 'ms'> {
  const { state, why } = (result ?? {}) as { state?: unknown; why?: unknown }
  return { ...(typeof state === 'string' ? { state } : {}), ...(typeof why === 'string' ? { why } : {}) }
}

function toFailure(where: Where, error: unknown, { onBug }: Watchers): Error {
  if (error instanceof ApplicationFailure || error instanceof CancelledFailure || error instanceof CompleteAsyncError)
    return error
  if (isAway(error)) {
    return ApplicationFailure.create({
      type: 'record_away',
      message: 'the record (PostgreSQL) cannot be reached',
      category: 'BENIGN',
    })
  }
  if (error instanceof DomainError) return ApplicationFailure.create({ type: error.code, message: error.message })
  onBug(where, error)
  const name = error instanceof Error ? error.name : 'unknown error'
  return ApplicationFailure.create({
    type: 'internal',
    message: `${where.activity} failed (${name}); the worker's log has the details`,
    cause: undefined,
  })
}
