/**
 * Events as a process of its own, at a fixed rate: each is one transaction of the record's own functions, with the hint
 * that every commit gives. Argument: `GeneratorInput` as JSON; prints `GeneratorOutput`.
 */
import { openStore, write } from '../../store/database.ts'
import { recordEvents } from '../../store/events.ts'
import { openHints } from '../../store/hints.ts'
import { atRate, Latencies, type Quantiles, wallNow } from './measure.ts'

export interface GeneratorInput {
  readonly database_url: string
  /** Resources by project; each event is of one of them, drawn in turn. */
  readonly resources: readonly { readonly project_id: string; readonly id: string; readonly type: string }[]
  /** The sequence of every resource so far. */
  readonly sequence: number
  readonly per_second: number
  readonly count: number
}

export interface GeneratorOutput {
  /** `<resource id>/<sequence>` and when it should have happened, ms since 1970. */
  readonly due: readonly (readonly [string, number])[]
  /** How late they were committed. */
  readonly committed_ms: Quantiles
}

const input = JSON.parse(process.argv[2]!) as GeneratorInput
const store = openStore(input.database_url, { size: 10 })
const hints = openHints(store, input.database_url)
await hints.wait([], 1_000) // its connection stands
const due: [string, number][] = []
const committed = new Latencies()
/** Events of one resource follow each other. */
const last = new Map<string, Promise<void>>()

await atRate(input.per_second, input.count, async (index, due_at) => {
  const { project_id, id, type } = input.resources[index % input.resources.length]!
  const sequence = input.sequence + Math.floor(index / input.resources.length) + 1
  due.push([`${id}/${sequence}`, due_at])
  const before = last.get(id)
  const event = {
    project_id,
    resource_type: 'instance',
    resource_id: id,
    sequence,
    type,
    from: 'starting',
    to: 'running',
    snapshot: { name: `bench-${index}`, provider_id: 'i-0123456789', public_addresses: ['192.0.2.1'] },
    cause: { rule: 'bench', reason: 'the bench wants it so' },
  } as const
  const writing = (before ?? Promise.resolve()).then(() => write(store, (trx) => recordEvents(trx, [event])))
  last.set(
    id,
    writing.then(() => {}),
  )
  await writing
  committed.add(wallNow() - due_at)
})
process.stdout.write(JSON.stringify({ due, committed_ms: committed.quantiles() } satisfies GeneratorOutput))
await new Promise((resolve) => setTimeout(resolve, 50)) // the last hint goes out
await hints.close()
await store.close()
