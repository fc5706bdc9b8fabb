/** A database of its own for a test: made from a migrated template, dropped at the end. */
import { createHash, randomBytes } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { sql } from 'kysely'
import pg from 'pg'
import { inject } from 'vitest'
import { openStore, type Store } from '../../store/database.ts'
import { type Hints, openHints } from '../../store/hints.ts'
import { migrate } from '../../store/migrate.ts'
import { requireNoneInDatabase } from './secrets.ts'

export interface FreshStore {
  readonly store: Store
  readonly hints: Hints
  readonly database_url: string
  close(): Promise<void>
}

const TEMPLATE_LOCK = 4_805_100

/** Opens a fresh, migrated record. */
export async function freshStore(): Promise<FreshStore> {
  const admin_url = inject('database_url')
  const template = await ensureTemplate(admin_url)
  const name = `test_${randomBytes(6).toString('hex')}`
  await administrate(admin_url, async (admin) => {
    await admin.query(`select pg_advisory_lock(${TEMPLATE_LOCK})`) // one copy of a template at a time
    await admin.query(`create database ${name} template ${template}`)
  })
  const database_url = withDatabase(admin_url, name)
  const store = openStore(database_url)
  const hints = openHints(store, database_url)
  return {
    store,
    hints,
    database_url,
    async close() {
      await hints.close()
      await store.close()
      try {
        await administrate(database_url, requireNoneInDatabase)
      } finally {
        await administrate(admin_url, (admin) => admin.query(`drop database if exists ${name} with (force)`))
      }
    },
  }
}

declare module 'vitest' {
  interface ProvidedContext {
    database_url: string
  }
}

const MIGRATIONS = new URL('../../store/migrations/', import.meta.url)

/** The template, named after what the migrations say: a changed one is a new template. */
async function ensureTemplate(admin_url: string): Promise<string> {
  const digest = createHash('sha256')
  for (const file of (await readdir(MIGRATIONS)).toSorted()) digest.update(await readFile(new URL(file, MIGRATIONS)))
  const name = `template_${digest.digest('hex').slice(0, 16)}`
  await administrate(admin_url, async (admin) => {
    await admin.query(`select pg_advisory_lock(${TEMPLATE_LOCK})`)
    const { rowCount } = await admin.query('select from pg_database where datname = $1', [name])
    if (rowCount) return
    await admin.query(`drop database if exists ${name}_draft with (force)`)
    await admin.query(`create database ${name}_draft`)
    const store = openStore(withDatabase(admin_url, `${name}_draft`), { size: 1 })
    await migrate(store.db)
    await store.close()
    await admin.query(`alter database ${name}_draft rename to ${name}`)
  })
  return name
}

async function administrate<T>(admin_url: string, job: (admin: pg.Client) => Promise<T>): Promise<T> {
  const admin = new pg.Client({ connectionString: admin_url })
  admin.on('error', () => {})
  await admin.connect()
  try {
    return await job(admin)
  } finally {
    await admin.end()
  }
}

function withDatabase(url: string, name: string): string {
  const changed = new URL(url)
  changed.pathname = `/${name}`
  return changed.href
}

/** Statements of a test's database that wait for a lock: what to await where one transaction is to stand behind another. */
export async function blockedStatements({ db }: Store): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'`.execute(db)
  return rows[0]!.count
}
