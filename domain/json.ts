/** What any JSON from outside must be, whatever it is about. */
import type { Problem } from './errors.ts'

const DEPTH_MAX = 32
/** Names that would reach into objects of ours. */
const FORBIDDEN_KEYS: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype'])

/** The first thing wrong with a value: nested too deep, a name that is not taken, a text that the record cannot keep. */
export function jsonProblem(value: unknown, path: string, depth = 0): Problem | undefined {
  if (depth > DEPTH_MAX) return { path: path.split(/[.[]/)[0]!, reason: `is nested more than ${DEPTH_MAX} deep` }
  if (typeof value === 'string') return textProblem(value, path)
  if (typeof value !== 'object' || value === null) return undefined
  if (Array.isArray(value)) return first(value, (item, i) => jsonProblem(item, `${path}[${i}]`, depth + 1))
  return first(Object.entries(value), ([key, inner]) => {
    const wrong = textProblem(key, path)
    if (wrong) return wrong
    if (FORBIDDEN_KEYS.has(key)) return { path: `${path}.${key}`, reason: 'this name is not allowed' }
    return jsonProblem(inner, `${path}.${key}`, depth + 1)
  })
}

function textProblem(text: string, path: string): Problem | undefined {
  if (text.isWellFormed() && !text.includes('\0')) return undefined
  return { path, reason: 'holds a NUL or half a surrogate pair', accepted: ['Unicode text'] }
}

function first<T>(items: readonly T[], check: (item: T, index: number) => Problem | undefined): Problem | undefined {
  for (const [i, item] of items.entries()) {
    const problem = check(item, i)
    if (problem) return problem
  }
  return undefined
}
