/**
 * The part of the good run in which machines were acted on. Order `park`, of deployment `fleet` at cloud `north`, has two:
 * the deployment was stopped one by one, each was started again, the first was rebooted. Then the machine of the second
 * vanished, and another took its place.
 */
import type {
  ActionRow,
  ClientEntry,
  CloudLedger,
  CloudRequest,
  DeploymentActionRow,
  MachineLife,
  OrderRow,
  Promised,
  ReceiptRow,
} from '../../chaos/checker/ledgers.ts'
import { because, observed, requested, type Story, sec } from './story.ts'

export function tellActed(story: Story): void {
  const tell = (
    number: number,
    seconds: number,
    type: string,
    to: string | null,
    cause = observed(sec(seconds - 0.1)),
  ) => story.tell(`instance/park-${number}`, seconds, `instance.${type}`, to, cause)
  story.tell('order/park', 45, 'order.created', 'queued', requested('req-20'))
  for (const number of [1, 2]) {
    tell(number, 45, 'created', 'pending', because('park:1'))
    tell(number, 46, 'state_changed', 'running')
  }
  story.tell('order/park', 46, 'order.state_changed', 'running', because('park-1:2'))
  story.tell('deployment/fleet', 50, 'deployment.wish_changed', 'running', requested('req-21'))
  for (const [number, seconds] of [
    [1, 50],
    [2, 51.2],
  ] as const) {
    tell(number, seconds, 'wish_changed', null, because('fleet:1'))
    tell(number, seconds + 0.7, 'state_changed', 'stopped')
    tell(number, seconds + 0.8, 'action_done', null, because(`park-${number}:4`))
  }
  story.tell('deployment/fleet', 52, 'deployment.action_done', null, because('park-2:5'))
  for (const [number, seconds] of [
    [1, 53],
    [2, 53.5],
  ] as const) {
    tell(number, seconds, 'wish_changed', null, requested(`req-22-${number}`))
    tell(number, seconds + 0.7, 'state_changed', 'running')
    tell(number, seconds + 0.8, 'action_done', null, because(`park-${number}:7`))
  }
  tell(1, 55, 'wish_changed', null, requested('req-23'))
  tell(1, 55.8, 'action_done', null, because('park-1:9'))
  tell(2, 61, 'state_changed', 'missing')
  tell(2, 61.1, 'state_changed', 'pending', because('park-2:9', 'healing'))
  tell(2, 63, 'state_changed', 'running')
}

/** The same in the ledgers. */
export function acted(installation_id: string): {
  client: ClientEntry[]
  cloud: CloudLedger
  order: Partial<OrderRow>
  actions: ActionRow[]
  deployment_actions: DeploymentActionRow[]
  receipts: ReceiptRow[]
} {
  const entry = (resource_id: string, seconds: number, action_id: string, promised: Promised): ClientEntry => {
    const times = { sent_at_ms: sec(seconds - 0.1), at_ms: sec(seconds + 0.01), status: 202 }
    return { kind: 'action', resource_id, ...times, promised, action_id }
  }
  const action = (number: number, instance: number, kind: string, seconds: number, of: string | null = null) => ({
    id: `park-${instance}-${kind}`,
    instance_id: `park-${instance}`,
    number,
    action: kind,
    reboot: kind === 'reboot' ? 'soft' : null,
    deployment_action_id: of,
    state: 'done',
    error: null,
    created_at_ms: sec(seconds),
    finished_at_ms: sec(seconds + 0.8),
  })
  const call = (verb: string, machine: number, seconds: number): CloudRequest => {
    const at_ms = sec(seconds + 0.2)
    const reboot = verb === 'reboot' ? { reboot: 'soft' } : {}
    return { at_ms, verb, machine_id: `m-park-${machine}`, attempt_id: null, ...reboot }
  }
  const machine = (number: number, attempt_id: string, seconds: number, states: [number, string][]): MachineLife => ({
    provider_id: `m-park-${number}`,
    attempt_id,
    installation_id,
    state: 'running',
    host: null,
    created_at_ms: sec(seconds + 0.2),
    running_at_ms: sec(seconds + 0.8),
    failed_at_ms: null,
    delete_requested_at_ms: null,
    gone_at_ms: null,
    states: [[seconds + 0.2, 'pending'] as const, [seconds + 0.8, 'running'] as const, ...states].map(([s, state]) => ({
      at_ms: sec(s),
      state,
    })),
  })
  const listed = (number: number, fate = 'remains', confirmed_at_ms: number | null = null) => ({
    cloud: 'north',
    provider_id: `m-park-${number}`,
    fate,
    confirmed_at_ms,
  })
  const stopped = { ...action(1, 0, 'stop', 50), counts: { waiting: 0, open: 0, done: 2, failed: 0, superseded: 0 } }
  const sums = { released: 0, unknown: 0, unknown_until_ms: null }
  return {
    client: [
      {
        kind: 'order',
        resource_id: 'park',
        sent_at_ms: sec(44.9),
        at_ms: sec(45),
        status: 202,
        promised: { count: 2 },
      },
      entry('fleet', 50, 'fleet-stop', { action: 'stop', wave_size: 1 }),
      entry('park-1', 53, 'park-1-start', { action: 'start' }),
      entry('park-2', 53.5, 'park-2-start', { action: 'start' }),
      entry('park-1', 55, 'park-1-reboot', { action: 'reboot', reboot: 'soft' }),
    ],
    cloud: {
      name: 'north',
      idempotency_tokens: true,
      requests: [
        call('stop', 1, 50),
        call('stop', 2, 51.2),
        call('start', 1, 53),
        call('start', 2, 53.5),
        call('reboot', 1, 55),
      ],
      machines: [
        machine(1, 'a-park-1-1', 45, [
          [50.2, 'stopping'],
          [50.6, 'stopped'],
          [53.2, 'starting'],
          [53.6, 'running'],
          [55.2, 'rebooting'],
          [55.6, 'running'],
        ]),
        {
          ...machine(2, 'a-park-2-1', 45, [
            [51.4, 'stopping'],
            [51.8, 'stopped'],
            [53.7, 'starting'],
            [54.1, 'running'],
            [60, 'terminated'],
          ]),
          state: 'terminated',
          gone_at_ms: sec(60),
        },
        machine(3, 'a-park-2-2', 61.2, []),
      ],
    },
    order: { deployment_id: 'fleet', hold: true, healing: 'replace', created_at_ms: sec(45) },
    actions: [
      action(1, 1, 'stop', 50, 'fleet-stop'),
      action(1, 2, 'stop', 51.2, 'fleet-stop'),
      action(2, 1, 'start', 53),
      action(2, 2, 'start', 53.5),
      action(3, 1, 'reboot', 55),
    ],
    deployment_actions: [{ ...stopped, id: 'fleet-stop', deployment_id: 'fleet', wave_size: 1 }],
    receipts: [
      {
        ...sums,
        order_id: 'park',
        complete: false,
        made: 3,
        undone: 1,
        remaining: 2,
        machines: [listed(1), listed(2, 'vanished', sec(61)), listed(3)],
      },
      {
        ...sums,
        order_id: 'of-past',
        complete: true,
        made: 1,
        undone: 1,
        remaining: 0,
        machines: [{ cloud: 'east', provider_id: 'm-past-1', fate: 'deleted', confirmed_at_ms: sec(41) }],
      },
    ],
  }
}
