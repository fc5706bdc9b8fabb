/** What the engine keeps about flows: read from its visibility store, a moment after they end. */
import type { Client } from '@temporalio/client'
import { until } from './measure.ts'

export interface FlowCount {
  readonly runs: number
  readonly open: number
  readonly transitions: number
  readonly events: number
}

interface RawInfo {
  readonly historyLength?: unknown
  readonly stateTransitionCount?: unknown
  readonly closeTime?: unknown
}

/** Sums over all runs of a query. */
export async function countFlows(temporal: Client, query: string): Promise<FlowCount> {
  let [runs, open, transitions, events] = [0, 0, 0, 0]
  for await (const { raw } of temporal.workflow.list({ query, pageSize: 1_000 })) {
    const info = raw as RawInfo
    runs++
    if (!info.closeTime) open++
    transitions += Number(info.stateTransitionCount ?? 0)
    events += Number(info.historyLength ?? 0)
  }
  return { runs, open, transitions, events }
}

/** The same once none of them is open any more, or after a time. */
export async function countEndedFlows(temporal: Client, query: string, timeout_ms = 15_000): Promise<FlowCount> {
  let count: FlowCount = { runs: 0, open: 0, transitions: 0, events: 0 }
  await until(
    async () => {
      count = await countFlows(temporal, query)
      return count.runs > 0 && count.open === 0
    },
    timeout_ms,
    500,
  )
  return count
}

/** Transitions so far of flows that stay, by id. */
export async function transitionsOf(temporal: Client, workflow_ids: readonly string[]): Promise<number> {
  const counts = await Promise.all(
    workflow_ids.map(async (workflow_id) => {
      const { raw } = await temporal.workflow.getHandle(workflow_id).describe()
      return Number((raw.workflowExecutionInfo as RawInfo | undefined)?.stateTransitionCount ?? 0)
    }),
  )
  return counts.reduce((sum, count) => sum + count, 0)
}
