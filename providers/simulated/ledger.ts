/**
 * The ledger: an append-only account of every raw request, every answer (or that none arrived), and every change in
 * the life of every machine. Checkers judge from it alone.
 *
 * A request without an answer line means the server died before it answered.
 */
import type { LedgerKind, LedgerLine, MachineRow } from './records.ts'
import type { Store } from './store.ts'

/** Appends one line and returns its number. */
export function appendLedger(
  store: Store,
  cloud: string,
  kind: LedgerKind,
  body: Readonly<Record<string, unknown>>,
  machine_id: string | null = null,
): number {
  return store.run(
    'INSERT INTO ledger (cloud, at, kind, machine_id, body) VALUES (?, ?, ?, ?, ?)',
    cloud,
    Date.now(),
    kind,
    machine_id,
    JSON.stringify(body),
  )
}

/** Appends a change in a machine's life, complete enough to follow it from this line alone. */
export function appendMachineChange(
  store: Store,
  machine: MachineRow,
  change: 'created' | 'state' | 'tagged' | 'gone' | 'vanished' | 'forgotten',
  why: string,
  request_seq: number | null,
): void {
  const tags = JSON.parse(machine.tags) as Record<string, string>
  const { name, size, image, realm, host, created_at } = machine
  const origin = change === 'created' ? { name, size, image, realm, host, token: machine.token } : {}
  appendLedger(
    store,
    machine.cloud,
    'machine',
    { machine_id: machine.id, change, state: machine.state, why, request_seq, created_at, tags, ...origin },
    machine.id,
  )
}

/** Drops what is older than the line `before`, except the lives of machines. */
export function trimLedger(store: Store, cloud: string, before: number): void {
  store.run("DELETE FROM ledger WHERE cloud = ? AND seq < ? AND kind <> 'machine'", cloud, before)
}

/** Lines after `after`, at most `limit`, oldest first. */
export function readLedger(store: Store, cloud: string, after: number, limit: number): LedgerLine[] {
  return store
    .all<{ seq: number; at: number; kind: LedgerKind; body: string }>(
      'SELECT seq, at, kind, body FROM ledger WHERE cloud = ? AND seq > ? ORDER BY seq LIMIT ?',
      cloud,
      after,
      limit,
    )
    .map(({ seq, at, kind, body }) => ({ seq, at, kind, ...(JSON.parse(body) as Record<string, unknown>) }))
}

/** The state a machine had at a moment, or null if it was not to be seen then. */
export function stateAt(store: Store, machine: MachineRow, at: number): MachineRow['state'] | null {
  const row = store.one<{ body: string }>(
    'SELECT body FROM ledger WHERE cloud = ? AND machine_id = ? AND at <= ? ORDER BY seq DESC LIMIT 1',
    machine.cloud,
    machine.id,
    at,
  )
  if (!row) return null
  const { state, change } = JSON.parse(row.body) as { state: MachineRow['state']; change: string }
  return change === 'vanished' || change === 'forgotten' ? null : state
}
