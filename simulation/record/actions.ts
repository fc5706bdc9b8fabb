/** Actions on single instances, as in store/actions.ts and store/instance-plan.ts. */
import { actionsAllowed, type InstanceView } from '../../domain/instance.ts'
import { LOST_WAKE_MS } from '../../domain/plan.ts'
import { housekeep } from '../motion/housekeeping.ts'
import { answerWakes, instanceFlow, orderFlow, wake } from '../motion/wakes.ts'
import { tell, touch, type World } from '../world.ts'
import { changeInstance } from './change.ts'
import type { ModelPlan } from './order-plan.ts'
import type { AttemptRow, InstanceRow } from './rows.ts'

/** Actions that people ask for here; switching machines on and off is not simulated. */
export type SimulatedAction = 'terminate'

/** A person asks for an action on an instance; what does not fit its state is refused, the same again is the same. */
export function requestAction(world: World, instance: InstanceRow, kind: SimulatedAction): void {
  if (instance.action !== null || !actionsAllowed(instance.state).includes(kind)) return
  world.say(instance.id, `a person asks to ${kind} it`)
  instance.action = { kind, started_at: null }
  instance.wish = kind
  instance.due_at = world.now
  touch(world, instance.item.order)
  wake(world, instanceFlow(instance))
  housekeep(world, { flow: instanceFlow(instance), row: instance })
}

/** The attempt whose machine is bound to the instance. */
const boundTo = ({ item }: InstanceRow): AttemptRow | undefined => item.open.find(({ state }) => state === 'won')

/** The machine to be deleted for a person who ends this instance. */
export const machineOf = (instance: InstanceRow): AttemptRow | undefined =>
  instance.wish === 'terminate' ? boundTo(instance) : undefined

/** Plans the actions of one instance; one that ended makes room for the next. */
export function planInstance(world: World, instance: InstanceRow): ModelPlan {
  for (;;) {
    const { plan, ended } = planOnce(world, instance)
    if (!ended) return plan
  }
}

function planOnce(world: World, instance: InstanceRow): { plan: ModelPlan; ended: boolean } {
  answerWakes(world, instanceFlow(instance))
  const view = viewOf(instance)
  const decision = world.rules.decideInstance(view, world.now)
  const { action } = instance
  if (action !== null) {
    if (decision.to) changeInstance(world, { instance, to: decision.to })
    if (decision.ends) instance.action = null
    else action.started_at ??= world.now
    if (decision.wake_order) wake(world, orderFlow(instance.item.order))
  }
  const done = action === null || decision.ends !== null
  instance.due_at = done ? null : Math.max(world.now, decision.due_at ?? world.now + LOST_WAKE_MS)
  housekeep(world, { flow: instanceFlow(instance), row: instance })
  touch(world, instance.item.order)
  const again = world.rules.decideInstance(viewOf(instance), world.now)
  tell(world, { act: 'planned_instance', instance, view, decision, again })
  const step = { key: 'terminate', kind: 'terminate', batch: 0, cloud: instance.cloud?.name ?? '' } as const
  const plan = {
    steps: decision.step === 'terminate' ? [step] : [],
    sleep_ms: decision.due_at === null ? null : Math.max(1, decision.due_at - world.now),
    done,
  }
  return { plan, ended: decision.ends !== null }
}

function viewOf(instance: InstanceRow): InstanceView {
  const attempt = boundTo(instance)
  const { action, state, cloud } = instance
  return {
    state,
    action: action && { ...action, confirmed: false, next_try_at: null, error: null },
    has_machine: attempt !== undefined,
    next_delete_at: attempt?.next_send_at ?? null,
    deletion_error: attempt?.error?.message ?? null,
    cloud: cloud?.name ?? 'unknown',
  }
}
