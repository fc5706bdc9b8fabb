/** A run in which everything went well, as its ledgers tell it; tests doctor a copy. */
import type { Counter } from '../../chaos/checker/judge.ts'
import type { EventRow, Ledgers, MachineLife, Received } from '../../chaos/checker/ledgers.ts'
import { acted, tellActed } from './acted.ts'
import { because, bodyOf, observed, PROJECT, requested, Story, sec } from './story.ts'

export { bodyOf, sec } from './story.ts'

type Draft<T> = T extends readonly (infer Item)[]
  ? Draft<Item>[]
  : T extends object
    ? { -readonly [Field in keyof T]: Draft<T[Field]> }
    : T
/** Ledgers that may be doctored. */
export type DraftLedgers = Draft<Ledgers>

/** Doctored runs by the one counter that must find them, and what was done. */
export type Cases = Partial<Record<Counter, Record<string, (ledgers: DraftLedgers) => void>>>

const INSTALLATION = 'installation-1'

function machine(provider_id: string, attempt_id: string, seconds: number, deleted?: number): MachineLife {
  return {
    provider_id,
    attempt_id,
    installation_id: INSTALLATION,
    state: deleted === undefined ? 'running' : 'terminated',
    host: `host-of-${provider_id}`,
    created_at_ms: sec(seconds + 0.2),
    running_at_ms: sec(seconds + 0.8),
    failed_at_ms: null,
    delete_requested_at_ms: deleted === undefined ? null : sec(deleted + 0.2),
    gone_at_ms: deleted === undefined ? null : sec(deleted + 0.8),
    states: [],
  }
}

const ORDER = {
  partial: false,
  policy: 'all',
  at_least: null,
  created_at_ms: sec(1),
  hold: false,
  healing: 'none',
} as const

/**
 * Order `pair` runs on two machines; `brief` was terminated by a person, and on its cloud without tokens a late machine
 * was removed; `held` waits with a name. Lease `past` was extended once and ended by itself, `early-bird` by a person
 * before its end, `now` is active, `future` has not begun. Hook `hook` takes everything. What was done with order `park`
 * stands in acted.ts.
 */
export function goodLedgers(): DraftLedgers {
  const story = new Story()
  story.tell('hook/hook', 0, 'hook.created', 'active', requested('req-1'))
  story.tell('cloud/east', 1, 'cloud.state_changed', 'ok', observed(sec(1)))
  story.launch('pair', 'pair-1', 10, requested('req-2'))
  story.events.splice(-1, 1)
  story.tell('instance/pair-2', 10, 'instance.created', 'pending', because('pair:1'))
  story.tell('instance/pair-2', 11, 'instance.state_changed', 'running', observed(sec(10.9)))
  story.tell('order/pair', 11, 'order.state_changed', 'running', because('pair-2:2'))
  story.launch('brief', 'brief-1', 12, requested('req-3'))
  story.tell('order/held', 13, 'order.created', 'held', requested('req-4'))
  story.tell('instance/held-1', 13, 'instance.created', 'pending', because('held:1'))
  for (const [lease, request] of [
    ['past', 'req-5'],
    ['early-bird', 'req-6'],
    ['now', 'req-7'],
    ['future', 'req-8'],
  ] as const)
    story.tell(`lease/${lease}`, 15, 'lease.created', 'PENDING', requested(request))
  story.undo('brief', 'brief-1', 16, requested('req-9'))
  story.tell('lease/past', 20, 'lease.started', 'ACTIVE', because('past:1'))
  story.launch('of-past', 'past-1', 20.5, because('past:2'))
  story.tell('lease/early-bird', 21, 'lease.started', 'ACTIVE', because('early-bird:1'))
  story.tell('lease/now', 22, 'lease.started', 'ACTIVE', because('now:1'))
  story.launch('of-now', 'now-1', 22, because('now:2'))
  story.tell('lease/past', 24, 'lease.updated', null, requested('req-10'))
  story.tell('lease/early-bird', 25, 'lease.wish_changed', null, requested('req-11'))
  story.tell('lease/early-bird', 25, 'lease.ending', 'TERMINATING', because('early-bird:3'))
  story.tell('lease/early-bird', 25, 'lease.ended', 'TERMINATED', because('early-bird:4'))
  story.tell('lease/past', 30, 'lease.before_end', null, because('past:3'))
  story.tell('lease/past', 40, 'lease.ending', 'TERMINATING', because('past:4'))
  story.undo('of-past', 'past-1', 40, because('past:5', 'lease_ended'))
  story.tell('lease/past', 42, 'lease.ended', 'TERMINATED', because('of-past:5'))
  tellActed(story)
  const more = acted(INSTALLATION)

  const row = { project: PROJECT, blocker: null }
  const order = (id: string, state: string, count = 1, lease_id: string | null = null) =>
    ({ ...row, ...ORDER, id, state, count, lease_id, deployment_id: `of-${id}` }) as const
  const instance = (id: string, order_id: string, state: string, cloud: string | null = 'east') =>
    ({
      ...row,
      id,
      order_id,
      state,
      wish: 'run',
      created_at_ms: sec(1),
      cloud,
      provider_id: cloud && `m-${id}`,
    }) as const
  const attempt = (order_id: string, instance_id: string, state: string, cloud = 'east', number = 1) =>
    ({ id: `a-${instance_id}-${number}`, order_id, item: instance_id, instance_id, cloud, state }) as const
  const lease = (id: string, state: string, start: number, end: number, order_id: string | null, notice?: number) => ({
    ...row,
    id,
    state,
    start_at_ms: sec(start),
    end_at_ms: sec(end),
    before_end_at_ms: notice === undefined ? null : sec(notice),
    order_id,
  })
  const entry = (kind: Ledgers['client'][number]['kind'], resource_id: string, seconds: number, promised = {}) =>
    ({ kind, resource_id, sent_at_ms: sec(seconds - 0.1), at_ms: sec(seconds), status: 202, promised }) as const
  const create = (attempt_id: string, seconds: number) =>
    ({ at_ms: sec(seconds + 0.2), verb: 'create', machine_id: null, attempt_id }) as const

  const deliveries: Received[] = story.events
    .filter((event) => event.project !== null && event.resource_type !== 'hook')
    .map((event) => ({
      at_ms: event.at_ms + 20,
      webhook_id: event.id,
      attempt: 1,
      trigger: null,
      body: bodyOf(event),
      answered_status: 200,
    }))
  // One was refused first.
  const refused = deliveries.findIndex((received) => received.webhook_id === 'pair-1:2')
  deliveries.splice(refused, 0, { ...deliveries[refused]!, answered_status: 500 })
  deliveries[refused + 1] = { ...deliveries[refused + 1]!, attempt: 2 }

  const ledgers: Ledgers = {
    read_since_ms: sec(599),
    collected_at_ms: sec(600),
    installation_id: INSTALLATION,
    client: [
      entry('hook', 'hook', 0),
      entry('order', 'pair', 10, { count: 2, policy: 'all' }),
      entry('order', 'brief', 12, { count: 1 }),
      entry('order', 'held', 13, { count: 1 }),
      entry('lease', 'past', 15, { start_at_ms: sec(20), end_at_ms: sec(35), before_end_at_ms: sec(30) }),
      entry('lease', 'early-bird', 15, { start_at_ms: sec(21), end_at_ms: sec(500) }),
      entry('lease', 'now', 15, { start_at_ms: sec(22), end_at_ms: sec(9_000) }),
      entry('lease', 'future', 15, { start_at_ms: sec(8_000), end_at_ms: sec(9_000) }),
      entry('terminate', 'brief', 16),
      entry('extend', 'past', 24, { end_at_ms: sec(40) }),
      entry('end', 'early-bird', 25),
      ...more.client,
    ],
    clouds: [
      {
        name: 'east',
        idempotency_tokens: true,
        requests: [create('a-past-1-1', 20.5), create('a-now-1-1', 22)],
        machines: [
          machine('m-pair-1', 'a-pair-1-1', 10),
          machine('m-pair-2', 'a-pair-2-1', 10),
          machine('m-past-1', 'a-past-1-1', 20.5, 40),
          machine('m-now-1', 'a-now-1-1', 22),
          { ...machine('m-foreign', 'a-foreign', 5), installation_id: 'another' },
        ],
      },
      {
        name: 'west',
        idempotency_tokens: false,
        requests: [],
        machines: [machine('m-brief-1', 'a-brief-1-2', 12, 16), machine('m-late', 'a-brief-1-1', 12.5, 13)],
      },
      more.cloud,
    ],
    receivers: [{ hook_id: 'hook', deliveries }],
    record: {
      orders: [
        order('pair', 'running', 2),
        order('brief', 'terminated'),
        {
          ...order('held', 'held'),
          blocker: { code: 'cloud_disabled', reason: 'all are disabled', next_try_at_ms: sec(601) },
        },
        order('of-past', 'terminated', 1, 'past'),
        order('of-now', 'running', 1, 'now'),
        { ...order('park', 'running', 2), ...more.order },
      ],
      instances: [
        instance('pair-1', 'pair', 'running'),
        instance('pair-2', 'pair', 'running'),
        instance('brief-1', 'brief', 'terminated', 'west'),
        instance('held-1', 'held', 'pending', null),
        instance('past-1', 'of-past', 'terminated'),
        instance('now-1', 'of-now', 'running'),
        instance('park-1', 'park', 'running', 'north'),
        { ...instance('park-2', 'park', 'running', 'north'), provider_id: 'm-park-3' },
      ],
      attempts: [
        attempt('pair', 'pair-1', 'won'),
        attempt('pair', 'pair-2', 'won'),
        attempt('brief', 'brief-1', 'surplus', 'west', 1),
        attempt('brief', 'brief-1', 'won', 'west', 2),
        attempt('of-past', 'past-1', 'won'),
        attempt('of-now', 'now-1', 'won'),
        attempt('park', 'park-1', 'won', 'north'),
        attempt('park', 'park-2', 'won', 'north'),
        attempt('park', 'park-2', 'won', 'north', 2),
      ],
      actions: more.actions,
      deployment_actions: more.deployment_actions,
      receipts: more.receipts,
      leases: [
        lease('past', 'TERMINATED', 20, 40, 'of-past', 30),
        lease('early-bird', 'TERMINATED', 21, 500, null),
        lease('now', 'ACTIVE', 22, 9_000, 'of-now'),
        lease('future', 'PENDING', 8_000, 9_000, null),
      ],
      hooks: [{ id: 'hook', project: PROJECT, state: 'active', format: 'json', filter: {} }],
      events: story.events,
      deliveries: [...new Set(deliveries.map((received) => received.webhook_id))].map((event_id, place) => ({
        id: String(place + 1),
        hook_id: 'hook',
        event_id,
        state: 'delivered',
        reason: null,
      })),
      clouds: [
        { name: 'east', claimed: 3 },
        { name: 'west', claimed: 0 },
        { name: 'north', claimed: 2 },
      ],
      unseen: [],
    },
  }
  return structuredClone(ledgers) as DraftLedgers
}

const found = <Row>(row: Row | undefined, what: string): Row => {
  if (row === undefined) throw new Error(`the good ledgers have no ${what}`)
  return row
}

/** The one with this id. */
export const pick = <Row extends { id: string }>(rows: readonly Row[], id: string): Row =>
  found(
    rows.find((row) => row.id === id),
    id,
  )

/** A machine, whichever cloud has it. */
export const life = (ledgers: DraftLedgers, provider_id: string) =>
  found(
    ledgers.clouds.flatMap((cloud) => cloud.machines).find((row) => row.provider_id === provider_id),
    provider_id,
  )

/** Leases `past` and `now` asked for a host each, which cannot be the same before second 40.8. */
export function giveHosts(ledgers: DraftLedgers, past: string, now: string): void {
  for (const id of ['past', 'now'])
    for (const { kind, resource_id, promised } of ledgers.client)
      if (kind === 'lease' && resource_id === id) promised!.hosts = 1
  life(ledgers, 'm-past-1').host = past
  life(ledgers, 'm-now-1').host = now
}

/** The receipts of the hook. */
export const receipts = (ledgers: DraftLedgers) => found(ledgers.receivers[0], 'receiver').deliveries

/** The last receipt of an event. */
export const receipt = (ledgers: DraftLedgers, event_id: string) =>
  found(
    receipts(ledgers).findLast((received) => received.webhook_id === event_id),
    event_id,
  )

/** Changes an event and what receivers got of it, so that they still agree. */
export function retell(
  ledgers: DraftLedgers,
  event_id: string,
  change: Partial<DraftLedgers['record']['events'][number]>,
) {
  const event = Object.assign(pick(ledgers.record.events, event_id), change)
  for (const received of receipts(ledgers)) if (received.webhook_id === event_id) received.body = bodyOf(event)
}

/** Adds an event to the record, its delivery and its receipt. */
export function tell(
  ledgers: DraftLedgers,
  event: Partial<EventRow> & Pick<EventRow, 'id' | 'resource_id' | 'sequence'>,
) {
  const added = structuredClone({
    ...ledgers.record.events[2]!,
    from: null,
    to: null,
    ...event,
  }) as DraftLedgers['record']['events'][number]
  ledgers.record.events.push(added)
  const receipt_of = { ...receipts(ledgers)[0]!, at_ms: added.at_ms + 20, webhook_id: added.id, body: bodyOf(added) }
  receipts(ledgers).push(receipt_of)
  ledgers.record.deliveries.push({ ...ledgers.record.deliveries[0]!, id: `of-${added.id}`, event_id: added.id })
}

/** Takes an event out of the record and from the receivers. */
export function untell(ledgers: DraftLedgers, event_id: string): void {
  ledgers.record.events = ledgers.record.events.filter((event) => event.id !== event_id)
  ledgers.record.deliveries = ledgers.record.deliveries.filter((row) => row.event_id !== event_id)
  const receiver = found(ledgers.receivers[0], 'receiver')
  receiver.deliveries = receiver.deliveries.filter((received) => received.webhook_id !== event_id)
}
