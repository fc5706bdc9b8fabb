/** What operators watch: figures of the record, of this process, and of Temporal's own library, in one scrape. */
import { setTimeout as delay } from 'node:timers/promises'
import { collectDefaultMetrics, Gauge, Histogram, type Registry } from 'prom-client'
import type { Store } from '../store/database.ts'
import { type FigureName, type Figures, LATENESS_WINDOW_S, readFigures } from '../store/figures.ts'
import type { EngineSide } from './engine-side.ts'

/** A scrape does not wait longer for the record. */
const RECORD_TIMEOUT_MS = 2_000

/** Figures of the record: every process tells the same ones, so ask for `max`, never for `sum`. */
const RECORD: Readonly<Record<FigureName, { help: string; labels?: readonly string[] }>> = {
  outbox: { help: 'Wakes that wait to be handed over to Temporal' },
  outbox_age_seconds: { help: 'Age of the oldest wake that is due and not handed over' },
  orders: { help: 'Launch orders by state', labels: ['state'] },
  instances: { help: 'Instances by state', labels: ['state'] },
  leases: { help: 'Leases by state', labels: ['state'] },
  clouds: { help: 'Clouds by state', labels: ['state'] },
  hooks: { help: 'Hooks by state', labels: ['state'] },
  hook_lanes: { help: 'Hooks in trouble: their deliveries go through a lane of their own' },
  deliveries: { help: 'Open deliveries by state', labels: ['state'] },
  waiting: {
    help: 'Nouns that wait, by the code of what blocks them, else by their state',
    labels: ['noun', 'reason'],
  },
  overdue_seconds: { help: 'How long ago the most overdue noun should have been looked at', labels: ['noun'] },
  cloud_list_age_seconds: { help: 'Time since the last complete list of the machines of a cloud', labels: ['cloud'] },
  cloud_up: { help: '1 while a cloud answers and takes our credential', labels: ['cloud'] },
  orphans: { help: 'Machines with our tag that the record does not know', labels: ['cloud'] },
  lateness_seconds: {
    help: `How late due acts of the last ${LATENESS_WINDOW_S} s were done: moments of leases, first attempts for healthy hooks`,
    labels: ['kind', 'quantile'],
  },
}

/** What this process has seen, told by its activities. */
export interface Observed {
  /** A call of a cloud ended: `ok` or the class of its error. */
  call(cloud: string, call: string, outcome: string, seconds: number): void
  /** An attempt to deliver ended: `delivered` or the class of its error. */
  delivery(outcome: string, seconds: number): void
}

export interface MetricsNeeds {
  readonly registry: Registry
  readonly store: Store
  readonly role: 'all' | 'api' | 'worker'
  readonly engine: EngineSide | undefined
}

/** Registers all metrics. A record that is away, or slow, leaves its figures out: a scrape never fails or hangs over it. */
export function registerMetrics({ registry, store, role, engine }: MetricsNeeds): void {
  collectDefaultMetrics({ register: registry })
  registerRecord(registry, store)
  const gauge = (name: string, help: string, collect: (this: Gauge) => void): void => {
    new Gauge({ name: `holdfast_${name}`, help, registers: [registry], collect })
  }
  new Gauge({
    name: 'holdfast_process_info',
    help: '1 for each process, by its role',
    labelNames: ['role'],
    registers: [registry],
  }).set({ role }, 1)
  if (!engine) return
  gauge('worker_heartbeat_timestamp_seconds', 'When this worker last found Temporal and the record well', function () {
    this.set((engine.well_at()?.getTime() ?? 0) / 1_000)
  })
  gauge('engine_healthy', '1 while Temporal answers and the worker polls', function () {
    this.set(engine.healthy() ? 1 : 0)
  })
  gauge('relay_in_flight', 'Hand-overs to Temporal in flight', function () {
    this.set(engine.relay()?.state.in_flight ?? 0)
  })
  gauge('relay_failed', 'Hand-overs to Temporal that failed since this worker last connected', function () {
    this.set(engine.relay()?.state.failed ?? 0)
  })
}

function registerRecord(registry: Registry, store: Store): void {
  const names = Object.keys(RECORD) as FigureName[]
  let asking: Promise<Figures> | undefined
  let scraping: Promise<Figures> | undefined

  /** Metrics are collected side by side: they share one look. What takes too long goes on without this scrape. */
  const current = (): Promise<Figures> => {
    scraping ??= (async () => {
      asking ??= readFigures(store).finally(() => {
        asking = undefined
      })
      const none: Figures = new Map()
      return Promise.race([asking.catch(() => none), delay(RECORD_TIMEOUT_MS, none, { ref: false })])
    })().finally(() => {
      scraping = undefined
    })
    return scraping
  }
  new Gauge({
    name: 'holdfast_record_up',
    help: '1 when the record answered this scrape',
    registers: [registry],
    async collect() {
      this.set((await current()).size ? 1 : 0)
    },
  })
  new Gauge({
    name: 'holdfast_figures_missing',
    help: 'Figures of the record that were left out of this scrape: away, or too slow',
    registers: [registry],
    async collect() {
      this.set(names.length - (await current()).size)
    },
  })
  for (const name of names) {
    const { help, labels = [] } = RECORD[name]
    new Gauge({
      name: `holdfast_${name}`,
      help,
      labelNames: [...labels],
      registers: [registry],
      async collect() {
        const figures = await current()
        this.reset()
        for (const { value, ...of } of figures.get(name) ?? []) this.set(of, value)
        // Without labels a reset leaves a 0, which would be a lie.
        if (!figures.has(name) && !labels.length) this.remove()
      },
    })
  }
}

/** Counts what activities of this process see. */
export function observe(registry: Registry): Observed {
  const calls = new Histogram({
    name: 'holdfast_cloud_call_seconds',
    help: 'Calls of clouds by outcome: ok or the class of the error',
    labelNames: ['cloud', 'call', 'outcome'],
    buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers: [registry],
  })
  const attempts = new Histogram({
    name: 'holdfast_delivery_attempt_seconds',
    help: 'Attempts to deliver by outcome: delivered or the class of the error',
    labelNames: ['outcome'],
    buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers: [registry],
  })
  return {
    call: (cloud, call, outcome, seconds) => calls.observe({ cloud, call, outcome }, seconds),
    delivery: (outcome, seconds) => attempts.observe({ outcome }, seconds),
  }
}
