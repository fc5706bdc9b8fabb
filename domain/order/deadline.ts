/** The deadline of an order: the moment by which its policy is to be met. */
import type { OrderView } from './view.ts'

/** Its policy is still to be met, by a moment. */
export const hasDeadline = (view: OrderView): boolean =>
  view.deadline_at !== null && !view.settled && view.wish === 'run'

/** That moment has passed: what does not run yet is not wanted any more. */
export const isLate = (view: OrderView, now: number): boolean => hasDeadline(view) && view.deadline_at! <= now

const OVER: ReadonlySet<string> = new Set(['failed', 'missing', 'terminating', 'terminated'])

/** As many run as must; one that died or was ended does not, also where its item does not know yet. */
export function meetsPolicy({ policy, at_least, items }: OrderView): boolean {
  const running = items.filter(
    ({ state, instance_state }) => (state === 'running' || instance_state === 'running') && !OVER.has(instance_state),
  ).length
  if (policy === 'all') return running === items.length
  return running >= (policy === 'any' ? 1 : (at_least ?? items.length))
}
