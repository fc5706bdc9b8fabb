import { inspect } from 'node:util'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { Secret } from '../../domain/secret.ts'

test('a secret is shown by nothing but reveal()', () => {
  const secret = new Secret('open sesame')
  const logged: string[] = []
  pino({}, { write: (line: string) => void logged.push(line) }).warn({ deep: { secret } }, `it is ${secret}`)
  const shown = [JSON.stringify({ secret }), String(secret), inspect({ secret }, { showHidden: true }), ...logged]
  for (const text of shown) expect(text).toContain('[secret]')
  expect(shown.join()).not.toContain('sesame')
  expect(structuredClone({ ...secret })).toEqual({})
  expect(secret.reveal()).toBe('open sesame')
})
