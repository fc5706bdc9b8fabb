/**
 * Watching one cloud: one long activity pages through the list of our machines, writes down what it sees, and looks
 * again as soon as the load asks for it.
 */
import { cancellationSignal } from '@temporalio/activity'
import { type Machine, type Provider, ProviderError } from '../providers/provider.ts'
import { accountsInUse, noteListed, noteRefused } from '../store/credentials.ts'
import { realNow, type Store } from '../store/database.ts'
import type { Hints } from '../store/hints.ts'
import type { CloudRow } from '../store/order-plan.ts'
import { noteAbsentOrphans } from '../store/orphans.ts'
import { isThere, type Returned, takeBack } from '../store/returns.ts'
import { countAbsent, markMissing, noteCloud, observePage, watchLoad } from '../store/watch.ts'
import { beginWatch, cloudChanged, StaleWatcher } from '../store/watch-epoch.ts'
import { attemptError, type Clouds } from './clouds.ts'
import { beat } from './instances.ts'
import { removeOrphans } from './orphans.ts'
import { createSurveyor, type Surveyor } from './survey.ts'

/** One run of the activity; the workflow starts it again. */
const RUN_MS = 10 * 60_000
/** `calm`: what vanished is looked for once more before it is believed, and noticed within half a minute. */
const PERIOD_MS = { fresh: 100, pending: 1_000, calm: 28_000, empty: 300_000, unreachable: 5_000 }
/** Hints may be lost: whether there is something new is looked up this often, too. */
const LOAD_LOOK_MS = 5_000
/** Of the calls that a cloud takes, lists are one in so many at most: the others are what is wanted of it. */
const LISTS_APART = 4
const PAGES_MAX = 1_000
/** Machines asked for one by one after a list. */
const GETS_MAX = 100

export interface WatchActivitiesNeeds {
  readonly store: Store
  readonly hints: Hints
  readonly clouds: Clouds
  readonly installation_id: string
}

export function createWatchActivities({ store, hints, clouds, installation_id }: WatchActivitiesNeeds) {
  /** One complete look at an account of a cloud; null: the cloud's own. Returns how long it took. */
  const look = async (
    cloud: CloudRow,
    account: string | null,
    provider: Provider,
    signal: AbortSignal,
  ): Promise<number> => {
    const sent_at = await realNow(store.db)
    const begun_at = performance.now()
    const seen: string[] = []
    const returned: Returned[] = []
    let cursor: string | null = null
    for (let page = 0; page < PAGES_MAX; page++) {
      const call = AbortSignal.any([signal, AbortSignal.timeout(provider.capabilities.call_timeout_ms)])
      const { machines, next }: { machines: readonly Machine[]; next: string | null } = await provider.list(
        installation_id,
        cursor,
        call,
      )
      returned.push(...(await observePage(store, cloud, account, machines, sent_at)))
      seen.push(...machines.filter((machine) => machine.state !== 'terminated').map((machine) => machine.provider_id))
      if (next === null) break
      cursor = next
    }
    const took_ms = Math.round(performance.now() - begun_at)
    if (account === null) await noteCloud(store, cloud, { state: 'ok', sent_at, took_ms })
    else await noteListed(store.db, account, sent_at)
    const absent = await countAbsent(store, cloud, account, seen, sent_at, provider.capabilities.list_lag_ms)
    const missing: { id: string; provider_id: string }[] = []
    for (const row of absent.slice(0, GETS_MAX)) if ((await find(provider, row.provider_id)) === null) missing.push(row)
    await markMissing(store, cloud, missing, await realNow(store.db))
    for (const { machine, ...attempt } of returned.slice(0, GETS_MAX)) {
      const seen_at = await realNow(store.db)
      const found = await find(provider, machine.provider_id)
      if (found && isThere(found)) await takeBack(store, cloud, { ...attempt, machine: found }, seen_at)
    }
    await noteAbsentOrphans(store, cloud, account, seen, sent_at)
    return took_ms
  }

  return {
    /**
     * Watches a cloud for ten minutes, or until an operator changes it. Returns false when there is nothing to watch any
     * more, or another watcher took over. An unreachable cloud proves nothing: it is marked stale and asked again.
     */
    async watchCloud(cloud_name: string): Promise<boolean> {
      const cancelled = cancellationSignal()
      const stop = beat()
      const until = performance.now() + RUN_MS
      const over = new AbortController()
      let surveyor: Surveyor | undefined
      try {
        const cloud = await beginWatch(store, cloud_name)
        if (!cloud) return false
        const provider = await clouds.provider(cloud, null)
        surveyor = createSurveyor(store, cloud, provider, AbortSignal.any([cancelled, over.signal]))
        while (performance.now() < until && !cancelled.aborted) {
          const begun_at = performance.now()
          const outcome = await tryLook(cloud, provider, cancelled)
          for (const account of await accountsInUse(store.db, cloud.id)) await tryAccount(cloud, account, cancelled)
          await removeOrphans(store, clouds, cloud)
          if (await pause({ cloud, provider, surveyor }, begun_at, outcome, cancelled)) break
        }
        return true
      } catch (error) {
        if (error instanceof StaleWatcher) return false
        throw error
      } finally {
        over.abort()
        await surveyor?.end()
        stop()
      }
    },
  }

  /** Another account of the cloud. One that cannot be asked proves nothing; one that refuses its credential says so. */
  async function tryAccount(cloud: CloudRow, account: string, signal: AbortSignal): Promise<void> {
    const sent_at = await realNow(store.db)
    try {
      await look(cloud, account, await clouds.provider(cloud, account), signal)
    } catch (error) {
      if (!(error instanceof ProviderError)) throw error
      if (error.class === 'auth') await noteRefused(store, account, attemptError(error, new Date()), sent_at)
    }
  }

  async function tryLook(
    cloud: CloudRow,
    provider: Provider,
    signal: AbortSignal,
  ): Promise<{ took_ms: number; reached: boolean }> {
    const sent_at = await realNow(store.db)
    try {
      return { took_ms: await look(cloud, null, provider, signal), reached: true }
    } catch (error) {
      if (!(error instanceof ProviderError)) throw error
      if (signal.aborted) return { took_ms: 0, reached: false }
      // A cloud that was given no account of its own answers, if only to callers with theirs.
      const state = error.class !== 'auth' ? 'unreachable' : cloud.credential_id === null ? 'ok' : 'refused'
      await noteCloud(store, cloud, {
        state,
        error: { class: error.class, message: error.message },
        sent_at,
        took_ms: 0,
      })
      return { took_ms: error.retry_after_ms ?? 0, reached: false }
    }
  }

  /**
   * Waits until it is time to look again; a hint from the record shortens the wait when there is something new. What else
   * the cloud is asked for is asked meanwhile. True: an operator changed the cloud.
   */
  async function pause(
    { cloud, provider, surveyor }: { cloud: CloudRow; provider: Provider; surveyor: Surveyor },
    begun_at: number,
    { took_ms, reached }: { took_ms: number; reached: boolean },
    cancelled: AbortSignal,
  ): Promise<boolean> {
    const { list_interval_ms, calls_per_s } = provider.capabilities
    const fair_ms = calls_per_s ? (LISTS_APART * 1_000) / calls_per_s : 0
    const gap_ms = Math.max(list_interval_ms, fair_ms, PERIOD_MS.fresh, 3 * took_ms)
    for (;;) {
      // Begins before the look: a hint that comes meanwhile counts.
      const hint = hints.wait(['machines'], LOAD_LOOK_MS, cancelled)
      if (reached) surveyor.look()
      if (await cloudChanged(store.db, cloud)) return true
      const load = await watchLoad(store.db, cloud.id)
      const period_ms = !reached
        ? PERIOD_MS.unreachable
        : load.fresh
          ? PERIOD_MS.fresh
          : load.pending
            ? PERIOD_MS.pending
            : load.alive
              ? PERIOD_MS.calm
              : PERIOD_MS.empty
      const left_ms = begun_at + Math.max(gap_ms, period_ms) - performance.now()
      if (left_ms <= 0 || cancelled.aborted) return false
      const time = hints.wait([], Math.min(left_ms, LOAD_LOOK_MS), cancelled)
      // Where machines are fresh a hint, of which there are many then, could make the next look no earlier.
      await (load.fresh ? time : Promise.race([hint, time]))
    }
  }
}

/** A machine as its cloud tells it by itself; null: there is none, undefined: nobody can say. */
async function find(provider: Provider, provider_id: string): Promise<Machine | null | undefined> {
  try {
    const machine = await provider.get(provider_id, AbortSignal.timeout(provider.capabilities.call_timeout_ms))
    return machine.state === 'terminated' ? null : machine
  } catch (error) {
    return error instanceof ProviderError && error.class === 'not_found' ? null : undefined
  }
}
