/** Actions of instances: ended as was answered, in the order they were asked for, and as the clouds saw it. */
import { type Dossier, isHeld, isPromised, type Machine, unseen } from './dossier.ts'
import { at } from './findings.ts'
import type { ActionRow, ClientEntry, CloudRequest, DeploymentActionRow } from './ledgers.ts'

const OPEN: ReadonlySet<string> = new Set(['queued', 'running'])
const POWER: ReadonlySet<string> = new Set(['start', 'stop', 'reboot'])
/** What a machine goes into by an action. */
const EFFECT: Readonly<Record<string, string>> = { start: 'running', stop: 'stopped', reboot: 'rebooting' }

export function judgeActions(dossier: Dossier): void {
  judgeAnswers(dossier)
  if (unseen(dossier, 'actions', 'instances')) return
  for (const [instance_id, actions] of dossier.actions_of) {
    for (const action of actions) judgeAction(dossier, action)
    judgeLast(dossier, instance_id, actions)
    judgeEnds(dossier, instance_id, actions)
  }
  for (const [instance_id, machines] of dossier.machines_of)
    if (instance_id) for (const machine of machines) judgeCalls(dossier, instance_id, machine)
}

const nameOf = ({ id, number, action, instance_id }: ActionRow): string =>
  `action ${id} (${number}, ${action}) of instance ${instance_id}`

/** What was answered is on record as it was asked for, and later requests have later numbers. */
function judgeAnswers(dossier: Dossier): void {
  const { ledgers, findings } = dossier
  const { actions, deployment_actions } = ledgers.record
  const rows = new Map<string, ActionRow | DeploymentActionRow>(
    [...actions, ...deployment_actions].map((r) => [r.id, r]),
  )
  const answered = ledgers.client.filter((entry) => isPromised(entry) && entry.action_id !== undefined)
  for (const { kind, at_ms, status, action_id, promised = {} } of answered) {
    const row = rows.get(action_id!)
    const lost = (what: string): void =>
      findings.note('lost', `action ${action_id}`, `${kind} was accepted at ${at(at_ms)} (${status}), ${what}`)
    if (!row) {
      if (!unseen(dossier, 'actions', 'deployment_actions')) lost('the record has none')
      continue
    }
    const said: Readonly<Record<string, unknown>> = { ...row }
    for (const field of ['action', 'reboot', 'wave_size'] as const)
      if (promised[field] !== undefined && promised[field] !== said[field])
        lost(`${field} ${promised[field]} was promised, the record says ${said[field]}`)
  }
  const number = ({ action_id }: ClientEntry): number => rows.get(action_id!)?.number ?? Number.NaN
  for (const [resource_id, entries] of Map.groupBy(answered, (entry) => entry.resource_id))
    for (const first of entries)
      for (const second of entries)
        if (first.at_ms <= second.sent_at_ms && number(first) > number(second))
          findings.note(
            'inversions',
            `actions of ${resource_id}`,
            `${number(second)} was asked for at ${at(second.sent_at_ms)}, ${number(first)} was answered at ${at(first.at_ms)}`,
          )
}

function judgeAction(dossier: Dossier, action: ActionRow): void {
  const instance = dossier.instances.get(action.instance_id)
  const lost = (what: string): void =>
    dossier.findings.note('lost', nameOf(action), `of ${at(action.created_at_ms)} is ${action.state}, ${what}`)
  const is_over = instance?.state === 'terminating' || instance?.state === 'terminated'
  if (OPEN.has(action.state)) {
    if (!isHeld(dossier, instance?.blocker ?? null)) lost('and was never ended')
  } else if (action.state === 'failed') {
    if (action.error === null) lost('and does not say why')
  } else if (action.state === 'superseded') {
    if (!is_over) lost(`though its instance is ${instance?.state}`)
  } else if (action.action === 'terminate') {
    if (!is_over) lost(`but its instance is ${instance?.state}`)
  } else judgeDone(dossier, action)
}

/** What is said to be done was done: the cloud's ledger shows it, between the request and its end. */
function judgeDone(dossier: Dossier, action: ActionRow): void {
  const machines = dossier.machines_of.get(action.instance_id) ?? []
  if (!machines.length) return // at a cloud that was not read
  const [from_ms, to_ms] = windowOf(dossier, action)
  const phantom = (what: string): void =>
    dossier.findings.note('phantoms', nameOf(action), `is done since ${at(to_ms)}, but its cloud ${what}`)
  const effect = EFFECT[action.action]!
  if (!machines.some((machine) => wasIn(machine, effect, from_ms, to_ms)))
    phantom(`never had its machine ${effect} since ${at(from_ms)}`)
  const calls = machines.flatMap(powerCalls)
  const called = calls.some((call) => isFor(action, call) && call.at_ms >= from_ms && call.at_ms <= to_ms)
  // One that was so already needs no call.
  if (action.action === 'reboot' && !called) phantom(`was never asked for a ${action.reboot} one`)
}

/** From the request to the end of an action, in real time. */
const windowOf = ({ clock_offset_ms }: Dossier, action: ActionRow): [number, number] => [
  action.created_at_ms - clock_offset_ms,
  (action.finished_at_ms ?? Number.POSITIVE_INFINITY) - clock_offset_ms,
]

const wasIn = ({ states }: Machine, state: string, from_ms: number, to_ms: number): boolean =>
  states.some(
    (entered, place) =>
      entered.state === state &&
      entered.at_ms <= to_ms &&
      (states[place + 1]?.at_ms ?? Number.POSITIVE_INFINITY) >= from_ms,
  )

const powerCalls = ({ cloud, provider_id }: Machine): CloudRequest[] =>
  cloud.requests.filter(({ verb, machine_id }) => POWER.has(verb) && machine_id === provider_id)

const isFor = ({ action, reboot }: ActionRow, call: CloudRequest): boolean =>
  action === call.verb && (action !== 'reboot' || reboot === call.reboot)

/** The last thing that was done with a machine is how it is. */
function judgeLast(dossier: Dossier, instance_id: string, actions: readonly ActionRow[]): void {
  const last = actions.findLast(({ action, state }) => POWER.has(action) && state !== 'superseded')
  if (last?.state !== 'done') return
  const state = dossier.instances.get(instance_id)?.state
  if (state === (last.action === 'stop' ? 'running' : 'stopped'))
    dossier.findings.note(
      'lost',
      `instance ${instance_id}`,
      `is ${state}, but ${nameOf(last)} was done at ${at(last.finished_at_ms)}`,
    )
}

/** Each ends before the next one does. */
function judgeEnds(dossier: Dossier, instance_id: string, actions: readonly ActionRow[]): void {
  const ended = actions.filter(({ state }) => !OPEN.has(state) && state !== 'superseded')
  ended.forEach((action, place) => {
    const before = ended[place - 1]
    if (before && before.finished_at_ms! > action.finished_at_ms!)
      dossier.findings.note(
        'inversions',
        `actions of ${instance_id}`,
        `${action.number} ended at ${at(action.finished_at_ms)}, ${before.number} at ${at(before.finished_at_ms)}`,
      )
  })
}

/** Every call that switches a machine is for an action whose turn it is; what was done before it was ours is nobody's. */
function judgeCalls(dossier: Dossier, instance_id: string, machine: Machine): void {
  const actions = dossier.actions_of.get(instance_id) ?? []
  const ours_ms = (dossier.instances.get(instance_id)?.created_at_ms ?? 0) - dossier.clock_offset_ms
  for (const call of powerCalls(machine)) {
    if (call.at_ms < ours_ms) continue
    const asked = actions.filter((action) => {
      const [from_ms, to_ms] = windowOf(dossier, action)
      // What was on its way when it was superseded may yet arrive.
      const late_ms = action.state === 'superseded' ? dossier.grace_ms : 0
      return isFor(action, call) && from_ms <= call.at_ms && call.at_ms <= to_ms + late_ms
    })
    const what = `the ${call.verb} of machine ${machine.provider_id} at ${machine.cloud.name} came at ${at(call.at_ms)}`
    if (!asked.length)
      dossier.findings.note('phantoms', `machine ${machine.provider_id}`, `${what}, and nobody had asked for it`)
    else if (!asked.some((action) => isItsTurn(dossier, action, actions, call.at_ms)))
      dossier.findings.note(
        'inversions',
        `actions of ${asked[0]!.instance_id}`,
        `${what}, before the action in front of it was over`,
      )
  }
}

const isItsTurn = (dossier: Dossier, action: ActionRow, actions: readonly ActionRow[], at_ms: number): boolean =>
  actions.every((before) => before.number >= action.number || windowOf(dossier, before)[1] <= at_ms)
