/**
 * Faults in activities, injected where the worker calls them: an interceptor of every activity, local ones included.
 * A fault strikes the flows it names, so that many tests can share one worker.
 */
import type { Context } from '@temporalio/activity'
import { ApplicationFailure } from '@temporalio/common'
import type { ActivityInterceptorsFactory } from '@temporalio/worker'

export const FAULT_KINDS = [
  'fail_before',
  'fail_after',
  'twice',
  'until_lifted',
  'cancel_before',
  'cancel_during',
  'cancel_after',
] as const
export type FaultKind = (typeof FAULT_KINDS)[number]

export interface Fault {
  readonly activity: string
  readonly kind: FaultKind
  /** Which flows it strikes, by workflow id. */
  readonly strikes: (workflow_id: string) => boolean | Promise<boolean>
  /** With the `cancel_*` kinds: the cancel. */
  readonly cancel?: (() => Promise<void>) | undefined
  /**
   * A staying activity ends only after minutes. "After the effect" is then when this resolves; the run that was struck
   * goes on as a stale one, which must write nothing any more.
   */
  readonly effect?: (() => Promise<void>) | undefined
}

/** A fault in place: how often it struck, and the way to lift it. */
export interface Injected {
  struck(): number
  lift(): void
}

export interface Faults {
  readonly interceptor: ActivityInterceptorsFactory
  inject(fault: Fault): Injected
}

interface Entry {
  readonly fault: Fault
  struck: number
}

const failure = (when: string): ApplicationFailure =>
  ApplicationFailure.create({ type: 'injected', message: `injected: failed ${when}`, category: 'BENIGN' })

/** Makes the interceptor and the way to inject into it. */
export function createFaults(): Faults {
  const entries = new Set<Entry>()

  const find = async ({ info }: Context): Promise<Entry | undefined> => {
    const workflow_id = info.workflowExecution?.workflowId ?? ''
    for (const entry of entries) {
      const { fault } = entry
      if (entry.struck > 0 && fault.kind !== 'until_lifted') continue // it struck, once
      if (fault.activity === info.activityType && (await fault.strikes(workflow_id))) return entry
    }
    return undefined
  }

  return {
    inject(fault) {
      const entry: Entry = { fault, struck: 0 }
      entries.add(entry)
      return { struck: () => entry.struck, lift: () => void entries.delete(entry) }
    },
    interceptor: (context) => ({
      inbound: {
        async execute(input, next) {
          const entry = await find(context)
          if (!entry) return next(input)
          entry.struck++
          return strike(entry.fault, () => next(input))
        },
      },
    }),
  }
}

async function strike(fault: Fault, run: () => Promise<unknown>): Promise<unknown> {
  const cancel = fault.cancel ?? (async () => {})
  switch (fault.kind) {
    case 'until_lifted':
      throw failure('until it is lifted')
    case 'fail_before':
      throw failure('before')
    case 'fail_after':
      await effectOf(fault, run)
      throw failure('after')
    case 'twice': {
      if (fault.effect) return Promise.race([run(), run()])
      await run()
      return run()
    }
    case 'cancel_before':
      await cancel()
      return run()
    case 'cancel_during': {
      const running = run()
      running.catch(() => {}) // looked at below
      await cancel()
      return running
    }
    case 'cancel_after': {
      const running = run()
      running.catch(() => {})
      await (fault.effect ? fault.effect() : running)
      await cancel()
      return running
    }
  }
}

async function effectOf(fault: Fault, run: () => Promise<unknown>): Promise<void> {
  const running = run()
  if (!fault.effect) {
    await running
    return
  }
  running.catch(() => {}) // it goes on, stale
  await fault.effect()
}
