/**
 * What the tests hand over in confidence, or are handed, and a search for it in everything the product leaves behind: rows,
 * histories, log lines, answers. Each database, namespace and log is searched when the test that owns it is done with it.
 */
import { appendFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Client } from '@temporalio/client'
import type pg from 'pg'

/** Fields that hold secrets, as all the dialects and the configuration files call them. */
const CONFIDENTIAL = /secret|password|user_?data|api_key|access_key|^token$/i
/** Shorter and duller ones are found in innocent places; of longer ones the beginning says enough. */
const LENGTH_MIN = 8
const LENGTH_MAX = 100
const CHARACTERS_MIN = 4
/** What we make ourselves: private keys, tokens, secrets of hooks. */
const MADE = ['-----BEGIN [A-Z ]*PRIVATE KEY', 'hft_[A-Za-z0-9_-]{20,}', 'whsec_[A-Za-z0-9+/]{20,}']
const SHOWN_MAX = 5

const given = new Set<string>()

/** Secrets of a body or a file, by the names of their fields. */
export function secretsOf(value: unknown, field = ''): string[] {
  if (typeof value === 'string') return CONFIDENTIAL.test(field) && isTelling(value) ? [value.slice(0, LENGTH_MAX)] : []
  if (Array.isArray(value)) return value.flatMap((one) => secretsOf(one, field))
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([name, inner]) => secretsOf(inner, name))
}

const isTelling = (text: string): boolean => text.length >= LENGTH_MIN && new Set(text).size >= CHARACTERS_MIN

/** From now on these are looked for. */
export function confide(secrets: readonly string[], file?: string): void {
  for (const secret of secrets) {
    if (given.has(secret)) continue
    given.add(secret)
    if (file) appendFileSync(file, `${JSON.stringify(secret)}\n`)
  }
}

/** A text that must hold none; says what it does hold, the secret itself cut. */
export function requireNone(where: string, text: string, secrets: Iterable<string> = given): void {
  const found = [...text.matchAll(patternOf(secrets, 'g'))]
  if (found.length)
    throw new Error(
      `${where} holds ${found.length} secrets: ${found.slice(0, SHOWN_MAX).map(around(text)).join(' | ')}`,
    )
}

/** Every row of every table. */
export async function requireNoneInDatabase(client: pg.Client): Promise<void> {
  const { rows: tables } = await client.query<{ name: string }>(
    `select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`,
  )
  const text = patternOf(given).source
  const bytes = [...given].map((secret) => Buffer.from(secret).toString('hex')) // as bytes are shown
  const pattern = [text, ...bytes].join('|')
  for (const { name } of tables) {
    const { rows } = await client.query<{ row: string }>(
      `select t::text as row from ${name} t where t::text ~ $1 limit ${SHOWN_MAX}`,
      [pattern],
    )
    for (const { row } of rows) requireNone(`a row of ${name}`, row, [...given, ...bytes])
  }
}

/** Every event of every history of a namespace: inputs, results, failures, summaries. */
export async function requireNoneInHistories(client: Client): Promise<void> {
  const readable = (_: string, value: unknown) =>
    value instanceof Uint8Array ? Buffer.from(value).toString('utf8') : value
  for await (const { workflowId, runId } of client.workflow.list()) {
    const history = await client.workflow.getHandle(workflowId, runId).fetchHistory()
    // The clone has the payloads' bytes as they are; the message would write them as base64.
    requireNone(`the history of ${workflowId}`, JSON.stringify(structuredClone(history), readable))
  }
}

/** Every file of a folder of logs, for all that `file` says was confided by anybody. */
export async function requireNoneInLogs(folder: string, file: string): Promise<void> {
  const lines = (await readFile(file, 'utf8').catch(() => '')).split('\n').filter(Boolean)
  const secrets = lines.map((line) => JSON.parse(line) as string)
  for (const name of await readdir(folder)) requireNone(name, await readFile(join(folder, name), 'utf8'), secrets)
}

function patternOf(secrets: Iterable<string>, flags = ''): RegExp {
  // As PostgreSQL reads it, too.
  const literally = [...secrets].map((secret) => secret.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
  return new RegExp([...MADE, ...literally].join('|'), flags)
}

const around =
  (text: string) =>
  (match: RegExpExecArray): string => {
    const before = text.slice(Math.max(0, match.index - 120), match.index)
    return `${before}[${match[0].slice(0, 4)}…]`
  }
