/**
 * All clouds of one server: their configuration and faults in memory, written through to the file store, and the one
 * timer that carries out what is due. What fell due while the process was dead is carried out at its start.
 */
import { resolve } from 'node:path'
import {
  type CloudConfiguration,
  type CloudConfigurationInput,
  cloudConfiguration,
  type Fault,
} from './configuration.ts'
import { appendLedger } from './ledger.ts'
import { carryOutDue } from './lifecycle.ts'
import type { Due } from './records.ts'
import { Store } from './store.ts'

const LONGEST_TIMER_MS = 3_600_000

/** One cloud in memory. */
export interface Cloud {
  readonly name: string
  /** As it came in; kept so that a change can be merged into it. */
  input: CloudConfigurationInput
  configuration: CloudConfiguration
  readonly faults: Fault[]
  /** Calls still allowed by the rate limit, and when that was reckoned. */
  allowance: { calls: number; at: number } | null
  /** The ledger line at which it was last cut to its length. */
  trimmed_seq: number
}

export class World {
  readonly store: Store
  readonly #clouds = new Map<string, Cloud>()
  #timer: NodeJS.Timeout | null = null
  #closed = false

  constructor(folder: string) {
    this.store = new Store(resolve(folder))
    for (const row of this.store.all<{ name: string; input: string }>('SELECT name, input FROM clouds')) {
      const faults = this.store
        .all<{ body: string }>('SELECT body FROM faults WHERE cloud = ?', row.name)
        .map(({ body }) => JSON.parse(body) as Fault)
        .sort((one, other) => one.number - other.number)
      this.#clouds.set(row.name, { ...configured(row.name, JSON.parse(row.input)), faults })
    }
    this.advance()
  }

  cloud(name: string): Cloud | undefined {
    return this.#clouds.get(name)
  }

  clouds(): Cloud[] {
    return [...this.#clouds.values()]
  }

  /** Creates the cloud or replaces its configuration; machines and faults stay. Throws ZodError on bad input. */
  configure(name: string, input: CloudConfigurationInput): Cloud {
    const fresh = configured(name, input)
    const known = this.#clouds.get(name)
    this.store.transaction(() => {
      this.store.run(
        'INSERT INTO clouds (name, input) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET input = excluded.input',
        name,
        JSON.stringify(input),
      )
      appendLedger(this.store, name, 'control', { action: 'configured', configuration: withoutKeys(input) })
    })
    if (!known) {
      this.#clouds.set(name, fresh)
      return fresh
    }
    known.input = fresh.input
    known.configuration = fresh.configuration
    known.allowance = null
    return known
  }

  /** Forgets machines, faults, ledger and what is due; the configuration stays. */
  reset(cloud: Cloud): void {
    this.store.transaction(() => {
      for (const table of ['machines', 'faults', 'due', 'ledger']) {
        this.store.run(`DELETE FROM ${table} WHERE cloud = ?`, cloud.name)
      }
      this.store.run('UPDATE clouds SET machines_made = 0, calls = 0 WHERE name = ?', cloud.name)
      appendLedger(this.store, cloud.name, 'control', { action: 'reset' })
    })
    cloud.faults.length = 0
    cloud.allowance = null
    cloud.trimmed_seq = 0
  }

  remove(cloud: Cloud): void {
    this.reset(cloud)
    this.store.transaction(() => {
      this.store.run('DELETE FROM ledger WHERE cloud = ?', cloud.name)
      this.store.run('DELETE FROM clouds WHERE name = ?', cloud.name)
    })
    this.#clouds.delete(cloud.name)
  }

  /** Counts one up and returns the new count: how manieth machine or call of this cloud. */
  count(cloud: Cloud, what: 'machines_made' | 'calls'): number {
    const row = this.store.one<{ count: number }>(
      `UPDATE clouds SET ${what} = ${what} + 1 WHERE name = ? RETURNING ${what} AS count`,
      cloud.name,
    )
    return row?.count ?? 0
  }

  /** Puts something on file to be carried out `delay_ms` from now. */
  schedule(cloud: Cloud, delay_ms: number, due: Due): void {
    this.store.addDue(cloud.name, Date.now() + Math.round(delay_ms), due)
    // Only after the running transaction is it known what comes first.
    queueMicrotask(() => this.#arm())
  }

  /** Carries out all that is due by now. Called before each request, so that an answer is never behind the clock. */
  advance(): void {
    for (;;) {
      const next = this.store.nextDue()
      if (!next || next.at > Date.now()) break
      this.store.transaction(() => {
        this.store.run('DELETE FROM due WHERE number = ?', next.number)
        const cloud = this.#clouds.get(next.cloud)
        if (cloud) carryOutDue(this, cloud, next.due)
      })
    }
    this.#arm()
  }

  close(): void {
    this.#closed = true
    if (this.#timer) clearTimeout(this.#timer)
    this.store.close()
  }

  #arm(): void {
    if (this.#closed) return
    if (this.#timer) clearTimeout(this.#timer)
    const next = this.store.nextDue()
    this.#timer = next
      ? setTimeout(() => this.advance(), Math.min(Math.max(0, next.at - Date.now()), LONGEST_TIMER_MS))
      : null
  }
}

/** A configuration fit to be shown: that there are keys, but not which. */
export function withoutKeys<Shape extends Pick<CloudConfigurationInput, 'api_keys'>>(configuration: Shape): Shape {
  if (configuration.api_keys === undefined) return configuration
  const redacted = configuration.api_keys.map((one) =>
    typeof one === 'string' ? '[redacted]' : { ...one, key: '[redacted]' },
  )
  return { ...configuration, api_keys: redacted }
}

function configured(name: string, input: CloudConfigurationInput): Cloud {
  return { name, input, configuration: cloudConfiguration.parse(input), faults: [], allowance: null, trimmed_seq: 0 }
}
