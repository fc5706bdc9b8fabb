/** The good run with oddities that are in order. */
import { bodyOf, type DraftLedgers, giveHosts, life, pick, receipt, receipts, sec, tell } from './builders.ts'

/** What looks odd and is in order. */
export const allowed: Record<string, (ledgers: DraftLedgers) => void> = {
  'two leases with a host each': (ledgers) => giveHosts(ledgers, 'compute-1', 'compute-2'),
  'two leases on one host, of which one asked for none': (ledgers) => {
    giveHosts(ledgers, 'compute-1', 'compute-1')
    delete ledgers.client.find(({ kind, resource_id }) => kind === 'lease' && resource_id === 'now')!.promised!.hosts
  },
  'a request nobody knows the outcome of': ({ client }) => {
    client.push({ kind: 'order', resource_id: '', sent_at_ms: sec(3), at_ms: sec(4), status: null })
  },
  'an unanswered request for the end excuses it': ({ client }) => {
    client.find(({ kind }) => kind === 'terminate')!.status = null
  },
  'an unanswered extension may have counted': ({ client, record }) => {
    const promised = { end_at_ms: sec(9_500) }
    client.push({ kind: 'extend', resource_id: 'now', sent_at_ms: sec(50), at_ms: sec(51), status: null, promised })
    pick(record.leases, 'now').end_at_ms = sec(9_500)
  },
  'a delivery that waits with a reason': (ledgers) => {
    const received = receipts(ledgers)
    received.splice(received.indexOf(receipt(ledgers, 'past:6')), 1)
    const row = ledgers.record.deliveries.find(({ event_id }) => event_id === 'past:6')!
    Object.assign(row, { state: 'waiting', reason: 'schedule' })
  },
  'a delivery that was exhausted': (ledgers) => {
    receipt(ledgers, 'past:6').answered_status = 500
    ledgers.record.deliveries.find(({ event_id }) => event_id === 'past:6')!.state = 'exhausted'
  },
  'an event sent again by hand, behind later ones': (ledgers) => {
    receipts(ledgers).push({ ...receipt(ledgers, 'pair-1:2'), at_ms: sec(50), trigger: 'manual' })
  },
  'a ping': (ledgers) => {
    receipts(ledgers).unshift({ ...receipts(ledgers)[0]!, webhook_id: 'evt_ping', body: '{"type":"hook.ping"}' })
  },
  'an event that came about while the record was read': (ledgers) => {
    receipts(ledgers).push({ ...receipt(ledgers, 'past:6'), webhook_id: 'evt_late', at_ms: ledgers.read_since_ms })
  },
  'a late machine that has just turned up': ({ clouds, collected_at_ms }) => {
    const [first] = clouds[1]!.machines
    const fresh = { created_at_ms: collected_at_ms - 1_000, gone_at_ms: null, state: 'pending' }
    clouds[1]!.machines.push({
      ...first!,
      ...fresh,
      provider_id: 'm-fresh',
      attempt_id: 'a-brief-1-1',
      running_at_ms: null,
    })
  },
  'a failed machine that was replaced at once': ({ clouds }) => {
    const first = clouds[0]!.machines[0]!
    const failed = { state: 'terminated', running_at_ms: null, failed_at_ms: sec(9.9), gone_at_ms: sec(30) }
    clouds[0]!.machines.push({ ...first, ...failed, provider_id: 'm-failed', created_at_ms: sec(9) })
  },
  'a member that a person ended leaves a partial order': (ledgers) => {
    const { record, client } = ledgers
    client.push({ kind: 'terminate', resource_id: 'pair-2', sent_at_ms: sec(50), at_ms: sec(50), status: 202 })
    pick(record.instances, 'pair-2').state = 'terminated'
    pick(record.orders, 'pair').partial = true
    record.clouds[0]!.claimed = 2
    Object.assign(life(ledgers, 'm-pair-2'), {
      state: 'terminated',
      delete_requested_at_ms: sec(51),
      gone_at_ms: sec(52),
    })
    const told = { id: 'pair-2:3', resource_type: 'instance', resource_id: 'pair-2', sequence: 3, from: 'running' }
    const cause = { rule: 'deletion_confirmed', evidence: { observed_at: new Date(sec(53)).toISOString() } }
    tell(ledgers, { ...told, type: 'instance.state_changed', to: 'terminated', at_ms: sec(53), cause })
  },
  'the machine of a lease that goes on died, and its lease will end what is left': (ledgers) => {
    Object.assign(life(ledgers, 'm-now-1'), { state: 'failed', failed_at_ms: sec(90) })
    pick(ledgers.record.instances, 'now-1').state = 'failed'
    pick(ledgers.record.orders, 'of-now').state = 'failed'
    const told = { type: 'instance.state_changed', from: 'running', to: 'failed', at_ms: sec(91) }
    const evidence = { raw_state: 'ERROR', observed_at: new Date(sec(91)).toISOString() }
    const cause = { rule: 'observed', evidence }
    tell(ledgers, { ...told, id: 'now-1:4', resource_type: 'instance', resource_id: 'now-1', sequence: 4, cause })
    const follows = { rule: 'no_item_left', event: 'now-1:4' }
    tell(ledgers, {
      ...told,
      id: 'of-now:3',
      type: 'order.state_changed',
      resource_type: 'order',
      resource_id: 'of-now',
      sequence: 3,
      cause: follows,
    })
  },
  'a deleted hook, whose rest was cancelled': (ledgers) => {
    const { record, client } = ledgers
    client.push({ kind: 'end', resource_id: 'hook', sent_at_ms: sec(39.5), at_ms: sec(39.5), status: 204 })
    record.hooks = []
    const rest = new Set(record.events.filter(({ at_ms }) => at_ms > sec(41)).map(({ id }) => id))
    record.deliveries = record.deliveries.filter(({ event_id }) => !rest.has(event_id))
    const receiver = ledgers.receivers[0]!
    receiver.deliveries = receiver.deliveries.filter(({ at_ms }) => at_ms < sec(39))
    for (const row of record.deliveries) if (pick(record.events, row.event_id).at_ms > sec(39)) row.state = 'cancelled'
  },
  'bytes of another format': (ledgers) => {
    ledgers.record.hooks[0]!.format = 'xml'
    for (const received of receipts(ledgers)) received.body = `<event id="${received.webhook_id}"/>`
  },
  'bodies with fields in another order': (ledgers) => {
    for (const received of receipts(ledgers)) {
      const event = pick(ledgers.record.events, received.webhook_id)
      const { data, ...rest } = JSON.parse(bodyOf(event)) as Record<string, unknown>
      received.body = JSON.stringify({ data, ...rest })
    }
  },
}
