/**
 * The file store of the simulated cloud: one SQLite file per data folder. What a caller was told is on file before
 * the reply, so a `kill -9` of the process loses no machine. The file is locked: two servers never share one.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite'
import type { Command, Due, MachineRow } from './records.ts'

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS clouds (
    name TEXT PRIMARY KEY, input TEXT NOT NULL, machines_made INTEGER NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  CREATE TABLE IF NOT EXISTS machines (
    cloud TEXT NOT NULL, account TEXT NOT NULL DEFAULT '', id TEXT NOT NULL, number INTEGER NOT NULL, shuffle_key INTEGER NOT NULL,
    name TEXT NOT NULL, size TEXT NOT NULL, image TEXT NOT NULL, realm TEXT, host TEXT, tags TEXT NOT NULL, token TEXT,
    state TEXT NOT NULL, raw_state_override TEXT, boot_outcome TEXT NOT NULL,
    created_at INTEGER NOT NULL, booted_at INTEGER, delete_requested_at INTEGER, gone_at INTEGER,
    gone_how TEXT, listed INTEGER NOT NULL DEFAULT 1, unlisted_at INTEGER,
    PRIMARY KEY (cloud, id)
  ) STRICT;
  CREATE UNIQUE INDEX IF NOT EXISTS machines_token ON machines (cloud, token) WHERE token IS NOT NULL;
  CREATE INDEX IF NOT EXISTS machines_listed ON machines (cloud, listed, number);
  CREATE INDEX IF NOT EXISTS machines_unlisted ON machines (cloud, unlisted_at) WHERE unlisted_at IS NOT NULL;
  CREATE INDEX IF NOT EXISTS machines_alive ON machines (cloud) WHERE gone_at IS NULL;
  CREATE TABLE IF NOT EXISTS faults (cloud TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (cloud, id)) STRICT;
  CREATE TABLE IF NOT EXISTS due (
    number INTEGER PRIMARY KEY AUTOINCREMENT, cloud TEXT NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS due_at ON due (at, number);
  CREATE TABLE IF NOT EXISTS ledger (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, cloud TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
    machine_id TEXT, body TEXT NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS ledger_cloud ON ledger (cloud, seq);
  CREATE INDEX IF NOT EXISTS ledger_machine ON ledger (cloud, machine_id, seq) WHERE machine_id IS NOT NULL;
`

type Value = SQLInputValue

/** Rows in and out; knows nothing of what they mean. */
export class Store {
  readonly #db: DatabaseSync
  readonly #statements = new Map<string, StatementSync>()
  #depth = 0

  constructor(folder: string) {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    this.#db = new DatabaseSync(join(folder, 'simulated-cloud.sqlite'))
    // A write-ahead log with NORMAL survives the death of the process; only a power cut may cost the last moments.
    this.#db.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL')
    this.#db.exec(SCHEMA)
  }

  close(): void {
    this.#db.close()
  }

  /** Runs `work` all or nothing; joins a transaction that is open already. */
  transaction<Result>(work: () => Result): Result {
    if (this.#depth > 0) return work()
    this.#db.exec('BEGIN IMMEDIATE')
    this.#depth += 1
    try {
      const result = work()
      this.#db.exec('COMMIT')
      return result
    } catch (error) {
      this.#db.exec('ROLLBACK')
      throw error
    } finally {
      this.#depth -= 1
    }
  }

  run(sql: string, ...values: Value[]): number {
    return Number(this.#prepare(sql).run(...values).lastInsertRowid)
  }

  /** Rows have the shape of the columns the statement names; the caller says which. */
  all<Row>(sql: string, ...values: Value[]): Row[] {
    return this.#prepare(sql).all(...values) as Row[]
  }

  one<Row>(sql: string, ...values: Value[]): Row | undefined {
    return this.#prepare(sql).get(...values) as Row | undefined
  }

  machine(cloud: string, id: string): MachineRow | undefined {
    return this.one<MachineRow>('SELECT * FROM machines WHERE cloud = ? AND id = ?', cloud, id)
  }

  /** Changes columns of one machine; column names are ours, never a caller's. */
  updateMachine(cloud: string, id: string, changes: Partial<MachineRow>): void {
    const columns = Object.keys(changes)
    const values = Object.values(changes) as Value[]
    const assignments = columns.map((column) => `${column} = ?`).join(', ')
    this.run(`UPDATE machines SET ${assignments} WHERE cloud = ? AND id = ?`, ...values, cloud, id)
  }

  insertMachine(row: MachineRow): void {
    const columns = Object.keys(row)
    const marks = columns.map(() => '?').join(', ')
    this.run(`INSERT INTO machines (${columns.join(', ')}) VALUES (${marks})`, ...(Object.values(row) as Value[]))
  }

  addDue(cloud: string, at: number, due: Due): void {
    this.run('INSERT INTO due (cloud, at, body) VALUES (?, ?, ?)', cloud, at, JSON.stringify(due))
  }

  /** The earliest thing to do, if there is one. */
  nextDue(): { number: number; cloud: string; at: number; due: Due } | undefined {
    const row = this.one<{ number: number; cloud: string; at: number; body: string }>(
      'SELECT number, cloud, at, body FROM due ORDER BY at, number LIMIT 1',
    )
    return row && { number: row.number, cloud: row.cloud, at: row.at, due: JSON.parse(row.body) as Due }
  }

  /** Commands that are still to be carried out late. */
  lateCommands(cloud: string): Command[] {
    return this.all<{ body: string }>('SELECT body FROM due WHERE cloud = ? ORDER BY at', cloud)
      .map((row) => JSON.parse(row.body) as Due)
      .flatMap((due) => (due.kind === 'late' ? [due.command] : []))
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql)
    if (!statement) {
      statement = this.#db.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }
}
