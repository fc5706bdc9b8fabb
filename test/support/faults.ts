/**
 * Faults in activities, injected where the worker calls them: an interceptor of every activity, local ones included.
 * A fault strikes one noun only, so that many tests can share one worker.
 */

import type { Context } from '@temporalio/activity'
import { ApplicationFailure } from '@temporalio/common'
import type { ActivityInterceptorsFactory } from '@temporalio/worker'

export type FaultKind =
  | 'fail_before'
  | 'fail_after'
  | 'twice'
  | 'until_lifted'
  | 'cancel_before'
  | 'cancel_during'
  | 'cancel_after'

export const FAULT_KINDS: readonly FaultKind[] = [
  'fail_before',
  'fail_after',
  'twice',
  'until_lifted',
  'cancel_before',
  'cancel_during',
  'cancel_after',
]

export interface Fault {
  readonly activity: string
  readonly kind: FaultKind
  /** The workflow it strikes, for example `order/0198…`. */
  readonly workflow_id: string
  /** With the `cancel_*` kinds: the cancel. */
  readonly act?: () => Promise<void>
  /** Staying activities end only after minutes: "after" is then this moment, and the first run goes on as a stale one. */
  readonly effect?: () => Promise<void>
}

/** A fault in place: how often it struck, and the way to lift it. */
export interface Injected {
  struck(): number
  lift(): void
}

export interface Faults {
  readonly interceptor: ActivityInterceptorsFactory
  inject(fault: Fault): Injected
  /** Activities seen, by workflow type. */
  readonly seen: Map<string, Set<string>>
}

const injected_failure = (when: string): ApplicationFailure =>
  ApplicationFailure.create({ type: 'injected', message: `injected: failed ${when}`, category: 'BENIGN' })

/** Makes the interceptor and the way to inject into it. */
export function createFaults(): Faults {
  const faults = new Set<{ fault: Fault; struck: number; lifted: boolean }>()
  const seen = new Map<string, Set<string>>()
  return {
    seen,
    inject(fault) {
      const entry = { fault, struck: 0, lifted: false }
      faults.add(entry)
      return {
        struck: () => entry.struck,
        lift() {
          entry.lifted = true
          faults.delete(entry)
        },
      }
    },
    interceptor: (context: Context) => ({
      inbound: {
        async execute(input, next) {
          const { activityType, workflowExecution, workflowType } = context.info
          if (workflowType) seen.set(workflowType, (seen.get(workflowType) ?? new Set()).add(activityType))
          const entry = [...faults].find(
            ({ fault }) => fault.activity === activityType && fault.workflow_id === workflowExecution?.workflowId,
          )
          if (!entry) return next(input)
          const { fault } = entry
          if (fault.kind === 'until_lifted') {
            entry.struck++
            throw injected_failure('until lifted')
          }
          if (entry.struck > 0) return next(input)
          entry.struck++
          const running = (): Promise<unknown> => next(input)
          /** The effect of a run; a staying activity's comes long before its end. */
          const effect = async (): Promise<unknown> => {
            const run = running()
            if (!fault.effect) return run
            run.catch(() => {})
            await fault.effect()
            return undefined
          }
          switch (fault.kind) {
            case 'fail_before':
              throw injected_failure('before')
            case 'fail_after':
              await effect()
              throw injected_failure('after')
            case 'twice':
              if (fault.effect) return Promise.race([running(), running()])
              await running()
              return running()
            case 'cancel_before':
              await fault.act!()
              return running()
            case 'cancel_during': {
              const run = running()
              run.catch(() => {})
              await fault.act!()
              return run
            }
            case 'cancel_after': {
              const result = await effect()
              await fault.act!()
              return fault.effect ? running() : result
            }
          }
        },
      },
    }),
  }
}
