/** A result for people: what it must reach, and every figure below. */
import Table from 'cli-table3'
import { TARGETS, type Target } from '../targets.ts'
import type { BenchResult, Figures } from './bench.ts'

const STYLE = { head: [], border: [], compact: true }

/** Every number of a result with its path. */
export function* numbersOf(figures: Figures, path: string): Generator<[string, number]> {
  for (const [name, value] of Object.entries(figures)) {
    if (typeof value === 'number') yield [`${path}.${name}`, value]
    else yield* numbersOf(value, `${path}.${name}`)
  }
}

const reaches = (value: number, limit: number, better: Target['better']): boolean =>
  better === 'less' ? value <= limit : value >= limit

/** How a value does against what it must reach and what would lead. */
export function verdict(target: Target, value: number): string {
  if (target.lead !== undefined && reaches(value, target.lead, target.better)) return 'leads'
  return reaches(value, target.must, target.better) ? 'ok' : 'MISSED'
}

/** The tables of one bench. */
export function render(bench: string, result: BenchResult): string {
  const values = new Map((['figures', 'floor', 'ratio'] as const).flatMap((part) => [...numbersOf(result[part], part)]))
  const targets = TARGETS.filter((target) => target.bench === bench && values.has(target.path))
  const judged = new Table({ head: [bench, 'measured', 'must', 'lead', ''], style: STYLE })
  for (const target of targets) {
    const value = values.get(target.path)!
    const limit = (number: number | undefined) =>
      number === undefined ? '' : `${target.better === 'less' ? '≤' : '≥'} ${number}`
    judged.push([target.label, value, limit(target.must), limit(target.lead), verdict(target, value)])
  }
  const all = new Table({ head: [`${bench}: all figures`, ''], style: STYLE })
  for (const [path, value] of values) all.push([path, value])
  const tables = targets.length ? [judged.toString(), all.toString()] : [all.toString()]
  return [...tables, ...(result.void ? [`VOID: ${result.void}`] : [])].join('\n')
}
