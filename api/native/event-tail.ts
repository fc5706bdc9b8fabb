/** What is new among events, looked up once for everybody who waits for it in this process. */
import { EventEmitter } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { DomainError } from '../../domain/errors.ts'
import { type EventScope, newEvents } from '../../store/event-list.ts'
import type { ApiDeps } from '../context.ts'

const READERS_MAX = 200
const READERS_OF_PROJECT_MAX = 50
/** Between looks where no hint came. */
const LOOK_MS = 1_000
/** Hints come with every commit, also of what is no event: looks are at least so far apart. */
const LOOKS_APART_MS = 20
const RETRY_AFTER_S = 5

/** Readers are streams and waiting requests. While there is one, one loop looks for new events for all of them. */
export class EventTail {
  readonly #deps: ApiDeps
  readonly #bus = new EventEmitter<{ moved: [projects: ReadonlySet<string | null> | null] }>().setMaxListeners(0)
  readonly #readers = new Map<string, number>()
  #count = 0
  #newest: number | undefined
  #following = false

  constructor(deps: ApiDeps) {
    this.#deps = deps
  }

  /** The newest position known. Whoever reads the record after asking has everything up to it. */
  get newest(): number {
    return this.#newest ?? 0
  }

  /** Counts a reader in; the result counts it out. Throws where there are too many. */
  enter(project_id: string): () => void {
    const own = this.#readers.get(project_id) ?? 0
    if (own >= READERS_OF_PROJECT_MAX) throw tooMany(READERS_OF_PROJECT_MAX, 'a project')
    if (this.#count >= READERS_MAX) throw tooMany(READERS_MAX, 'a process')
    this.#count++
    this.#readers.set(project_id, own + 1)
    if (!this.#following) void this.#follow()
    return () => {
      this.#count--
      const left = this.#readers.get(project_id)! - 1
      if (left) this.#readers.set(project_id, left)
      else this.#readers.delete(project_id)
    }
  }

  /** Resolves when there may be something for this reader behind `seen`, after the time, or with the signal. */
  wait(scope: EventScope, seen: number, timeout_ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal.aborted || this.newest > seen) return resolve()
      const moved = (projects: ReadonlySet<string | null> | null) => {
        if (!projects || projects.has(scope.project_id) || (scope.installation && projects.has(null))) done()
      }
      const done = () => {
        clearTimeout(timer)
        this.#bus.off('moved', moved)
        signal.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, timeout_ms)
      this.#bus.on('moved', moved)
      signal.addEventListener('abort', done, { once: true })
    })
  }

  async #follow(): Promise<void> {
    this.#following = true
    const { hints, store } = this.#deps
    while (this.#count > 0) {
      const hint = hints ? hints.wait(['stamped'], LOOK_MS) : delay(LOOK_MS) // begins before the look: what comes meanwhile counts
      await this.#look(store.db).catch(() => {}) // away: looked for again
      await delay(LOOKS_APART_MS)
      await hint
    }
    this.#newest = undefined
    this.#following = false
  }

  async #look(db: ApiDeps['store']['db']): Promise<void> {
    const before = this.#newest
    const { newest, projects } = await newEvents(db, before)
    if (before !== undefined && newest <= before) return
    this.#newest = newest
    this.#bus.emit('moved', projects)
  }
}

const tooMany = (limit: number, of: string): DomainError =>
  new DomainError('limit_reached', `at most ${limit} streams and waiting requests of ${of} at a time`, {
    retry_after_s: RETRY_AFTER_S,
  })
