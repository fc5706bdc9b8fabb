import { describe, expect, test } from 'vitest'
import { afterAttempt, judge, parseRetryAfter, RETRY_AFTER_MAX_MS, SCHEDULE_MS } from '../../domain/hook-schedule.ts'

const failure = { verdict: 'failure', status: 500, attempts: 0, unknown_in_row: 0, random: 0 } as const
const NOW = new Date('2026-10-08T12:00:00.000Z')

describe('the schedule', () => {
  test('has 15 attempts over 75 h 53 min 5 s', () => {
    expect(SCHEDULE_MS.length + 1).toBe(15)
    expect(SCHEDULE_MS.reduce((sum, gap) => sum + gap, 0)).toBe(((75 * 60 + 53) * 60 + 5) * 1000)
  })
  test.each(SCHEDULE_MS.map((gap, index) => [index + 2, gap, index] as const))(
    'attempt %i comes %i ms after the one before, and at most a fifth later',
    (_attempt, gap, attempts) => {
      expect(afterAttempt({ ...failure, attempts })).toMatchObject({ state: 'waiting', in_ms: gap, charged: true })
      expect(afterAttempt({ ...failure, attempts, random: 1 }).in_ms).toBe(gap * 1.2)
      expect(afterAttempt({ ...failure, attempts, random: 0.37 }).in_ms).toBeGreaterThanOrEqual(gap)
    },
  )
  test('is exhausted after the 15th failure', () => {
    expect(afterAttempt({ ...failure, attempts: 14 })).toMatchObject({ state: 'exhausted', charged: true })
  })
  test("is the hook's own where it has one", () => {
    const own = { ...failure, schedule_ms: [1_000, 2_000] }
    expect(afterAttempt({ ...own, attempts: 1 })).toMatchObject({ state: 'waiting', in_ms: 2_000 })
    expect(afterAttempt({ ...own, attempts: 2 })).toMatchObject({ state: 'exhausted' })
  })
})

describe('verdicts', () => {
  const statuses = Array.from({ length: 400 }, (_, index) => index + 200)
  test.each(statuses)('status %i', (status) => {
    const expected = status < 300 ? 'success' : status === 410 ? 'disable' : 'failure'
    expect(judge(status)).toBe(expected)
    expect(judge(status, 'abort-message')).toBe(expected === 'failure' ? 'abort' : expected)
    expect(judge(status, ' Disable')).toBe(expected === 'success' ? 'success' : 'disable')
  })
  test('no answer is a failure', () => expect(judge(null)).toBe('failure'))
  test.each([
    ['success', 'delivered', true],
    ['abort', 'aborted', true],
    ['disable', 'parked', true],
    ['own_fault', 'waiting', false],
    ['unknown', 'pending', false],
  ] as const)('%s leads to %s', (verdict, state, charged) => {
    expect(afterAttempt({ ...failure, verdict })).toMatchObject({ state, charged })
  })
  test('the fourth unknown in a row is charged', () => {
    expect(afterAttempt({ ...failure, verdict: 'unknown', unknown_in_row: 2 })).toMatchObject({
      state: 'pending',
      in_ms: 0,
    })
    expect(afterAttempt({ ...failure, verdict: 'unknown', unknown_in_row: 3 })).toMatchObject({
      state: 'waiting',
      in_ms: 5_000,
      charged: true,
    })
  })
})

describe('Retry-After', () => {
  test.each([
    ['120', 120_000],
    ['1.5', 1_500],
    ['0', undefined],
    ['-3', undefined],
    ['soon', undefined],
    ['1e9', undefined],
    ['', undefined],
    ['Thu, 08 Oct 2026 12:01:00 GMT', 60_000],
    ['Thu, 08 Oct 2026 11:59:00 GMT', undefined],
    ['999999999', RETRY_AFTER_MAX_MS],
    ['Thu, 08 Oct 2027 12:00:00 GMT', RETRY_AFTER_MAX_MS],
  ])('%j is %s ms', (value, expected) => expect(parseRetryAfter(value, NOW)).toBe(expected))

  test('lengthens the gap, never shortens it', () => {
    expect(afterAttempt({ ...failure, retry_after_ms: 60_000 })).toMatchObject({ in_ms: 60_000, reason: 'retry_after' })
    expect(afterAttempt({ ...failure, retry_after_ms: 1_000 })).toMatchObject({ in_ms: 5_000, reason: 'schedule' })
  })
  test.each([
    [429, 60_000],
    [503, 60_000],
    [500, 0],
    [408, 0],
  ])('on %i it pauses the hook for %i ms', (status, pause_ms) => {
    expect(afterAttempt({ ...failure, status, retry_after_ms: 60_000 }).pause_ms).toBe(pause_ms)
  })
})
