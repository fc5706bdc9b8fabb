/** Hints between processes that share a record. */
import { expect, test } from 'vitest'
import { openStore } from '../../store/database.ts'
import { openHints } from '../../store/hints.ts'
import { freshStore } from '../support/database.ts'

const LONG_MS = 60_000

test('are told to all others, and are no news to who gives them', async () => {
  const here = await freshStore()
  const store = openStore(here.database_url)
  const there = openHints(store, here.database_url)
  try {
    // Both listen: each has heard the other.
    await Promise.all([untilHeard(here.hints, there), untilHeard(there, here.hints)])
    const heard = there.wait(['outbox'], LONG_MS)
    here.hints.give(['outbox'])
    let came_back = false
    const closed = new AbortController()
    const echo = here.hints.wait(['outbox'], LONG_MS, closed.signal).then(() => {
      came_back = !closed.signal.aborted
    })
    await heard
    // What was told later is heard later: by now it would have come back.
    await untilHeard(there, here.hints)
    closed.abort()
    await echo
    expect(came_back).toBe(false)
  } finally {
    await there.close()
    await store.close()
    await here.close()
  }
})

type Hints = ReturnType<typeof openHints>

/** Gives hints until they are heard there. */
async function untilHeard(from: Hints, to: Hints): Promise<void> {
  let heard = false
  const waited = to.wait(['stamped'], LONG_MS).then(() => {
    heard = true
  })
  while (!heard) {
    from.give(['stamped'])
    await Promise.race([waited, to.wait([], 50)])
  }
}
