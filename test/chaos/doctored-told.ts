/** The good run with what was told of it doctored: events, their causes, and what receivers got. */
import { type Cases, pick, receipt, receipts, retell, sec, tell, untell } from './builders.ts'

export const told: Cases = {
  gaps: {
    'a delivered event was never received': (ledgers) => {
      const received = receipts(ledgers)
      received.splice(received.indexOf(receipt(ledgers, 'past:4')), 1)
    },
    'an event was refused and never sent again': (ledgers) => {
      receipt(ledgers, 'past:4').answered_status = 500
    },
    'an event that the hook takes has no delivery': (ledgers) => {
      const received = receipts(ledgers)
      received.splice(received.indexOf(receipt(ledgers, 'past:4')), 1)
      ledgers.record.deliveries = ledgers.record.deliveries.filter(({ event_id }) => event_id !== 'past:4')
    },
    'a delivery was given up though it was never refused': (ledgers) => {
      const received = receipts(ledgers)
      received.splice(received.indexOf(receipt(ledgers, 'past:4')), 1)
      ledgers.record.deliveries.find(({ event_id }) => event_id === 'past:4')!.state = 'exhausted'
    },
    'a delivery was cancelled though nobody asked': (ledgers) => {
      const received = receipts(ledgers)
      received.splice(received.indexOf(receipt(ledgers, 'past:4')), 1)
      ledgers.record.deliveries.find(({ event_id }) => event_id === 'past:4')!.state = 'cancelled'
    },
    'a sequence is missing in the record': (ledgers) => {
      untell(ledgers, 'past:4')
      retell(ledgers, 'past:5', { cause: pick(ledgers.record.events, 'past:3').cause })
    },
    'a sequence is there twice': (ledgers) => {
      const { at_ms, type, from, to } = pick(ledgers.record.events, 'brief:5')
      tell(ledgers, { id: 'double', resource_type: 'order', resource_id: 'brief', sequence: 5, type, at_ms, from, to })
    },
    'a resource has no event': ({ record }) => {
      record.leases.push({ ...pick(record.leases, 'future'), id: 'silent' })
    },
  },
  inversions: {
    'a later event came first': (ledgers) => {
      const received = receipts(ledgers)
      const [moved] = received.splice(received.indexOf(receipt(ledgers, 'past-1:2')), 1)
      received.splice(received.indexOf(receipt(ledgers, 'past-1:4')) + 1, 0, moved!)
    },
    'an event came while the one before was still being tried': (ledgers) => {
      const received = receipts(ledgers)
      const [again] = received.splice(received.indexOf(receipt(ledgers, 'pair-1:2')), 1)
      received.splice(received.indexOf(receipt(ledgers, 'pair-1:3')) + 1, 0, again!)
    },
    'the record lists events out of order': ({ record }) => {
      const place = record.events.findIndex(({ id }) => id === 'past-1:2')
      const [moved] = record.events.splice(place, 1)
      record.events.splice(record.events.findIndex(({ id }) => id === 'past-1:3') + 1, 0, moved!)
    },
  },
  phantoms: {
    'an event that is not in the record': (ledgers) => {
      receipts(ledgers).push({ ...receipts(ledgers)[0]!, webhook_id: 'evt_unknown' })
    },
    'a body that tells another state': (ledgers) => {
      const received = receipt(ledgers, 'past:5')
      received.body = received.body.replace('"to":"TERMINATING"', '"to":"ACTIVE"')
    },
    'a body with another cause': (ledgers) => {
      const received = receipt(ledgers, 'past:5')
      received.body = received.body.replace('"event":"past:4"', '"event":"past:3"')
    },
    'a body that is not JSON': (ledgers) => {
      receipt(ledgers, 'past:5').body = '<event/>'
    },
    'a second attempt with other bytes': (ledgers) => {
      const received = receipt(ledgers, 'pair-1:2')
      received.body = JSON.stringify(JSON.parse(received.body), null, 1)
    },
    "an event of another project's": (ledgers) => {
      pick(ledgers.record.events, 'early-bird:5').project = 'blue'
    },
    'an event that the hook did not ask for': (ledgers) => {
      const [hook] = ledgers.record.hooks
      const types = ['instance.*', 'order.*', 'lease.created', 'lease.started', 'lease.updated', 'lease.ending']
      hook!.filter = { types: [...types, 'lease.ended', 'lease.before_end', 'deployment.*'] }
    },
  },
  stuck: {
    'an order is open without a blocker': ({ record }) => {
      pick(record.orders, 'held').blocker = null
    },
    'an order waits for a try that is long past': ({ record }) => {
      pick(record.orders, 'held').blocker!.next_try_at_ms = sec(100)
    },
    'a lease does not come to its end': (ledgers) => {
      pick(ledgers.record.leases, 'past').state = 'TERMINATING'
      untell(ledgers, 'past:6')
    },
    'an instance does not come up': (ledgers) => {
      pick(ledgers.record.instances, 'pair-2').state = 'starting'
      retell(ledgers, 'pair-2:2', { to: 'starting' })
    },
    'a delivery waits without a reason': ({ record }) => {
      record.deliveries.find(({ event_id }) => event_id === 'past:4')!.state = 'pending'
    },
  },
  uncaused: {
    'an event without any cause': (ledgers) => {
      retell(ledgers, 'now-1:3', { cause: { rule: 'guessed' } })
    },
    'an observation without its time': (ledgers) => {
      retell(ledgers, 'now-1:3', { cause: { rule: 'observed', evidence: { raw_state: 'ACTIVE' } } })
    },
    'a request by nobody': (ledgers) => {
      retell(ledgers, 'past:3', { cause: { actor: { user_id: 'user-1' } } })
    },
    'a cause that is not there': (ledgers) => {
      retell(ledgers, 'past:5', { cause: { rule: 'end_due', event: 'evt_unknown' } })
    },
    'causes that lead back to themselves': (ledgers) => {
      retell(ledgers, 'past:4', { cause: { rule: 'before_end_due', event: 'past:5' } })
    },
  },
  duplicates: {
    'an accepted event came again': (ledgers) => {
      receipts(ledgers).push({ ...receipt(ledgers, 'past:5'), at_ms: sec(50), attempt: 2 })
    },
    'a late doubled first attempt': (ledgers) => {
      receipts(ledgers).push({ ...receipt(ledgers, 'pair-1:2'), at_ms: sec(50), attempt: 1 })
    },
  },
}
