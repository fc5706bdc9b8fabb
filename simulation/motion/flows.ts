/**
 * Flows, as in workflows/loop.ts: plan, run the plan's steps side by side, plan again at each completion or wake, sleep
 * until the next moment. They die before and after a plan is committed, and for good.
 */
import { SLEEP_MAX_MS, STEPS_MAX } from '../../domain/plan.ts'
import { planInstance } from '../record/actions.ts'
import { planLease } from '../record/leases.ts'
import { type ModelPlan, type ModelStep, planOrder } from '../record/order-plan.ts'
import { after, strikes, tell, type World } from '../world.ts'
import { type Running, startStep } from './steps.ts'
import type { Target } from './wakes.ts'

export interface Flow {
  readonly target: Target
  readonly running: Map<string, Running>
  /** Its next plan is on its way. */
  planning: boolean
  /** Number of its newest timer. */
  timer: number
  over: boolean
}

const DIES = 0.003
const DIES_FOR_GOOD = 0.001

/** A wake arrives: the flow is started, or plans again. */
export function lookAgain(world: World, target: Target): void {
  let flow = world.flows.get(target.id)
  if (!flow) {
    flow = { target, running: new Map(), planning: false, timer: 0, over: false }
    world.flows.set(target.id, flow)
  }
  planSoon(world, flow)
}

export function planSoon(world: World, flow: Flow, in_ms = world.chance.whole(2, 20)): void {
  if (flow.planning || flow.over) return
  flow.planning = true
  after(world, in_ms, () => plan(world, flow))
}

function plan(world: World, flow: Flow): void {
  if (flow.over) return
  const { target, running } = flow
  flow.planning = false
  if (strikes(world, DIES)) {
    world.say(target.id, 'dies before it has planned')
    planSoon(world, flow, world.chance.spread(100, 20_000))
    return
  }
  tell(world, { act: 'looked', noun: target.id })
  const next = planNoun(world, target)
  if (strikes(world, DIES)) {
    world.say(target.id, 'dies when it has planned')
    planSoon(world, flow, world.chance.spread(100, 20_000))
    return
  }
  const lost = strikes(world, DIES_FOR_GOOD)
  if (lost) world.say(target.id, 'is lost')
  if (lost || (next.done && running.size === 0)) {
    flow.over = true
    world.flows.delete(target.id)
    return
  }
  const wanted = new Set(next.steps.map(({ key }) => key))
  for (const [key, step] of running) if (!wanted.has(key)) step.cancelled = true
  for (const step of choose(next.steps, running)) startStep(world, flow, step)
  const timer = ++flow.timer
  if (next.sleep_ms === null) return
  after(world, Math.max(1, Math.min(SLEEP_MAX_MS, next.sleep_ms)), () => {
    if (timer === flow.timer) planSoon(world, flow, 0)
  })
}

function planNoun(world: World, target: Target): ModelPlan {
  switch (target.kind) {
    case 'order':
      return planOrder(world, target.row)
    case 'instance':
      return planInstance(world, target.row)
    case 'lease':
      return planLease(world, target.row)
  }
}

/** Free places go to steps in order, but no cloud takes the last one while another cloud has work. */
function choose(steps: readonly ModelStep[], running: ReadonlyMap<string, Running>): ModelStep[] {
  const waiting = steps.filter(({ key }) => !running.has(key))
  const busy = new Set([...running.values()].map(({ step }) => step.cloud))
  const chosen: ModelStep[] = []
  for (let free = STEPS_MAX - running.size; free > 0 && waiting.length; free--) {
    const fair = free === 1 ? waiting.findIndex(({ cloud }) => !busy.has(cloud)) : 0
    const [step] = waiting.splice(Math.max(0, fair), 1)
    busy.add(step!.cloud)
    chosen.push(step!)
  }
  return chosen
}
