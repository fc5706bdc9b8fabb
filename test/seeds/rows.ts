/** What an original document asks for, row by row, each held to its word by a test: a row without one fails. */
import { expect, test } from 'vitest'

export type Row = () => Promise<void>

/** Makes a test of each row; rows and tests are to be the same. */
export function everyRow(rows: readonly string[], tests: Readonly<Record<string, Row>>): void {
  test('every row has its test, and every test its row', () => {
    expect(Object.keys(tests).toSorted()).toEqual([...rows].toSorted())
    expect(new Set(rows).size).toBe(rows.length)
  })
  for (const row of rows) test(row, tests[row] ?? (() => Promise.reject(new Error('no test'))))
}
