/** The deadline of an order: the moment by which its policy is to be met. */
import type { OrderView } from './view.ts'

/** Its policy is still to be met, by a moment. */
export const hasDeadline = (view: OrderView): boolean =>
  view.deadline_at !== null && !view.settled && view.wish === 'run'

/** That moment has passed: what does not run yet is not wanted any more. */
export const isLate = (view: OrderView, now: number): boolean => hasDeadline(view) && view.deadline_at! <= now

/** As many run as must. */
export function meetsPolicy({ policy, at_least, items }: OrderView): boolean {
  const running = items.filter((item) => item.state === 'running' || item.instance_state === 'running').length
  if (policy === 'all') return running === items.length
  return running >= (policy === 'any' ? 1 : (at_least ?? items.length))
}
