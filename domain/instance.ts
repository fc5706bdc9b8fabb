/**
 * The rules of one instance's actions. Pure. They are worked off one after the other, in the order they were asked for; a
 * terminate supersedes whatever else is open. Where no machine is bound yet, the order's flow ends its attempts and a
 * terminate waits for that.
 *
 * Start and stop may be sent again: a machine that is there already stays there. A reboot is sent once. Where its reply
 * was lost nobody can say whether it happened, so the action fails and says so.
 */
import type { BlockerDecision } from './blocker.ts'
import type { Machine } from './machine.ts'

/** What a machine is switched to; each is an action of its instance. */
export type PowerAction = 'start' | 'stop' | 'reboot'
export type InstanceAction = PowerAction | 'terminate'

/** The oldest action of an instance that is not over; times are real, in ms. */
export interface ActionView {
  readonly kind: InstanceAction
  /** When it was first looked at; null: not yet. */
  readonly started_at: number | null
  /** What was asked for was seen to be so. */
  readonly confirmed: boolean
  /** Before it, nothing is asked again; null: now. */
  readonly next_try_at: number | null
  readonly error: { readonly class: string; readonly message: string } | null
}

export interface InstanceView {
  readonly state: string
  readonly action: ActionView | null
  /** A machine is bound to it and not confirmed gone. */
  readonly has_machine: boolean
  /** Real time in ms before which its deletion is not asked for again; null: now. */
  readonly next_delete_at: number | null
  /** Why it was not deleted when that was last asked for. */
  readonly deletion_error: string | null
  readonly cloud: string
}

/** Why an action came to nothing: a class, and a sentence. */
export interface ActionFailure {
  readonly class: string
  readonly message: string
}

export interface InstanceDecision {
  /** `terminating` before a deletion is asked for, `terminated` where there was nothing to delete. */
  readonly to: 'terminating' | 'terminated' | null
  readonly step: 'terminate' | 'act' | null
  /** How the action ended; null: it goes on. */
  readonly ends:
    | { readonly state: 'done' | 'superseded' }
    | { readonly state: 'failed'; readonly error: ActionFailure }
    | null
  readonly wake_order: boolean
  readonly due_at: number | null
  readonly blocker: BlockerDecision | null
  readonly waiting_for: string
}

/** A cloud that cannot be brought to do it is given up after this long; a terminate never is. */
const GIVE_UP_MS = 10 * 60_000
/** Errors after which the same request may yet succeed. */
const PASSING = new Set(['throttled', 'unavailable', 'auth', 'conflict', 'lost_reply', 'unconfirmed'])

const ALLOWED: Readonly<Record<string, readonly InstanceAction[]>> = {
  pending: ['terminate'],
  starting: ['stop', 'terminate'],
  running: ['stop', 'reboot', 'terminate'],
  stopping: ['terminate'],
  stopped: ['start', 'terminate'],
  rebooting: ['stop', 'terminate'],
  terminating: ['terminate'],
  terminated: [],
  failed: ['stop', 'terminate'],
  missing: ['terminate'],
}

/** What may be asked of an instance in a state (Cloud State, valid actions). */
export const actionsAllowed = (state: string): readonly InstanceAction[] => ALLOWED[state] ?? []

/** The state an instance is in once its open actions are done: what a further one is checked against. */
export function stateAfter(state: string, open: readonly InstanceAction[]): string {
  const AFTER = { start: 'running', stop: 'stopped', reboot: 'running', terminate: 'terminating' } as const
  const last = open.at(-1)
  return last ? AFTER[last] : state
}

/** The state that an action leads to. */
export const TARGET = { start: 'running', stop: 'stopped', reboot: 'running' } as const

const NOTHING: InstanceDecision = {
  to: null,
  step: null,
  ends: null,
  wake_order: false,
  due_at: null,
  blocker: null,
  waiting_for: '',
}

/** Decides what an instance needs at `now` (real time, ms). Nothing at all where no action is open. */
export function decideInstance(view: InstanceView, now: number): InstanceDecision {
  const { action } = view
  if (action === null) return NOTHING
  return action.kind === 'terminate' ? decideEnd(view, now) : decidePower(view, action, action.kind, now)
}

function decideEnd(view: InstanceView, now: number): InstanceDecision {
  const done = { state: 'done' } as const
  if (!view.has_machine) {
    if (view.state === 'terminated') return { ...NOTHING, ends: done }
    if (view.state === 'missing' || view.state === 'failed')
      return { ...NOTHING, to: 'terminated', ends: done, wake_order: true }
    return { ...NOTHING, wake_order: true, waiting_for: 'its order to withdraw what was asked of a cloud' }
  }
  const to = view.state === 'terminating' ? null : 'terminating'
  if (view.next_delete_at === null || view.next_delete_at <= now)
    return { ...NOTHING, to, step: 'terminate', waiting_for: 'its deletion' }
  const blocker: BlockerDecision | null = view.deletion_error
    ? { code: 'deletion_refused', reason: view.deletion_error, next_try_at: view.next_delete_at }
    : null
  return { ...NOTHING, to, due_at: view.next_delete_at, blocker, waiting_for: 'the cloud to confirm its deletion' }
}

function decidePower(view: InstanceView, action: ActionView, kind: PowerAction, now: number): InstanceDecision {
  const fail = (error: ActionFailure): InstanceDecision => ({ ...NOTHING, ends: { state: 'failed', error } })
  if (view.state === 'terminating' || view.state === 'terminated') return { ...NOTHING, ends: { state: 'superseded' } }
  // Its cloud has the word: the state on record is as old as the last list of its machines.
  if (action.confirmed) return { ...NOTHING, ends: { state: 'done' } }
  if (!view.has_machine)
    return fail({ class: 'not_found', message: `the instance is ${view.state} and has no machine to ${kind}` })
  const { error } = action
  if (error && !PASSING.has(error.class)) return fail(error)
  if (kind === 'reboot' && error?.class === 'lost_reply')
    return fail({ class: 'lost_reply', message: 'the cloud did not answer; nobody can say whether it rebooted' })
  const waiting_for = `cloud ${view.cloud} to ${kind} it`
  const give_up_at = (action.started_at ?? now) + GIVE_UP_MS
  if (give_up_at <= now)
    return fail(error ?? { class: 'unconfirmed', message: `cloud ${view.cloud} did not ${kind} it in time` })
  // Also while it is asked for again: were the blocker gone meanwhile, each try would tell two events.
  const blocker = blockerOf(view, action)
  if (action.next_try_at === null || action.next_try_at <= now) return { ...NOTHING, step: 'act', blocker, waiting_for }
  return { ...NOTHING, due_at: action.next_try_at, blocker, waiting_for }
}

function blockerOf({ cloud }: InstanceView, { kind, error, next_try_at }: ActionView): BlockerDecision | null {
  switch (error?.class) {
    case 'unavailable':
      return { code: 'cloud_unreachable', reason: `cloud ${cloud} cannot be reached`, next_try_at }
    case 'auth':
      return { code: 'credentials_refused', reason: `cloud ${cloud} refused its credentials`, next_try_at }
    case 'conflict':
    case 'lost_reply':
    case 'unconfirmed':
      return { code: 'action_unconfirmed', reason: `cloud ${cloud} has not confirmed the ${kind}`, next_try_at }
    default:
      return null
  }
}

/** Where an observation leads an instance; null: nowhere, it is ending or over. A word that is not known leaves it where it is. */
export function stateObserved(state: string, machine: Machine): string | null {
  if (state === 'terminating' || state === 'terminated' || state === 'pending') return null
  switch (machine.state) {
    case 'running':
    case 'stopping':
    case 'stopped':
    case 'rebooting':
    case 'failed':
      return machine.state
    case 'starting':
      return state === 'stopped' ? 'starting' : state
    case 'pending':
      return state
    case 'unknown':
      return state === 'failed' || state === 'missing' ? null : state
    default:
      return null
  }
}
