/** Hooks of the run and who receives for them: steady ones, flaky ones, and some that come and go. */
import type { Chance } from './chance.ts'
import type { ReceiverLedger } from './checker/ledgers.ts'
import type { Client } from './client.ts'
import { type Answer, openReceivers, type Receiver } from './receivers.ts'

/** A flaky receiver is tried again soon, so that its lane works and is done before the end. */
const SCHEDULE_MS = [1_000, 1_000, 2_000, 2_000, 3_000, 5_000, 5_000, 10_000, 10_000, 10_000]
const TIMEOUT_MS = 1_500
const SORTS = {
  steady: {},
  filtered: { filter: { types: ['lease.*', 'deployment.*'] } },
  flaky: { filter: { types: ['order.*'] } },
  passing: { filter: { resource_type: 'instance' } },
} as const
export type Sort = keyof typeof SORTS

export interface Subscribers {
  /** Makes a hook with a receiver of its own; gives its id. */
  subscribe(client: Client, sort: Sort): Promise<string>
  leave(client: Client, hook_id: string): Promise<void>
  /** From now on everybody accepts. */
  calm(): void
  ledgers(): ReceiverLedger[]
  close(): Promise<void>
}

export async function openSubscribers(chance: Chance): Promise<Subscribers> {
  const receivers = await openReceivers()
  const by_hook = new Map<string, Receiver>()
  let calm = false
  const fine: Answer = { status: 200 }

  function answerOf(sort: Sort): Answer {
    const drawn = chance.next()
    if (calm || sort === 'steady' || sort === 'filtered') return fine
    if (sort === 'passing') return drawn < 0.02 ? { status: 500 } : fine
    if (drawn < 0.1) return { status: 500 }
    if (drawn < 0.12) return { status: 503, retry_after_s: 1 }
    if (drawn < 0.15) return 'hang'
    return drawn < 0.18 ? null : fine
  }

  return {
    async subscribe(client, sort) {
      const receiver = receivers.open(() => answerOf(sort))
      const body = { uri: receiver.uri, timeout_ms: TIMEOUT_MS, schedule_ms: SCHEDULE_MS, ...SORTS[sort] }
      const told = await client.ask({ kind: 'hook', method: 'POST', path: '/api/hooks', body })
      const { id } = (told.body.hook ?? {}) as { id?: string }
      if (!id) throw new Error(`no hook was made (${told.status}): ${JSON.stringify(told.body)}`)
      by_hook.set(id, receiver)
      return id
    },
    async leave(client, hook_id) {
      const told = await client.ask({
        kind: 'end',
        method: 'DELETE',
        path: `/api/hooks/${hook_id}`,
        resource_id: hook_id,
      })
      if (told.status >= 300 && told.status !== 404)
        throw new Error(`hook ${hook_id} could not be deleted: ${told.status}`)
    },
    calm() {
      calm = true
    },
    ledgers: () => [...by_hook].map(([hook_id, { deliveries }]) => ({ hook_id, deliveries })),
    close: receivers.close,
  }
}
