/** What is under way, and what is still open, read from the record itself. */
import pg from 'pg'

export interface InFlight {
  readonly attempts_sent: number
  readonly attempts_unknown: number
  readonly starting: number
  readonly terminating: number
  readonly deliveries_in_flight: number
  readonly deliveries_pending: number
  /** Their start, notice or end comes within a second. */
  readonly leases_due: number
}

/** Grows with what flows and senders do, and with nothing that clients do. */
export interface Motion {
  readonly flows: number
  readonly sends: number
}

export interface RecordView {
  inFlight(): Promise<InFlight>
  motion(): Promise<Motion>
  /** Nouns that are not over, by kind; only what is above zero. */
  open(): Promise<Readonly<Record<string, number>>>
  /** Machines that instances are bound to and that should be there. */
  boundMachines(): Promise<string[]>
  installationId(): Promise<string>
  close(): Promise<void>
}

const IN_FLIGHT = `
  with moments as (
    select unnest(case
      when state = 'PENDING' then array[start_at]
      when state in ('STARTING', 'ACTIVE') then array[end_at, before_end_at] end) as at
    from leases)
  select
    (select count(*)::int from launch_attempts where state = 'sent') as attempts_sent,
    (select count(*)::int from launch_attempts where state = 'unknown') as attempts_unknown,
    (select count(*)::int from instances where state = 'starting') as starting,
    (select count(*)::int from instances where state = 'terminating') as terminating,
    (select count(*)::int from deliveries where state = 'in_flight') as deliveries_in_flight,
    (select count(*)::int from deliveries where state = 'pending') as deliveries_pending,
    (select count(*)::int from moments
      where at between record_now() - interval '100 ms' and record_now() + interval '1 s') as leases_due`

const MOTION = `
  select (select count(*)::int from events where cause -> 'actor' is null) as flows,
    (select count(*)::int from delivery_attempts) as sends`

const OPEN = `
  select kind, count(*)::int as rows from (
    select 'orders' as kind from launch_orders
      where state not in ('running', 'cancelled', 'terminated', 'failed') or due_at is not null
    union all select 'leases' from leases where state not in ('TERMINATED', 'ERROR')
    union all select 'actions' from actions where state in ('queued', 'running')
    union all select 'deployment actions' from deployment_actions where state = 'running'
    union all select 'instances' from instances where state in ('pending', 'starting', 'stopping', 'terminating')
    union all select 'attempts' from launch_attempts where state in ('open', 'sent', 'unknown')
    union all select 'deliveries' from deliveries where state in ('pending', 'in_flight', 'waiting', 'parked')
    union all select 'outbox' from outbox) open
  group by kind`

/** Opens a connection of its own beside the service; the server it looks at may die and come back. */
export function openRecordView(database_url: string): RecordView {
  const pool = new pg.Pool({ connectionString: database_url, max: 1, connectionTimeoutMillis: 3_000 })
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  const rows = async <Row>(text: string): Promise<Row[]> => (await pool.query(text)).rows as Row[]
  return {
    inFlight: async () => (await rows<InFlight>(IN_FLIGHT))[0]!,
    motion: async () => (await rows<Motion>(MOTION))[0]!,
    async open() {
      return Object.fromEntries((await rows<{ kind: string; rows: number }>(OPEN)).map((row) => [row.kind, row.rows]))
    },
    async boundMachines() {
      const found = await rows<{ provider_id: string }>(
        `select provider_id from instances where provider_id is not null and state not in ('terminated', 'failed', 'missing')`,
      )
      return found.map((row) => row.provider_id)
    },
    installationId: async () => (await rows<{ id: string }>('select id from installation'))[0]!.id,
    close: () => pool.end(),
  }
}
