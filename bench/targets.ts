/** What each figure must reach, and what would lead the field. */

export interface Target {
  readonly bench: string
  /** Where it stands in the result: `figures.…` or `ratio.…`. */
  readonly path: string
  readonly label: string
  readonly better: 'less' | 'more'
  readonly must: number
  readonly lead?: number
}

const less = (bench: string, path: string, label: string, must: number, lead?: number): Target => ({
  ...{ bench, path, label, better: 'less', must },
  ...(lead === undefined ? {} : { lead }),
})
const more = (bench: string, path: string, label: string, must: number, lead?: number): Target => ({
  ...less(bench, path, label, must, lead),
  better: 'more',
})

export const TARGETS: readonly Target[] = [
  less('accept', 'figures.open_loop_ms.p50', 'accept at 50/s while flows run, p50, ms', 20, 10),
  less('accept', 'figures.open_loop_ms.p99', 'accept at 50/s while flows run, p99, ms', 250, 100),
  more('accept', 'figures.closed_loop_per_second', 'accept, closed loop, relay paused, per second', 400, 1_000),
  more('orders', 'ratio.settled', 'orders settled from a backlog ÷ one activity, eager, C=20', 0.5, 0.7),
  less('orders', 'figures.transitions_per_order', 'transitions per order, all its flows', 8, 6),
  less('orders', 'figures.calm.order_running_ms.p50', 'at 2/s, request → running at the hook, p50, ms', 300, 120),
  more('bulk', 'figures.instances_per_second', 'one order of 1,000, instances per second', 300, 800),
  less('bulk', 'figures.history_events', 'one order of 1,000, history events', 500),
  less('timers', 'figures.ends.early', 'lease ends at 20/s, early', 0),
  less('timers', 'figures.ends.late_ms.p999', 'lease ends at 20/s, p99.9 late, ms', 2_000, 1_000),
  more('timers', 'ratio.at_one_moment', '500 ends at one moment ÷ bare timers', 0.75, 0.9),
  more('sleepers', 'ratio.opened', 'opening leases ÷ bare delayed starts', 0.6, 0.9),
  less('sleepers', 'figures.memory_mib.all', 'memory with all of them open, MiB', 2_048),
  less('sleepers', 'figures.wake_ms.max', 'a wake among them, slowest, ms', 1_000),
  less('hooks', 'figures.at_50.first_byte_ms.p50', 'delivery at 50/s, p50, ms', 15),
  less('hooks', 'figures.at_50.first_byte_ms.p99', 'delivery at 50/s, p99, ms', 100),
  less('hooks', 'figures.at_300.first_byte_ms.p99', 'delivery at 300/s, p99, ms', 250),
  less('hooks', 'figures.at_300.transitions_per_1000', 'transitions per 1,000 healthy deliveries', 20),
  less('hooks', 'figures.at_300.lost', 'deliveries lost', 0),
  less('recovery', 'figures.worst.api_answers_ms', 'kill -9, API answers, worst process, ms', 1_000, 500),
  less('recovery', 'figures.worst.first_progress_ms', 'kill -9, first progress, worst process, ms', 10_000, 4_000),
  less(
    'recovery',
    'figures.worst.overdue_settled_ms',
    'kill -9, 500 overdue settled, worst process, ms',
    30_000,
    15_000,
  ),
  less('list', 'figures.page_ms.p99', 'a page of 100 from 100,000 instances, p99, ms', 100, 30),
  more(
    'failover',
    'figures.healthy_per_second',
    '1,000 on four clouds, three of them ill: healthy ones, per second',
    60,
    150,
  ),
  less('failover', 'figures.throttled.calls_in_a_second', 'calls in any second at the cloud that takes 10', 10),
  less('failover', 'figures.twins', 'machines too many', 0),
  less('healing', 'figures.noticed_ms.max', '200 machines vanish at once: the last is noticed, ms', 30_000),
  less('healing', 'figures.over_the_cap', 'healed at once, beyond the cap', 0),
]
