/**
 * The service as a process that kills itself at a chosen point: before or after a commit, before or after a call to a
 * cloud or a hook. Points are found by running, not listed: a commit is named by the function of ours that makes it, a
 * call by method and path. Configuration in the environment as JSON, see `ChildConfiguration`.
 */

import { channel } from 'node:diagnostics_channel'
import { appendFileSync, readFileSync } from 'node:fs'
import pg from 'pg'
import { type ChildService, startChildService } from '../support/child-service.ts'

export interface ChildConfiguration extends ChildService {
  /** Every point that was passed is appended here, a line each. */
  readonly points_file: string
  /** Die at whichever of these is passed first. */
  readonly die_at: readonly string[]
}

const configuration = JSON.parse(process.env.KILL_CHILD!) as ChildConfiguration
const deadly = new Set(configuration.die_at)

/** Passes a point: writes it down, and dies there if that was asked for. */
function pass(point: string): void {
  appendFileSync(configuration.points_file, `${point}\n`)
  if (!deadly.has(point)) return
  process.kill(process.pid, 'SIGKILL')
  for (;;); // the signal is on its way
}

// Far enough back through the query builder to the function that asked for the transaction.
Error.stackTraceLimit = 60
const ROOT = new URL('../../', import.meta.url).href
const FRAME = /(?:\(|at (?:async )?)(file:[^()]+?):(\d+):\d+\)?$/

/**
 * The functions of the store that are behind a changing statement: the one whose code the transaction runs, and the one
 * that waits for it. Found by line, since what hands a promise on without waiting has no frame of its own.
 */
function siteOf(stack: string): string {
  const frames = stack.split('\n').flatMap((line) => {
    const [, file, number] = FRAME.exec(line) ?? []
    if (!file) return []
    if (file.includes('/kysely/')) return ['builder']
    const path = file.startsWith(ROOT) ? file.slice(ROOT.length) : ''
    return /^(store|activities|worker|api)\//.test(path) && path !== 'store/database.ts'
      ? [functionAt(path, Number(number))]
      : []
  })
  const first = frames.findIndex((frame) => frame !== 'builder')
  if (first < 0) return 'unknown'
  const boundary = frames.indexOf('builder', first)
  const own = frames.slice(first, boundary < 0 ? first + 1 : boundary)
  // Changes with an idempotency key share one transaction function; they are told apart by what they do in it.
  const inside =
    own.findLast((frame) => frame.startsWith('store/') && !frame.includes('/idempotency.ts')) ?? own.at(-1)!
  const outside = boundary < 0 ? undefined : frames.slice(boundary).find((frame) => frame !== 'builder')
  return [...new Set([inside, ...(outside?.startsWith('store/') ? [outside] : [])])].join(' for ')
}

const sources = new Map<string, string[]>()
const DECLARATION = /^(?:export )?(?:(?:async )?function|const) (\w+)/

function functionAt(path: string, line: number): string {
  const lines = sources.get(path) ?? readFileSync(new URL(path, ROOT), 'utf8').split('\n')
  sources.set(path, lines)
  for (let at = line; at > 0; at--) {
    const name = DECLARATION.exec(lines[at - 1]!)?.[1]
    if (name) return `${path} ${name}`
  }
  return path
}

const CHANGES = /\binsert into|(?<!for )(?<!no key )\bupdate\b|\bdelete from/i

type Query = (...args: unknown[]) => unknown
const prototype = pg.Client.prototype as unknown as { query: Query }
const original = prototype.query
/** Open transactions by connection, with the site of the first change. */
const transactions = new WeakMap<object, { site: string | null }>()
prototype.query = function query(this: object, ...args: unknown[]): unknown {
  const [config] = args
  const text = typeof config === 'string' ? config : String((config as { text?: string } | undefined)?.text ?? '')
  const site = () => siteOf(new Error('where').stack ?? '')
  if (/^(begin|start transaction)/i.test(text)) transactions.set(this, { site: null })
  const own = transactions.get(this)
  const changes = CHANGES.test(text)
  if (own && changes) own.site ??= site()
  const commits = /^commit/i.test(text)
  if (/^(commit|rollback)/i.test(text)) transactions.delete(this)
  if (own ? !(commits && own.site) : !changes) return original.apply(this, args)
  const point = `commit ${own?.site ?? site()}`
  pass(`${point} before`)
  const result = original.apply(this, args)
  if (result instanceof Promise) {
    return result.then((value: unknown) => {
      pass(`${point} after`)
      return value
    })
  }
  return result
}

// Calls of undici, which providers and hooks go by, tell of themselves.
const calls = new WeakMap<object, string>()
const nameOf = (request: { method: string; path: string }): string =>
  `call ${request.method} ${request.path
    .replace(/\?.*/, '')
    .replace(/[0-9a-f]{8}-[0-9a-f-]{27}|i-[0-9a-f]+/g, ':id')
    .replace(/\/clouds\/[^/]+/, '/clouds/:cloud')
    .replace(/\/names\/[^/]+/, '/names/:name')}`
channel('undici:request:create').subscribe((message) => {
  const { request } = message as { request: { method: string; path: string } }
  calls.set(request, nameOf(request))
  pass(`${nameOf(request)} before`)
})
channel('undici:request:headers').subscribe((message) => {
  const { request } = message as { request: object }
  const name = calls.get(request)
  if (name) pass(`${name} after`)
})

const service = await startChildService(configuration)
process.stdout.write(`${JSON.stringify({ ready: true, url: service.url })}\n`)
