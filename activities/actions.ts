/** Actions of single instances at their clouds. Each may run twice at any point: what was sent stands with the action. */
import { setTimeout as delay } from 'node:timers/promises'
import { cancellationSignal } from '@temporalio/activity'
import { TARGET } from '../domain/instance.ts'
import type { Failing, Plan } from '../domain/plan.ts'
import type { AttemptError } from '../domain/record.ts'
import { type Machine, type Provider, ProviderError } from '../providers/provider.ts'
import { realNow } from '../store/database.ts'
import {
  type ActionOutcome,
  type ActionToSend,
  markActionSent,
  planInstance,
  storeActed,
} from '../store/instance-plan.ts'
import { attemptError } from './clouds.ts'
import { beat, type InstanceActivitiesNeeds, patiently } from './instances.ts'

/** What a machine comes to is followed for this long before its flow takes it up again later. */
const FOLLOW_MS = 10_000
const POLL_MS_MAX = 1_000

export function createActionActivities({ store, clouds }: InstanceActivitiesNeeds) {
  const look = async (provider: Provider, provider_id: string): Promise<{ machine: Machine; at: Date }> => {
    const at = await realNow(store.db)
    return { machine: await provider.get(provider_id, timeOut(provider)), at }
  }

  /** Follows a machine until it is as the action wants it, for some seconds at most. */
  const follow = async (
    provider: Provider,
    todo: ActionToSend,
    sent: { readonly answered: boolean; readonly error: ActionOutcome['error'] },
    cancelled: AbortSignal,
  ): Promise<ActionOutcome> => {
    let { answered, error } = sent
    let seen: ActionOutcome['seen'] = null
    const give_up_at = performance.now() + FOLLOW_MS
    for (let pause_ms = 50; ; pause_ms = Math.min(POLL_MS_MAX, pause_ms * 2)) {
      try {
        seen = await look(provider, todo.provider_id)
      } catch (thrown) {
        if (!(thrown instanceof ProviderError)) throw thrown
        return { answered, confirmed: false, seen, error: error ?? unconfirmed(thrown) }
      }
      if (todo.kind === 'reboot' && !answered && seen.machine.state === 'rebooting') {
        answered = true
        error = null
      }
      if (seen.machine.state === TARGET[todo.kind] && (answered || todo.kind !== 'reboot'))
        return { answered, confirmed: true, seen, error: null }
      if (seen.machine.state === 'failed' && error?.class === 'conflict')
        return { answered, confirmed: false, seen, error: refusedForGood(todo) }
      if (seen.machine.state === 'failed' || performance.now() > give_up_at || cancelled.aborted)
        return { answered, confirmed: false, seen, error }
      await delay(pause_ms, undefined, { signal: cancelled }).catch(() => {})
    }
  }

  return {
    /** Plans the actions of an instance, see store/instance-plan.ts. */
    planInstance(instance_id: string, failing: Failing | null): Promise<Plan> {
      return planInstance(store, instance_id, failing)
    },

    /** Starts, stops or reboots the machine of an instance and follows it. Returns whether it is as it was asked to be. */
    async actOnInstance(instance_id: string, action_id: string): Promise<boolean> {
      const cancelled = cancellationSignal()
      const stop = beat()
      try {
        const todo = await markActionSent(store, instance_id, action_id)
        if (!todo) return true
        const { provider } = await clouds.byId(todo.cloud_id, todo.credential_id)
        const sent = await send(provider, todo)
        // Where it surely had no effect there is nothing to follow, but that another had it there already.
        const ends = sent.error && sent.error.class !== 'lost_reply' && sent.error.class !== 'conflict'
        const outcome = ends ? { ...sent, confirmed: false, seen: null } : await follow(provider, todo, sent, cancelled)
        await patiently(() => storeActed(store, instance_id, action_id, outcome), cancelled)
        return outcome.confirmed
      } finally {
        stop()
      }
    },
  }
}

async function send(
  provider: Provider,
  { kind, reboot, provider_id, send, unanswered }: ActionToSend,
): Promise<{ answered: boolean; error: ActionOutcome['error'] }> {
  if (unanswered) return { answered: false, error: lostWithItsWorker() }
  if (!send) return { answered: true, error: null }
  try {
    if (kind === 'reboot') await provider.reboot(provider_id, reboot, timeOut(provider))
    else await provider[kind](provider_id, timeOut(provider))
    return { answered: true, error: null }
  } catch (error) {
    return { answered: false, error: attemptError(error, new Date()) }
  }
}

const timeOut = (provider: Provider): AbortSignal => AbortSignal.timeout(provider.capabilities.call_timeout_ms)

const lostWithItsWorker = (): AttemptError => ({
  class: 'lost_reply',
  message: 'it was sent, and its worker was lost before the cloud answered',
  at: new Date().toISOString(),
})

/** A machine that failed does not come out of that by itself: what its cloud refuses now it will refuse later. */
const refusedForGood = ({ kind }: ActionToSend): AttemptError => ({
  class: 'invalid',
  message: `the machine has failed, and its cloud does not ${kind} it any more`,
  at: new Date().toISOString(),
})

const unconfirmed = (error: ProviderError): AttemptError => ({
  class: error.class === 'not_found' ? 'not_found' : 'unconfirmed',
  message: `it was asked for; looking what came of it: ${error.message}`,
  at: new Date().toISOString(),
})
