import { describe, expect, test } from 'vitest'
import { COUNTERS, judge } from '../../chaos/checker/judge.ts'
import { allowed } from './allowed.ts'
import { goodLedgers, life, pick, receipts, sec } from './builders.ts'
import { doctored } from './doctored.ts'
import { allowed_acted } from './doctored-acted.ts'

const OPTIONS = { settle_ms: 10_000, watch_period_ms: 5_000 }
const CLEAN = Object.fromEntries(COUNTERS.map((counter) => [counter, 0]))

describe('a run in which everything went well', () => {
  test('passes, and tells how late its leases acted', () => {
    const verdict = judge(goodLedgers(), OPTIONS)
    expect(verdict).toMatchObject({ ...CLEAN, ok: true, violations: [], unjudged: [] })
    expect(verdict.late_ms).toEqual({ p50: 200, p99: 700, max: 700 })
  })

  test.each(Object.entries({ ...allowed, ...allowed_acted }))('passes with %s', (_what, doctor) => {
    const ledgers = goodLedgers()
    doctor(ledgers)
    expect(judge(ledgers, OPTIONS)).toMatchObject({ ...CLEAN, ok: true, violations: [] })
  })

  test('passes when the clock of the record is ahead by years', () => {
    const ahead_ms = 3 * 365 * 86_400_000
    const ledgers = goodLedgers()
    const { record, client } = ledgers
    for (const event of record.events) event.at_ms += ahead_ms
    for (const action of [...record.actions, ...record.deployment_actions]) {
      action.created_at_ms += ahead_ms
      action.finished_at_ms! += ahead_ms
    }
    for (const machine of record.receipts.flatMap(({ machines }) => machines))
      if (machine.confirmed_at_ms !== null) machine.confirmed_at_ms += ahead_ms
    for (const received of receipts(ledgers)) {
      const body = JSON.parse(received.body) as { timestamp: string }
      const timestamp = new Date(Date.parse(body.timestamp) + ahead_ms).toISOString()
      received.body = JSON.stringify({ ...body, timestamp })
    }
    for (const moments of [...record.leases, ...client.flatMap((entry) => entry.promised ?? [])]) {
      for (const field of ['start_at_ms', 'end_at_ms', 'before_end_at_ms'] as const)
        if (typeof moments[field] === 'number') moments[field] += ahead_ms
    }
    const shifted = { ...OPTIONS, clock_offset_ms: ahead_ms }
    expect(judge(ledgers, shifted)).toMatchObject({ ...CLEAN, ok: true, violations: [] })
    expect(judge(ledgers, OPTIONS).ok).toBe(false)
  })
})

describe('a violation is found, and nothing else', () => {
  test.each(doctored)('$counter: $what', ({ counter, doctor }) => {
    const ledgers = goodLedgers()
    doctor(ledgers)
    const verdict = judge(ledgers, OPTIONS)
    expect(verdict, verdict.violations.join('\n')).toMatchObject({ ...CLEAN, [counter]: 1, ok: false })
    expect(verdict.violations.length).toBeGreaterThan(0)
    for (const line of verdict.violations) expect(line).toMatch(new RegExp(`^${counter}: .+`))
  })

  test.each(COUNTERS)('%s has at least two cases', (counter) => {
    expect(doctored.filter((entry) => entry.counter === counter).length).toBeGreaterThanOrEqual(2)
  })
})

test('duplicates are counted, and allowed where faults were injected', () => {
  const ledgers = goodLedgers()
  receipts(ledgers).push({ ...receipts(ledgers).at(-1)!, attempt: 2 })
  expect(judge(ledgers, { ...OPTIONS, faults: true })).toMatchObject({ ok: true, duplicates: 1 })
})

test('one machine counts once, however much speaks against it', () => {
  const ledgers = goodLedgers()
  ledgers.clouds[0]!.requests[0]!.at_ms = sec(19)
  life(ledgers, 'm-past-1').created_at_ms = sec(18)
  expect(judge(ledgers, OPTIONS)).toMatchObject({ early: 1 })
})

test('what was not to be read is not judged, and said', () => {
  const ledgers = goodLedgers()
  ledgers.record.events = []
  ledgers.record.deliveries = []
  ledgers.record.unseen = ['events', 'deliveries']
  const verdict = judge(ledgers, OPTIONS)
  expect(verdict).toMatchObject({ ...CLEAN, ok: true })
  expect(verdict.unjudged).toEqual([
    "the record's deliveries were not to be read",
    "the record's events were not to be read",
  ])
})

test('every violation names the resource and a time', () => {
  const ledgers = goodLedgers()
  life(ledgers, 'm-late').gone_at_ms = null
  pick(ledgers.record.events, 'past:4').cause = {}
  for (const line of judge(ledgers, OPTIONS).violations) expect(line).toMatch(/^\w+: .*(m-late|past).*\d{4}-\d\d-\d\dT/)
})
