/** Where create steps stay until the watcher has seen their machines: at each hint one look for all of a process. */
import { setTimeout as delay } from 'node:timers/promises'
import { type BatchKey, findStarting } from '../store/attempts.ts'
import type { Store } from '../store/database.ts'
import type { Hints } from '../store/hints.ts'

/** Looks by itself this often, hint or not. */
const LOOK_MS = 500
/** Looks are so far apart at least: what comes meanwhile is in the next one. */
const SPACING_MS = 30

/** Resolves when no machine of the batch is starting any more, or when the signal fires. */
export type UntilSeen = (batch: BatchKey, signal: AbortSignal) => Promise<void>

/** Makes the waiting room of a process. */
export function createWaitingRoom(store: Store, hints: Hints): UntilSeen {
  const inside = new Set<{ readonly batch: BatchKey; readonly leave: () => void }>()
  let looking = false
  let entered = Promise.withResolvers<void>()

  const lookWhileWaited = async (): Promise<void> => {
    looking = true
    while (inside.size) {
      const hint = hints.wait(['watched'], LOOK_MS) // begins before the look
      const spacing = delay(SPACING_MS)
      entered = Promise.withResolvers()
      const asked = [...inside]
      // While the record is away nobody leaves before their time is up.
      const starting = await findStarting(
        store.db,
        asked.map(({ batch }) => batch),
      ).catch(() => undefined)
      for (const { batch, leave } of asked) if (starting && !starting.has(`${batch.order_id}/${batch.batch}`)) leave()
      // Who comes in has a first look at once: the watcher may have been before them.
      if (inside.size) await Promise.race([hint, entered.promise])
      await spacing
    }
    looking = false
  }

  return (batch, signal) =>
    new Promise((resolve) => {
      if (signal.aborted) return resolve()
      const leave = (): void => {
        signal.removeEventListener('abort', leave)
        inside.delete(place)
        resolve()
      }
      const place = { batch, leave }
      signal.addEventListener('abort', leave, { once: true })
      inside.add(place)
      if (looking) entered.resolve()
      else void lookWhileWaited()
    })
}
