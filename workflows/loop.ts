/**
 * The loop that every noun's flow is: plan, run the plan's steps side by side, plan again at each completion or wake,
 * sleep until the next moment that matters. What to do is decided by `plan` in the record; nothing here knows the rules,
 * so they may change under running flows.
 */

import { defineSearchAttributeKey } from '@temporalio/common'
import {
  CancellationScope,
  condition,
  continueAsNew,
  defineSignal,
  isCancellation,
  setCurrentDetails,
  setHandler,
  sleep,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow'
import { type Failing, type Plan, STEPS_MAX, type Step } from '../domain/plan.ts'
import { WAKE } from '../domain/workflow-ids.ts'
import { blockedDetails, reasonOf } from './failing.ts'

/** "Look again": carries nothing. */
export const wake = defineSignal(WAKE)

const STATE = defineSearchAttributeKey('HoldfastState', 'KEYWORD')
/** States to be found by in the list of flows that are over; how a flow ended well is not worth a write. */
const BAD_ENDS: ReadonlySet<string> = new Set(['failed', 'ERROR'])
/**
 * Runs stay short, far below the engine's own suggestion of 4,096 events: a worker that takes a flow over replays its
 * history within the workflow task's time-out, or the flow stands still. On a busy machine 1,100 events took more than 5 s.
 */
const HISTORY_MAX = 500
/** A step that failed by a bug of ours is not tried again at once. */
const FAILED_STEP_PAUSE_MS = 1_000

/** What a flow tells its plan. */
export interface Present {
  readonly failing: Failing | null
  /** Keys of the steps under way at the moment of asking: some may have ended when a plan comes back. */
  readonly running: () => readonly string[]
}

export interface Noun {
  /** Plans in the record: local activity first, the same as a regular one while the record is away. */
  readonly plan: (id: string, now: Present) => Promise<Plan>
  readonly planPatiently: (id: string, now: Present) => Promise<Plan>
  /** `others_wait`: for a place among the running ones. */
  readonly run: (step: Step, others_wait: boolean) => Promise<unknown>
  /** Steps side by side, where it is not the usual number. */
  readonly steps_max?: number
  /** Events after which a run continues as new, where it is not the usual number. */
  readonly history_max?: number
}

/** Runs one noun until its plan says that nothing is left to do and no wake came since. */
export async function lookAfter(id: string, noun: Noun): Promise<void> {
  let wakes = 0
  let ended = 0
  let failed = 0
  let failing = null as Failing | null
  let shown = ''
  setHandler(wake, () => {
    wakes++
  })
  const running = new Map<string, { scope: CancellationScope; cloud: string }>()

  const start = (step: Step, others_wait: boolean): void => {
    const scope = new CancellationScope({ cancellable: true })
    running.set(step.key, { scope, cloud: step.cloud })
    scope
      .run(() => noun.run(step, others_wait))
      .then(
        () => {
          failing = null
        },
        (error: unknown) => {
          if (isCancellation(error)) return
          failed++
          const reason = `step ${step.key} (${step.summary}) fails: ${reasonOf(error)}; it is tried again`
          failing = { step: step.key, reason }
        },
      )
      .finally(() => {
        running.delete(step.key)
        ended++
      })
  }

  for (;;) {
    const wakes_seen = wakes
    const ended_seen = ended
    const plan = await planNow(id, noun, { failing, running: () => [...running.keys()] })
    if (!plan.steps.some(({ key }) => key === failing?.step)) failing = null
    setCurrentDetails(failing ? blockedDetails(plan.details, failing.reason) : plan.details)
    const ends_well = plan.done && !BAD_ENDS.has(plan.state)
    if (shown !== '' && plan.state !== shown && !ends_well) upsertSearchAttributes([{ key: STATE, value: plan.state }])
    shown = plan.state
    if (plan.done && running.size === 0) {
      if (wakes === wakes_seen) return
      continue
    }
    const wanted = new Set(plan.steps.map((step) => step.key))
    for (const [key, { scope }] of running) if (!wanted.has(key)) scope.cancel()
    const renew = workflowInfo().historyLength > (noun.history_max ?? HISTORY_MAX)
    if (renew && running.size === 0) await continueAsNew(id)
    if (failed) await sleep(FAILED_STEP_PAUSE_MS, { summary: 'a step failed; it is tried again after a pause' })
    failed = 0
    if (!renew) {
      const chosen = choose(plan.steps, running, noun.steps_max ?? STEPS_MAX)
      const others_wait = plan.steps.filter(({ key }) => !running.has(key)).length > chosen.length
      for (const step of chosen) start(step, others_wait)
    }
    const moved = () => wakes !== wakes_seen || ended !== ended_seen
    if (plan.sleep_ms === null) await condition(moved)
    else await condition(moved, Math.max(1, plan.sleep_ms), { summary: plan.why.slice(0, 300) })
  }
}

async function planNow(id: string, noun: Noun, now: Present): Promise<Plan> {
  try {
    return await noun.plan(id, now)
  } catch (error) {
    if (isCancellation(error)) throw error // a local activity's failure comes as it is, unwrapped
    setCurrentDetails(
      'Blocked: `record_away`, the record cannot be read or written; planning is tried again until it can',
    )
    return noun.planPatiently(id, now)
  }
}

/** Free places go to steps in order, but no cloud takes the last one while another cloud has work. */
function choose(steps: readonly Step[], running: ReadonlyMap<string, { cloud: string }>, steps_max: number): Step[] {
  const waiting = steps.filter((step) => !running.has(step.key))
  const busy = new Set([...running.values()].map((entry) => entry.cloud))
  const chosen: Step[] = []
  for (let free = steps_max - running.size; free > 0 && waiting.length; free--) {
    const fair = free === 1 ? waiting.findIndex((step) => !busy.has(step.cloud)) : 0
    const [step] = waiting.splice(Math.max(0, fair), 1)
    busy.add(step!.cloud)
    chosen.push(step!)
  }
  return chosen
}
