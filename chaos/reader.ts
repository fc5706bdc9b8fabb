/** Reads lists of the API while its processes die: a page is asked for at one address and the other until it comes. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Json } from './checker/shapes.ts'
import type { Client } from './client.ts'

const PAGE_ROWS = 100
const PAGE_TRIES = 50
const PAGE_TIMEOUT_MS = 5_000
const PAUSE_MS = 100

export interface Reader {
  /** One page; null: it cannot be told now. */
  page(path: string): Promise<Json | null>
  /** All rows of a list; null: it was not answered whole. */
  list(path: string, field: string, query?: Record<string, string>): Promise<Json[] | null>
  /** All rows in one of the states. */
  listStates(path: string, field: string, states: readonly string[]): Promise<Json[] | null>
}

export function openReader(client: Client, signal: AbortSignal): Reader {
  const reader: Reader = {
    async page(path) {
      for (let tries = 1; tries <= PAGE_TRIES && !signal.aborted; tries++) {
        const page = await client.look(path, PAGE_TIMEOUT_MS)
        if (page) return page
        await delay(PAUSE_MS, undefined, { signal }).catch(() => {})
      }
      return null
    },
    async list(path, field, query = {}) {
      const rows: Json[] = []
      for (let cursor: string | null = null; ; ) {
        const search = new URLSearchParams({ ...query, limit: String(PAGE_ROWS), ...(cursor ? { cursor } : {}) })
        const page = await reader.page(`${path}?${search}`)
        if (!page) return null
        rows.push(...(page[field] as Json[]))
        if (typeof page.next !== 'string') return rows
        cursor = page.next
      }
    },
    async listStates(path, field, states) {
      const rows: Json[] = []
      for (const state of states) {
        const found = await reader.list(path, field, { state })
        if (!found) return null
        rows.push(...found)
      }
      return rows
    },
  }
  return reader
}
