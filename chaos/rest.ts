/** Whether everything has come to rest: nothing is open, and record and clouds have the same machines. */
import { type Json, object } from './checker/shapes.ts'
import type { Clouds } from './clouds.ts'
import type { Progress } from './progress.ts'

/** Words of the record for an instance without a machine that serves. */
const DEAD = new Set(['failed', 'missing', 'terminated'])
/** Words that record and cloud must share. */
const STEADY = new Set(['running', 'stopped', 'failed'])

/** What is not at rest, in words; null: nothing. */
export async function whatIsLeft(progress: Progress, clouds: Clouds): Promise<string | null> {
  const open = await progress.open()
  if (!open || Object.keys(open).length) return JSON.stringify(open ?? 'no answer')
  const [bound, alive] = [await progress.bound(), await clouds.alive()]
  if (!bound) return 'no answer'
  const { instances, running } = bound
  const named = instances.filter(({ provider_id, state }) => provider_id && state !== 'terminated')
  const nameOf = ({ cloud, provider_id }: Json): string => `${cloud}/${provider_id}`
  const names = new Set(named.map(nameOf))
  const surplus = [...alive.keys()].filter((name) => !names.has(name))
  const differing = named.filter((instance) => differs(String(instance.state), alive.get(nameOf(instance)))).map(nameOf)
  const ill = running.filter((order) => isIll(order, instances)).map(({ id }) => id)
  return surplus.length + differing.length + ill.length ? JSON.stringify({ surplus, differing, ill }) : null
}

function differs(state: string, at_cloud: string | undefined): boolean {
  if (at_cloud === undefined) return !DEAD.has(state)
  return state === 'missing' || (STEADY.has(state) && STEADY.has(at_cloud) && state !== at_cloud)
}

/** It counts on machines that are dead: it is to be told, or to be healed. */
function isIll({ id, counts, blocker }: Json, instances: readonly Json[]): boolean {
  const serving = instances.filter(({ order_id, state }) => order_id === id && !DEAD.has(String(state))).length
  return blocker !== null || Number(object(counts).running ?? 0) > serving
}
