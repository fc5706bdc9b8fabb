/** The good run with what was done with order `park`, and the receipts, doctored. */
import type { ClientEntry } from '../../chaos/checker/ledgers.ts'
import { type Cases, type DraftLedgers, life, pick, sec, tell } from './builders.ts'

const ask = ({ client }: DraftLedgers, seconds: number, more: Partial<ClientEntry>): void => {
  const times = { sent_at_ms: sec(seconds), at_ms: sec(seconds + 0.1) }
  client.push(structuredClone({ kind: 'action', resource_id: 'park-1', ...times, status: 202, ...more }) as never)
}
const action = ({ record }: DraftLedgers, id: string) => pick(record.actions, id)
const receipt = ({ record }: DraftLedgers, order_id: string) =>
  record.receipts.find((row) => row.order_id === order_id)!
const listed = (ledgers: DraftLedgers, provider_id: string) =>
  receipt(ledgers, 'park').machines.find((row) => row.provider_id === provider_id)!

/** The second machine of `park-2` was never made. */
function unheal(ledgers: DraftLedgers): void {
  const { record, clouds, receivers } = ledgers
  const told = new Set(['park-2:10', 'park-2:11'])
  record.events = record.events.filter(({ id }) => !told.has(id))
  record.deliveries = record.deliveries.filter(({ event_id }) => !told.has(event_id))
  for (const receiver of receivers)
    receiver.deliveries = receiver.deliveries.filter(({ webhook_id }) => !told.has(webhook_id))
  record.attempts = record.attempts.filter(({ id }) => id !== 'a-park-2-2')
  clouds[2]!.machines.pop()
  record.clouds[2]!.claimed = 1
  Object.assign(pick(record.instances, 'park-2'), { state: 'missing', provider_id: 'm-park-2' })
  pick(record.orders, 'park').partial = true
  const { machines } = receipt(ledgers, 'park')
  Object.assign(receipt(ledgers, 'park'), { made: 2, remaining: 1, machines: machines.slice(0, 2) })
}

/** Order `held`, which was to wait for its clouds, gives up; its instance had run before, or not. */
function giveUp(ledgers: DraftLedgers, ran: boolean): void {
  const { record } = ledgers
  Object.assign(pick(record.orders, 'held'), { state: 'failed', hold: true })
  pick(record.instances, 'held-1').state = 'failed'
  const cause = { rule: 'no_cloud_left', event: 'held:1' }
  const say = (type: string, id: string, sequence: number, from: string | null, to: string): void => {
    const resource = { resource_type: type, resource_id: id, type: `${type}.state_changed` }
    tell(ledgers, { ...resource, id: `${id}:${sequence}`, sequence, from, to, at_ms: sec(13 + sequence / 2), cause })
  }
  say('order', 'held', 2, null, 'failed')
  if (ran) say('instance', 'held-1', 2, null, 'running')
  say('instance', 'held-1', ran ? 3 : 2, ran ? 'running' : null, 'failed')
}

/** An instance of `park` fails, by a rule. */
function fail(ledgers: DraftLedgers, instance_id: string, sequence: number, from: string, rule: string): void {
  const at_ms = sec(90)
  const cause = { rule, evidence: { observed_at: new Date(sec(89.9)).toISOString() } }
  const told = { resource_type: 'instance', resource_id: instance_id, type: 'instance.state_changed' }
  tell(ledgers, { ...told, id: `${instance_id}:${sequence}`, sequence, from, to: 'failed', at_ms, cause })
  pick(ledgers.record.instances, instance_id).state = 'failed'
  pick(ledgers.record.orders, 'park').partial = true
}

function failMachine(ledgers: DraftLedgers, instance_id: string, provider_id: string, sequence: number): void {
  fail(ledgers, instance_id, sequence, 'running', 'observed')
  Object.assign(life(ledgers, provider_id), { state: 'failed', failed_at_ms: sec(89) })
}

export const acted: Cases = {
  lost: {
    'an accepted action is not in the record': (ledgers) => {
      ask(ledgers, 70, { action_id: 'unknown' })
    },
    'another action than the one asked for is in the record': (ledgers) => {
      ask(ledgers, 54.9, { action_id: 'park-1-reboot', promised: { action: 'reboot', reboot: 'hard' } })
    },
    'an action was never ended': (ledgers) => {
      Object.assign(action(ledgers, 'park-1-reboot'), { state: 'running', finished_at_ms: null })
    },
    'an action came to nothing and does not say why': (ledgers) => {
      action(ledgers, 'park-1-reboot').state = 'failed'
    },
    'an action was superseded though nothing ended': (ledgers) => {
      action(ledgers, 'park-1-reboot').state = 'superseded'
    },
    'a machine runs though the last that was done was a stop': (ledgers) => {
      const { record, client, clouds } = ledgers
      const undone = new Set(['park-1-start', 'park-1-reboot'])
      record.actions = record.actions.filter(({ id }) => !undone.has(id))
      ledgers.client = client.filter(({ action_id }) => !undone.has(action_id ?? ''))
      clouds[2]!.requests = clouds[2]!.requests.filter(
        ({ verb, machine_id }) => machine_id !== 'm-park-1' || verb === 'stop',
      )
    },
    'an action of a deployment was never ended': ({ record }) => {
      record.deployment_actions[0]!.state = 'running'
    },
    'an action of a deployment is done before all its instances are': ({ record }) => {
      record.deployment_actions[0]!.counts.open = 1
    },
    'an action of a deployment was superseded by nothing': ({ record }) => {
      record.deployment_actions[0]!.state = 'superseded'
    },
    'a deployment was ended, and its order still runs': (ledgers) => {
      ask(ledgers, 70, { kind: 'terminate', resource_id: 'fleet' })
    },
    'the end of a deployment is told, and its order still runs': ({ record }) => {
      const [stop] = record.deployment_actions
      record.deployment_actions.push({
        ...stop!,
        id: 'fleet-end',
        number: 2,
        action: 'terminate',
        created_at_ms: sec(70),
      })
    },
    'a machine that vanished was not replaced': unheal,
    'a machine that failed was not replaced': (ledgers) => {
      failMachine(ledgers, 'park-2', 'm-park-3', 12)
    },
    'a machine that failed was not restarted': (ledgers) => {
      pick(ledgers.record.orders, 'park').healing = 'restart'
      failMachine(ledgers, 'park-2', 'm-park-3', 12)
    },
    'an order that was to wait for its clouds gave up': (ledgers) => giveUp(ledgers, false),
  },
  phantoms: {
    'a reboot is done of which the cloud knows nothing': (ledgers) => {
      ledgers.clouds[2]!.requests.pop()
      const machine = life(ledgers, 'm-park-1')
      machine.states = machine.states.slice(0, -2)
    },
    'a reboot is done that had no effect': (ledgers) => {
      const machine = life(ledgers, 'm-park-1')
      machine.states = machine.states.filter(({ state }) => state !== 'rebooting')
    },
    'a stop is done while the machine ran on': (ledgers) => {
      const machine = life(ledgers, 'm-park-1')
      machine.states = machine.states.filter(({ state }) => !state.startsWith('stop') && state !== 'starting')
    },
    'a machine was stopped though nobody asked': ({ clouds }) => {
      clouds[2]!.requests.push({ at_ms: sec(80), verb: 'stop', machine_id: 'm-park-1', attempt_id: null })
    },
    'a machine on which nothing was ever asked was rebooted': ({ clouds }) => {
      const call = { verb: 'reboot', machine_id: 'm-pair-1', attempt_id: null, reboot: 'hard' }
      clouds[0]!.requests.push({ ...call, at_ms: sec(80) })
    },
  },
  inversions: {
    'a later request has an earlier number': (ledgers) => {
      ask(ledgers, 70, { action_id: 'park-1-stop' })
    },
    'an action ended before the one in front of it': (ledgers) => {
      action(ledgers, 'park-1-start').finished_at_ms = sec(56)
    },
    'a call came before it was its turn': ({ record, clouds }) => {
      pick(record.actions, 'park-1-reboot').created_at_ms = sec(53.1)
      clouds[2]!.requests.push({ ...clouds[2]!.requests.at(-1)!, at_ms: sec(53.3) })
    },
  },
  early: {
    'a wave came before the one in front of it was over': (ledgers) => {
      action(ledgers, 'park-2-stop').created_at_ms = sec(50.5)
    },
  },
  disagreements: {
    'the action of a deployment tells more than there are': ({ record }) => {
      record.deployment_actions[0]!.counts.done = 3
    },
  },
  leaked: {
    'a machine lives that a receipt calls gone': (ledgers) => {
      Object.assign(listed(ledgers, 'm-park-1'), { fate: 'deleted', confirmed_at_ms: sec(90) })
      Object.assign(receipt(ledgers, 'park'), { undone: 2, remaining: 1 })
    },
  },
  receipts: {
    'one does not list a machine that there was': (ledgers) => {
      receipt(ledgers, 'park').machines.shift()
      Object.assign(receipt(ledgers, 'park'), { made: 2, remaining: 1 })
    },
    'one lists a machine that there never was': (ledgers) => {
      receipt(ledgers, 'park').machines.push({ ...listed(ledgers, 'm-park-1'), provider_id: 'm-nowhere' })
      Object.assign(receipt(ledgers, 'park'), { made: 4, remaining: 3 })
    },
    'one lists as remaining what is gone': (ledgers) => {
      Object.assign(listed(ledgers, 'm-park-2'), { fate: 'remains', confirmed_at_ms: null })
      Object.assign(receipt(ledgers, 'park'), { undone: 0, remaining: 3 })
    },
    'one was confirmed before the machine was gone': (ledgers) => {
      listed(ledgers, 'm-park-2').confirmed_at_ms = sec(59.9)
    },
    'one whose sums are not those of its list': (ledgers) => {
      receipt(ledgers, 'park').made = 4
    },
    'one of an order that is over knows less than it could': (ledgers) => {
      Object.assign(receipt(ledgers, 'of-past'), { complete: false, unknown: 1, unknown_until_ms: sec(50) })
    },
    'one is complete with something left': (ledgers) => {
      receipt(ledgers, 'park').complete = true
    },
  },
}

/** What looks odd and is in order. */
export const allowed_acted: Record<string, (ledgers: DraftLedgers) => void> = {
  'an order that waited for its clouds, of which a machine ran and died meanwhile': (ledgers) => giveUp(ledgers, true),
  'an action that failed, and says why': (ledgers) => {
    Object.assign(action(ledgers, 'park-1-reboot'), { state: 'failed', error: 'lost_reply' })
  },
  'an action that the end of its instance superseded': ({ record }) => {
    const [stop] = record.actions
    record.actions.push({
      ...stop!,
      id: 'late',
      instance_id: 'brief-1',
      state: 'superseded',
      deployment_action_id: null,
    })
  },
  'the same asked for again, and answered with what is open': (ledgers) => {
    ask(ledgers, 55.2, { action_id: 'park-1-reboot', promised: { action: 'reboot', reboot: 'soft' } })
  },
  'a call that was sent again': ({ clouds }) => {
    clouds[2]!.requests.push({ ...clouds[2]!.requests[0]!, at_ms: sec(50.4) })
  },
  'a machine that vanished after a person had asked for its stop': (ledgers) => {
    unheal(ledgers)
    pick(ledgers.record.instances, 'park-2').wish = 'stop'
  },
  'a machine that vanished where it would have been restarted': (ledgers) => {
    unheal(ledgers)
    pick(ledgers.record.orders, 'park').healing = 'restart'
  },
  'a machine that no cloud had room to replace': (ledgers) => {
    unheal(ledgers)
    fail(ledgers, 'park-2', 10, 'missing', 'no_cloud_left')
  },
  'an order of which nothing is left after it was withdrawn': ({ client }) => {
    client.find(({ kind }) => kind === 'terminate')!.kind = 'withdraw'
  },
  'a machine that vanished before anybody could see it is in no receipt': ({ clouds }) => {
    const gone = { provider_id: 'm-brief', gone_at_ms: sec(60.9), running_at_ms: null, state: 'terminated' }
    clouds[2]!.machines.push({ ...clouds[2]!.machines[2]!, ...gone, created_at_ms: sec(60.2) })
  },
}
