/**
 * The rules of an action on a whole deployment. Pure. Start, stop and restart are actions of its instances, opened in
 * waves: the next one begins when the one before is over. A terminate ends its orders, whose flows work in batches.
 *
 * One action is open at a time; only a terminate is taken beside another, and supersedes it.
 */
import type { ActionFailure, InstanceAction } from './instance.ts'

export const DEPLOYMENT_ACTIONS = ['start', 'stop', 'restart', 'terminate'] as const
export type DeploymentAction = (typeof DEPLOYMENT_ACTIONS)[number]

/** Instances of a wave at most: it is opened in one transaction. */
export const WAVE_MAX = 25
/** Waves that a deployment is gone through in, where nobody says otherwise. */
const WAVES = 5

/** By action and state of an instance, what is asked of it; where nothing stands the action does not fit, it is skipped. */
const FITTING: Readonly<Record<DeploymentAction, Readonly<Record<string, InstanceAction>>>> = {
  start: { stopped: 'start' },
  stop: { starting: 'stop', running: 'stop', rebooting: 'stop' },
  restart: { running: 'reboot', stopped: 'start' },
  terminate: {},
}

/** What an action of the deployment asks of an instance in a state; null: nothing, it does not fit. */
export const actionFor = (action: DeploymentAction, state: string): InstanceAction | null =>
  FITTING[action][state] ?? null

/** Instances of a wave where nobody says otherwise. */
export const waveSizeOf = (members: number): number => Math.min(WAVE_MAX, Math.max(1, Math.floor(members / WAVES)))

/** What may be asked of a deployment. `members`: the states its instances are in once their open actions are done. */
export function deploymentActionsAllowed(deployment: {
  readonly state: string
  readonly open: DeploymentAction | null
  readonly members: readonly string[]
}): readonly DeploymentAction[] {
  const { state, open, members } = deployment
  return DEPLOYMENT_ACTIONS.filter((action) => {
    if (action === 'terminate') return state !== 'cancelled' && state !== 'terminated'
    return open === null ? members.some((member) => actionFor(action, member)) : action === open
  })
}

/** Members in order, up to a full wave: whom it takes, how many it passes over, and the last one looked at. */
export function chooseWave(
  action: DeploymentAction,
  members: readonly { readonly id: string; readonly state: string }[],
  wave_size: number,
): { readonly chosen: readonly string[]; readonly skipped: number; readonly last: string | null } {
  const chosen: string[] = []
  let skipped = 0
  let last: string | null = null
  for (const { id, state } of members) {
    if (chosen.length === wave_size) break
    last = id
    if (actionFor(action, state)) chosen.push(id)
    else skipped++
  }
  return { chosen, skipped, last }
}

/** The open action of a deployment. */
export interface DeploymentView {
  readonly kind: DeploymentAction
  /** The last wave begun; 0: none. */
  readonly wave: number
  /** Actions of its instances: all, those not over, those that came to nothing. */
  readonly of_wave: { readonly opened: number; readonly open: number; readonly failed: number }
  /** Members, or orders of a terminate, that were not looked at yet. */
  readonly left: number
  /** Orders that a terminate waits for. */
  readonly orders_open: number
}

export interface DeploymentDecision {
  /** What is done in the record now; null: nothing. */
  readonly step: 'begin_wave' | 'end_orders' | null
  /** How the action ends; null: it goes on. */
  readonly ends: { readonly state: 'done' } | { readonly state: 'failed'; readonly error: ActionFailure } | null
  readonly waiting_for: string
}

/** Decides what the open action of a deployment needs. */
export function decideDeployment(view: DeploymentView): DeploymentDecision {
  return view.kind === 'terminate' ? decideEnd(view) : decideWaves(view)
}

function decideEnd({ left, orders_open }: DeploymentView): DeploymentDecision {
  if (left) return { step: 'end_orders', ends: null, waiting_for: 'the end of its orders' }
  if (!orders_open) return { step: null, ends: { state: 'done' }, waiting_for: '' }
  return { step: null, ends: null, waiting_for: `the end of ${counted(orders_open, 'order')}` }
}

function decideWaves({ kind, wave, of_wave, left }: DeploymentView): DeploymentDecision {
  const { opened, open, failed } = of_wave
  if (open)
    return {
      step: null,
      ends: null,
      waiting_for: `the ${kind} of ${open} of ${counted(opened, 'instance')} of wave ${wave}`,
    }
  if (failed * 2 > opened) {
    const message = `${failed} of ${counted(opened, 'instance')} of wave ${wave} failed; ${left} more are left as they are`
    return { step: null, ends: { state: 'failed', error: { class: 'wave_failed', message } }, waiting_for: '' }
  }
  if (left) return { step: 'begin_wave', ends: null, waiting_for: `wave ${wave + 1} of its ${kind} to begin` }
  return { step: null, ends: { state: 'done' }, waiting_for: '' }
}

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`
