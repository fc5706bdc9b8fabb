/**
 * The only way errors leave activities: a code and a sentence of ours, never a provider's text, a statement or a value.
 * What surely had no effect may be retried by the engine; everything else is stored as an outcome and never thrown.
 */
import { ApplicationFailure, CancelledFailure, CompleteAsyncError } from '@temporalio/activity'
import { DomainError } from '../domain/errors.ts'
import { isAway } from '../store/database.ts'

/**
 * Wraps every function of a map of activities, so that only `ApplicationFailure`s of ours come out. What nobody expected
 * is told to `onBug` with all its detail, for the log, and leaves without it.
 */
export function guarded<T extends object>(activities: T, onBug: (activity: string, error: unknown) => void): T {
  const entries = Object.entries(activities).map(([name, activity]) => [
    name,
    async (...args: unknown[]) => {
      try {
        return await (activity as (...args: unknown[]) => Promise<unknown>)(...args)
      } catch (error) {
        throw toFailure(name, error, onBug)
      }
    },
  ])
  return Object.fromEntries(entries) as T
}

function toFailure(activity: string, error: unknown, onBug: (activity: string, error: unknown) => void): Error {
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
  onBug(activity, error)
  const name = error instanceof Error ? error.name : 'unknown error'
  return ApplicationFailure.create({
    type: 'internal',
    message: `${activity} failed (${name}); the worker's log has the details`,
    cause: undefined,
  })
}
