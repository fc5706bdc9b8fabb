/** Actions of whole deployments: ended, as was told, and no more at once than a wave takes. */
import { type Dossier, ORDER_OVER, unseen } from './dossier.ts'
import { at } from './findings.ts'
import type { ActionRow, DeploymentActionRow } from './ledgers.ts'

export function judgeDeployments(dossier: Dossier): void {
  if (unseen(dossier, 'deployment_actions', 'actions', 'orders')) return
  const { actions, deployment_actions } = dossier.ledgers.record
  const parts_of = Map.groupBy(actions, ({ deployment_action_id }) => deployment_action_id)
  for (const action of deployment_actions) {
    judgeState(dossier, action, deployment_actions)
    judgeParts(dossier, action, parts_of.get(action.id) ?? [])
  }
}

const nameOf = ({ id, action, deployment_id }: DeploymentActionRow): string =>
  `action ${id} (${action}) of deployment ${deployment_id}`

function judgeState(dossier: Dossier, action: DeploymentActionRow, all: readonly DeploymentActionRow[]): void {
  const { state, deployment_id } = action
  const lost = (what: string): void =>
    dossier.findings.note('lost', nameOf(action), `of ${at(action.created_at_ms)} is ${state}, ${what}`)
  if (state === 'running') lost('and was never ended')
  if (state === 'failed' && action.error === null) lost('and does not say why')
  const ended_by = all.some(
    (later) => later.deployment_id === deployment_id && later.number > action.number && later.action === 'terminate',
  )
  if (state === 'superseded' && !ended_by) lost('though nobody asked for the end of its deployment')
  if (state !== 'done') return
  if (action.action === 'terminate') {
    for (const order of dossier.orders.values())
      if (
        order.deployment_id === deployment_id &&
        order.created_at_ms < action.created_at_ms &&
        !ORDER_OVER.has(order.state)
      )
        lost(`but its order ${order.id} is ${order.state}`)
  } else if (action.counts.open || action.counts.waiting) lost(`but tells ${JSON.stringify(action.counts)}`)
}

/** The actions of its instances that it is made of. */
function judgeParts(dossier: Dossier, action: DeploymentActionRow, parts: readonly ActionRow[]): void {
  if (action.action === 'terminate') return
  for (const state of ['done', 'failed', 'superseded']) {
    const counted = parts.filter((part) => part.state === state).length
    if (counted !== action.counts[state])
      dossier.findings.note(
        'disagreements',
        nameOf(action),
        `tells ${action.counts[state]} instances as ${state}, ${counted} are, at ${at(action.finished_at_ms)}`,
      )
  }
  for (const { created_at_ms } of parts) {
    const at_once = parts.filter(
      (other) => other.created_at_ms <= created_at_ms && (other.finished_at_ms ?? Infinity) > created_at_ms,
    ).length
    if (at_once > (action.wave_size ?? Infinity))
      dossier.findings.note(
        'early',
        nameOf(action),
        `${at_once} of its instances were acted on at ${at(created_at_ms)}, a wave takes ${action.wave_size}`,
      )
  }
}
