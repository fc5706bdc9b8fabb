/**
 * Names that Temporal and we have in common: task queue, workflow types, ids, signals. A target of the outbox is the
 * workflow id; from it follows everything a start needs.
 */

export const TASK_QUEUE = 'holdfast'
export const WAKE = 'wake'
export const SENDER_SHARDS = 4
export const HOUSEKEEPING = 'housekeeping'

export const WORKFLOW_TYPES = {
  order: 'launchOrder',
  instance: 'instance',
  deployment: 'deployment',
  lease: 'lease',
  'hook-sender': 'hookSender',
  hook: 'hookLane',
  cloud: 'cloudWatch',
} as const

export type WorkflowKind = keyof typeof WORKFLOW_TYPES

/** `<kind>/<id>`, for example `order/0198…`. */
export type WorkflowId = `${WorkflowKind}/${string}`

export const orderWorkflowId = (order_id: string): WorkflowId => `order/${order_id}`
export const instanceWorkflowId = (instance_id: string): WorkflowId => `instance/${instance_id}`
export const deploymentWorkflowId = (deployment_id: string): WorkflowId => `deployment/${deployment_id}`
export const leaseWorkflowId = (lease_id: string): WorkflowId => `lease/${lease_id}`
export const senderWorkflowId = (shard: number): WorkflowId => `hook-sender/${shard}`
export const laneWorkflowId = (hook_id: string): WorkflowId => `hook/${hook_id}`
export const cloudWorkflowId = (cloud_name: string): WorkflowId => `cloud/${cloud_name}`

/** The inverse: what a workflow id stands for. Throws on an id that is not ours. */
export function parseWorkflowId(workflow_id: string): { kind: WorkflowKind; type: string; id: string } {
  const slash = workflow_id.indexOf('/')
  const kind = workflow_id.slice(0, slash)
  if (slash < 1 || !(kind in WORKFLOW_TYPES)) throw new Error(`not a workflow id of ours: ${workflow_id}`)
  return { kind: kind as WorkflowKind, type: WORKFLOW_TYPES[kind as WorkflowKind], id: workflow_id.slice(slash + 1) }
}
