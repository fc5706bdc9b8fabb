/** The good run, doctored: each case is one violation, and the only one. */
import type { Counter } from '../../chaos/checker/judge.ts'
import { type Cases, type DraftLedgers, giveHosts, life, pick, receipt, retell, sec, tell, untell } from './builders.ts'
import { acted } from './doctored-acted.ts'
import { told } from './doctored-told.ts'

export interface Doctored {
  readonly counter: Counter
  readonly what: string
  readonly doctor: (ledgers: DraftLedgers) => void
}

/** What was done, and what was not. */
const done: Cases = {
  shared_hosts: {
    'a lease has the host of another that is not over': (ledgers) => giveHosts(ledgers, 'compute-1', 'compute-1'),
    'a lease has a machine on a host that it did not ask for': (ledgers) => {
      giveHosts(ledgers, 'compute-1', 'compute-2')
      ledgers.client.find(({ kind, resource_id }) => kind === 'lease' && resource_id === 'past')!.promised!.hosts = 0
    },
  },
  lost: {
    'an accepted order is not in the record': ({ record }) => {
      record.orders = record.orders.filter(({ id }) => id !== 'brief')
    },
    'an accepted lease is not in the record': ({ record }) => {
      record.leases = record.leases.filter(({ id }) => id !== 'future')
    },
    'an accepted hook is not in the record': ({ client }) => {
      client.push({ kind: 'hook', resource_id: 'hook-2', sent_at_ms: sec(1), at_ms: sec(2), status: 201 })
    },
    'a terminated order still runs': ({ client }) => {
      client.push({ kind: 'terminate', resource_id: 'of-now', sent_at_ms: sec(50), at_ms: sec(50), status: 202 })
    },
    'a terminated instance still runs': ({ client }) => {
      client.push({ kind: 'terminate', resource_id: 'now-1', sent_at_ms: sec(50), at_ms: sec(50), status: 202 })
    },
    'an ended lease is still active': ({ client }) => {
      client.push({ kind: 'end', resource_id: 'now', sent_at_ms: sec(50), at_ms: sec(50), status: 202 })
    },
    'an order ended though nobody asked': ({ client }) => {
      client.splice(
        client.findIndex(({ kind }) => kind === 'terminate'),
        1,
      )
    },
    'a refused request for its end does not excuse it': ({ client }) => {
      client.find(({ kind }) => kind === 'terminate')!.status = 409
    },
    'a running order has too few instances': ({ record }) => {
      pick(record.orders, 'of-now').count = 2
    },
    'an instance of an ended order runs': (ledgers) => {
      retell(ledgers, 'brief:5', { cause: pick(ledgers.record.events, 'brief:4').cause })
      untell(ledgers, 'brief-1:5')
      untell(ledgers, 'brief-1:4')
      const alive = { state: 'running', delete_requested_at_ms: null, gone_at_ms: null }
      Object.assign(life(ledgers, 'm-brief-1'), alive)
      pick(ledgers.record.instances, 'brief-1').state = 'running'
      ledgers.record.clouds[1]!.claimed = 1
    },
    'a lease outlived its end': ({ record, client, collected_at_ms }) => {
      const end_at_ms = collected_at_ms - 60_000
      pick(record.leases, 'now').end_at_ms = end_at_ms
      for (const entry of client) if (entry.resource_id === 'now') entry.promised!.end_at_ms = end_at_ms
    },
    'a lease did not start': ({ record, client }) => {
      pick(record.leases, 'future').start_at_ms = sec(100)
      for (const entry of client) if (entry.resource_id === 'future') entry.promised!.start_at_ms = sec(100)
    },
    'an accepted extension is not in the record': ({ client }) => {
      const promised = { end_at_ms: sec(9_500) }
      client.push({ kind: 'extend', resource_id: 'now', sent_at_ms: sec(50), at_ms: sec(50), status: 200, promised })
    },
  },
  twins: {
    'two machines of an item serve for long': (ledgers) => {
      Object.assign(life(ledgers, 'm-brief-1'), { delete_requested_at_ms: sec(60), gone_at_ms: sec(61) })
      Object.assign(life(ledgers, 'm-late'), { delete_requested_at_ms: sec(60), gone_at_ms: sec(61) })
      for (const id of ['brief-1:5', 'brief:5']) retell(ledgers, id, { at_ms: sec(62) })
    },
    'a token made a second machine, if only for a moment': ({ clouds }) => {
      const [first] = clouds[0]!.machines
      clouds[0]!.machines.push({
        ...first!,
        provider_id: 'm-twin',
        created_at_ms: sec(20),
        delete_requested_at_ms: sec(20.01),
        gone_at_ms: sec(20.02),
        state: 'terminated',
      })
    },
    'two attempts of an item at a cloud with tokens': ({ clouds, record }) => {
      const [first] = clouds[0]!.machines
      record.attempts.push({ ...record.attempts[0]!, id: 'a-pair-1-2', state: 'surplus' })
      const gone = { delete_requested_at_ms: sec(21), gone_at_ms: sec(22), state: 'terminated' }
      clouds[0]!.machines.push({
        ...first!,
        provider_id: 'm-twin',
        attempt_id: 'a-pair-1-2',
        created_at_ms: sec(20),
        ...gone,
      })
    },
  },
  leaked: {
    'a machine without an attempt': ({ clouds }) => {
      const [first] = clouds[0]!.machines
      clouds[0]!.machines.push({ ...first!, provider_id: 'm-stray', attempt_id: 'a-unknown' })
    },
    'a surplus machine was never removed': (ledgers) => {
      Object.assign(life(ledgers, 'm-late'), {
        delete_requested_at_ms: sec(13.2),
        gone_at_ms: null,
        state: 'terminating',
      })
    },
    'a machine outlived its terminated instance': (ledgers) => {
      Object.assign(life(ledgers, 'm-past-1'), { gone_at_ms: null, state: 'terminating' })
    },
    'an instance runs without its machine': (ledgers) => {
      Object.assign(life(ledgers, 'm-now-1'), { gone_at_ms: sec(100), state: 'terminated' })
      for (const cloud of ledgers.record.clouds) if (cloud.name === 'east') cloud.claimed = 2
    },
  },
  early: {
    'a create before the start of its lease': ({ clouds }) => {
      clouds[0]!.requests[0]!.at_ms = sec(19.999)
    },
    'the start told before its moment': (ledgers) => {
      retell(ledgers, 'now:2', { at_ms: sec(21.9) })
    },
    'a notice before its moment': (ledgers) => {
      retell(ledgers, 'past:4', { at_ms: sec(29.5) })
    },
    'a notice received before its moment': (ledgers) => {
      receipt(ledgers, 'past:4').at_ms = sec(29.5)
    },
    'the end told before the extended end': (ledgers) => {
      retell(ledgers, 'past:5', { at_ms: sec(35) })
    },
    'a deletion before the end': (ledgers) => {
      life(ledgers, 'm-past-1').delete_requested_at_ms = sec(39.9)
    },
    'a deletion before the end, asked for in vain': ({ clouds }) => {
      clouds[0]!.requests.push({ at_ms: sec(36), verb: 'delete', machine_id: 'm-past-1', attempt_id: null })
    },
    'an end before a person asked for it': (ledgers) => {
      for (const id of ['early-bird:4', 'early-bird:5']) retell(ledgers, id, { at_ms: sec(24) })
    },
  },
  disagreements: {
    'running in the record, failed at the cloud': (ledgers) => {
      Object.assign(life(ledgers, 'm-now-1'), { state: 'failed', failed_at_ms: sec(90) })
    },
    'missing in the record, there at the cloud': (ledgers) => {
      pick(ledgers.record.instances, 'pair-2').state = 'missing'
      pick(ledgers.record.orders, 'pair').partial = true
      const { at_ms } = pick(ledgers.record.events, 'pair-2:2')
      const cause = { rule: 'absent', evidence: { observed_at: new Date(at_ms).toISOString() } }
      const told = { id: 'pair-2:3', resource_type: 'instance', resource_id: 'pair-2', sequence: 3, from: 'running' }
      tell(ledgers, { ...told, type: 'instance.state_changed', to: 'missing', at_ms: at_ms + 5, cause })
    },
    'told running before it ran': (ledgers) => {
      retell(ledgers, 'now-1:3', { at_ms: sec(22.7) })
    },
    'told terminated before it was gone': (ledgers) => {
      retell(ledgers, 'past-1:5', { at_ms: sec(40.5) })
    },
    'a state that no event told': ({ record }) => {
      pick(record.orders, 'brief').state = 'failed'
    },
    'an event that leaves another state than the one before': (ledgers) => {
      retell(ledgers, 'past-1:4', { from: 'starting' })
    },
    'a place that was never released': ({ record }) => {
      record.clouds[1]!.claimed = 1
    },
    'a machine without a claim': ({ record }) => {
      record.clouds[0]!.claimed = 2
    },
  },
}

export const doctored: readonly Doctored[] = [done, told, acted]
  .flatMap((cases) => Object.entries(cases))
  .flatMap(([counter, by_name]) =>
    Object.entries(by_name).map(([what, doctor]) => ({ counter: counter as Counter, what, doctor })),
  )
