/** The tables as Kysely sees them; the columns' meaning is said in migrations/001-record.ts. */
import type { ColumnType, Generated } from 'kysely'
import type { DeploymentAction } from '../domain/deployment.ts'
import type { InstanceAction } from '../domain/instance.ts'
import type { Extra, Healing, InstanceSpec, OrderTemplate, Placement, RetryBudget } from '../domain/launch-order.ts'
import type { AttemptError, Blocker, Cause, HookFilter } from '../domain/record.ts'

/** jsonb: read as a value, written as text. */
type Json<T> = ColumnType<T, string, string>
type JsonDefault<T> = ColumnType<T, string | undefined, string>
/** jsonb that may be null. */
type JsonNull<T> = ColumnType<T | null, string | null | undefined, string | null>

export interface ActionsTable {
  id: string
  project_id: string
  instance_id: string
  number: number
  kind: InstanceAction
  detail: JsonDefault<{ readonly reboot?: 'soft' | 'hard' }>
  state: Generated<'queued' | 'running' | 'done' | 'failed' | 'superseded'>
  wished_by: string | null
  deployment_action_id: string | null
  wave: number | null
  error: JsonNull<AttemptError>
  sends: Generated<number>
  looks: Generated<number>
  started_at: Date | null
  sent_at: Date | null
  answered_at: Date | null
  confirmed_at: Date | null
  next_try_at: Date | null
  created_at: Generated<Date>
  finished_at: Date | null
}

export interface BookingsTable {
  id: string
  host_id: number
  lease_id: string
  reservation_id: string
  kind: Generated<'physical' | 'counted'>
  amount: JsonDefault<Record<string, unknown>>
  during: string
}

export interface CallbacksTable {
  id: string
  project_id: string
  instance_id: string
  hook_id: string
  created_at: Generated<Date>
}

export interface ClaimsTable {
  attempt_id: string
  cloud_id: string
  project_id: string
  claimed_at: Generated<Date>
  released_at: Date | null
}

export interface CallTurnsTable {
  cloud_id: string
  next_at: Date
}

export interface CloudGrantsTable {
  project_id: string
  cloud_id: string
}

export interface CloudsTable {
  id: string
  name: string
  provider: string
  endpoint: string
  credential_id: string | null
  settings: JsonDefault<Record<string, unknown>>
  sizes: JsonDefault<Record<string, string>>
  images: JsonDefault<Record<string, string>>
  prices: JsonDefault<Record<string, number>>
  priority: Generated<number>
  enabled: Generated<boolean>
  allocation: number | null
  source: Generated<'api' | 'file'>
  imported: Buffer | null
  retired_at: Date | null
  state: Generated<'unknown' | 'ok' | 'unreachable' | 'refused'>
  stale_since: Date | null
  last_error: JsonNull<AttemptError>
  last_list_sent_at: Date | null
  last_list_took_ms: number | null
  watch_epoch: Generated<number>
  sequence: Generated<number>
  created_at: Generated<Date>
}

export interface CloudOffersTable {
  cloud_id: string
  kind: 'size' | 'image'
  provider_id: string
  name: string
  attributes: JsonDefault<Readonly<Record<string, number>>>
}

export interface CloudSurveysTable {
  cloud_id: string
  kind: 'realm' | 'size' | 'image'
  seen_at: Date | null
  failing_since: Date | null
  last_error: JsonNull<AttemptError>
}

export interface CredentialsTable {
  id: string
  project_id: string | null
  cloud_id: string | null
  order_id: string | null
  name: string
  sealed: Buffer | null
  version: Generated<number>
  created_at: Generated<Date>
  expires_at: Date | null
  refused_at: Date | null
  replaced_at: Date | null
  listed_at: Date | null
  erased_at: Date | null
  sequence: Generated<number>
}

export interface DeliveriesTable {
  id: Generated<number>
  project_id: string
  hook_id: string
  event_number: number
  resource_type: string
  resource_id: string
  sequence: number
  state: Generated<
    'pending' | 'in_flight' | 'waiting' | 'parked' | 'delivered' | 'exhausted' | 'aborted' | 'cancelled' | 'expired'
  >
  reason: string | null
  trigger: Generated<string>
  attempts: Generated<number>
  sends: Generated<number>
  unknown_in_row: Generated<number>
  next_attempt_at: Generated<Date>
  claim: number | null
  created_at: Generated<Date>
  settled_at: Date | null
}

export interface DeliveryAttemptsTable {
  delivery_id: number
  number: number
  trigger: string
  started_at: Date
  ended_at: Date
  outcome: string
  status: number | null
  response_headers: JsonNull<Record<string, unknown>>
  response_body: string | null
  remote_address: string | null
  next_attempt_at: Date | null
}

export interface DeploymentActionsTable {
  id: string
  project_id: string
  deployment_id: string
  number: number
  kind: DeploymentAction
  wave_size: number | null
  state: Generated<'running' | 'done' | 'failed' | 'superseded'>
  wave: Generated<number>
  skipped: Generated<number>
  last_id: string | null
  wished_by: string | null
  wish_event: string | null
  waiting_for: string | null
  error: JsonNull<AttemptError>
  due_at: Date | null
  created_at: Generated<Date>
  finished_at: Date | null
}

export interface DeploymentsTable {
  id: string
  project_id: string
  name: string
  state: Generated<string>
  sequence: Generated<number>
  created_at: Generated<Date>
}

export interface EventsTable {
  number: Generated<number>
  id: Generated<string>
  project_id: string | null
  resource_type: string
  resource_id: string
  sequence: number
  type: string
  from_state: string | null
  to_state: string | null
  snapshot: Json<Record<string, unknown>>
  cause: Json<Cause>
  schema_version: Generated<number>
  at: Generated<Date>
  digest: Generated<Buffer>
  position: number | null
}

export interface HoldsTable {
  host_id: number
  lease_id: string
  taken_at: Generated<Date>
  waited_ms: number | null
}

export interface HookSecretsTable {
  id: string
  hook_id: string
  sealed: Buffer
  created_at: Generated<Date>
  expires_at: Date | null
}

export interface HooksTable {
  id: string
  project_id: string
  user_id: string
  uri: string
  description: string | null
  version: Generated<string>
  format: Generated<'json' | 'cloud_state'>
  filter: JsonDefault<HookFilter>
  state: Generated<'unverified' | 'active' | 'paused' | 'disabled' | 'deleted'>
  state_reason: string | null
  paused_until: Date | null
  shard: number
  owner: Generated<'sender' | 'lane'>
  attended_until: Date | null
  timeout_ms: Generated<number>
  in_flight_max: Generated<number>
  schedule_ms: number[] | null
  failures_in_row: Generated<number>
  last_success_at: Date | null
  last_failure_at: Date | null
  sequence: Generated<number>
  created_at: Generated<Date>
}

export interface HostsTable {
  id: Generated<number>
  cloud_id: string
  name: string
  properties: JsonDefault<Record<string, unknown>>
  reservable: Generated<boolean>
  sequence: Generated<number>
  created_at: Generated<Date>
  deleted_at: Date | null
}

export interface IdempotencyKeysTable {
  project_id: string
  key: string
  request_hash: Buffer
  status: number
  resource_type: string
  resource_id: string
  sealed_secret: Buffer | null
  created_at: Generated<Date>
}

export interface InstallationTable {
  singleton: Generated<boolean>
  id: Generated<string>
  schema_version: number
  min_compatible: number
  clock_offset: Generated<string>
  automatic_removal: Generated<boolean>
  restored_at: Date | null
  clock_seen_at: Generated<Date>
  sequence: Generated<number>
  created_at: Generated<Date>
}

export interface InstancesTable {
  id: string
  project_id: string
  deployment_id: string
  order_id: string
  external_id: string | null
  name: string
  state: Generated<
    | 'pending'
    | 'starting'
    | 'running'
    | 'stopping'
    | 'stopped'
    | 'rebooting'
    | 'terminating'
    | 'terminated'
    | 'failed'
    | 'missing'
  >
  size: string
  image: string
  spec: JsonDefault<InstanceSpec>
  extra: JsonDefault<Extra>
  sealed_user_data: Buffer | null
  content_hash: Buffer | null
  cloud_id: string | null
  credential_id: string | null
  provider_id: string | null
  raw_state: string | null
  public_addresses: Generated<string[]>
  private_addresses: Generated<string[]>
  wish: Generated<'run' | 'stop' | 'terminate'>
  wish_version: Generated<number>
  wished_by: string | null
  wished_at: Generated<Date>
  wish_event: string | null
  blocker: JsonNull<Blocker>
  stale_since: Date | null
  absent_lists: Generated<number>
  acknowledged_at: Date | null
  changed_at: Generated<Date>
  attended_until: Date | null
  due_at: Date | null
  sequence: Generated<number>
  created_at: Generated<Date>
  running_at: Date | null
  terminated_at: Date | null
  dismissed_at: Date | null
}

export interface InventoryAccountTable {
  singleton: Generated<boolean>
  url: string
  username: string | null
  sealed: Buffer | null
}

export interface InventoryTable {
  id: string
  project_id: string
  name: string | null
  instance_id: string
  request_id: string | null
  cloud: string
  environment: string | null
  roles: Generated<string[]>
  subnet: string | null
  host_domain: string | null
  extra: JsonDefault<Record<string, unknown>>
  told: JsonNull<Readonly<Record<string, unknown>>>
  calls: Generated<number>
  tries: Generated<number>
  next_try_at: Generated<Date>
  error: JsonNull<AttemptError>
  created_at: Generated<Date>
}

export interface ItemsTable {
  id: string
  order_id: string
  number: number
  instance_id: string
  state: Generated<'queued' | 'claimed' | 'creating' | 'starting' | 'running' | 'failed' | 'cancelled' | 'terminated'>
  cloud_index: Generated<number>
  cloud_indexes: number[] | null
  rounds: Generated<number>
  errors: JsonDefault<Record<string, number>>
  attempts: Generated<number>
  next_attempt_at: Date | null
  last_error: JsonNull<AttemptError>
}

export interface LaunchAttemptsTable {
  id: string
  item_id: string
  instance_id: string
  order_id: string
  number: number
  cloud_id: string
  credential_id: string | null
  batch: number
  undo_batch: number | null
  deletes: Generated<number>
  state: Generated<'open' | 'sent' | 'won' | 'lost' | 'unknown' | 'surplus'>
  provider_id: string | null
  sends: Generated<number>
  sent_at: Date | null
  answered_at: Date | null
  settle_at: Date | null
  next_send_at: Date | null
  error: JsonNull<AttemptError>
  created_at: Generated<Date>
  gone_at: Date | null
  vanished: Generated<boolean>
  released_at: Date | null
}

export interface LaunchOrdersTable {
  id: string
  project_id: string
  user_id: string
  deployment_id: string
  lease_id: string | null
  name: string
  state: Generated<
    | 'queued'
    | 'launching'
    | 'settling'
    | 'running'
    | 'held'
    | 'compensating'
    | 'cancelled'
    | 'terminating'
    | 'terminated'
    | 'failed'
  >
  partial: Generated<boolean>
  policy: Generated<'all' | 'at_least' | 'any'>
  at_least: number | null
  count: number
  cloud_ids: string[]
  size: string
  image: string
  sealed_user_data: Buffer | null
  extra: JsonDefault<Extra>
  credentials: JsonDefault<Readonly<Record<string, string>>>
  priority: Generated<number>
  healing: Generated<Healing>
  healing_max: number | null
  hold: Generated<boolean>
  placement: Generated<Placement>
  retry_budget: JsonDefault<RetryBudget>
  deadline_at: Date | null
  wish: Generated<'run' | 'withdraw' | 'cancel' | 'terminate'>
  wish_version: Generated<number>
  wished_by: string | null
  wished_at: Generated<Date>
  wish_event: string | null
  blocker: JsonNull<Blocker>
  next_batch: Generated<number>
  next_undo_batch: Generated<number>
  attended_until: Date | null
  due_at: Date | null
  sequence: Generated<number>
  created_at: Generated<Date>
  settled_at: Date | null
}

export interface LeaseEventsTable {
  id: string
  lease_id: string
  type: string
  time: Date
  status: Generated<'UNDONE' | 'IN_PROGRESS' | 'DONE' | 'ERROR'>
  acted_at: Date | null
  late_ms: number | null
}

export interface LeasesTable {
  id: string
  project_id: string
  user_id: string
  name: string
  state: Generated<'PENDING' | 'STARTING' | 'ACTIVE' | 'TERMINATING' | 'TERMINATED' | 'ERROR'>
  start_at: Date
  end_at: Date
  before_end_at: Date | null
  order_template: JsonNull<OrderTemplate>
  order_id: string | null
  wish: Generated<'run' | 'end'>
  wish_version: Generated<number>
  wished_by: string | null
  wished_at: Generated<Date>
  wish_event: string | null
  blocker: JsonNull<Blocker>
  attended_until: Date | null
  due_at: Date | null
  sequence: Generated<number>
  created_at: Generated<Date>
  ended_at: Date | null
  overstayed_ms: number | null
}

/** That a person asked for the removal of an orphan, and why it was not done yet. */
export interface OrphanRemoval {
  readonly user_id: string
  readonly requested_at: string
  /** The event that told of it. */
  readonly event: string
  readonly error?: AttemptError
  readonly next_try_at?: string
}

export interface NameCountersTable {
  project_id: string
  stem: string
  last: number
}

export interface OrphansTable {
  cloud_id: string
  provider_id: string
  credential_id: string | null
  tag: string | null
  raw_state: string
  first_seen_at: Generated<Date>
  last_seen_at: Generated<Date>
  absent_lists: Generated<number>
  gone_at: Date | null
  removal: JsonNull<OrphanRemoval>
  tombstone: JsonNull<Record<string, unknown>>
}

export interface OutboxTable {
  id: Generated<number>
  target: string
  project_id: string | null
  kind: Generated<'start' | 'wake'>
  not_before: Generated<Date>
  created_at: Generated<Date>
}

export interface ProjectsTable {
  id: string
  name: string
  created_at: Generated<Date>
}

export interface RealmsTable {
  cloud_id: string
  provider_id: string
  name: string
  available: boolean
  since: Generated<Date>
}

export interface ReservationsTable {
  id: string
  lease_id: string
  cloud_id: string
  resource_type: string
  state: Generated<string>
  min_count: Generated<number>
  max_count: Generated<number>
  requirements: JsonDefault<Record<string, unknown>>
  before_end: Generated<string>
  created_at: Generated<Date>
}

export interface SenderShardsTable {
  shard: number
  epoch: Generated<number>
}

export interface SshKeysTable {
  instance_id: string
  name: string
  public_key: string
  fingerprint: string
  sealed: Buffer | null
  released_at: Date | null
}

export interface TaggingsTable {
  instance_id: string
  attempt_id: string
  wish: 'adopt' | 'release'
  tries: Generated<number>
  next_try_at: Generated<Date>
  error: JsonNull<AttemptError>
}

export interface TokensTable {
  id: string
  project_id: string
  user_id: string
  role: 'operator' | 'member' | 'reader' | 'monitor'
  grants: Generated<string[]>
  hash: Buffer
  created_at: Generated<Date>
  expires_at: Date | null
  revoked_at: Date | null
}

export interface UsersTable {
  id: string
  project_id: string
  name: string
  created_at: Generated<Date>
}

export interface Tables {
  actions: ActionsTable
  bookings: BookingsTable
  callbacks: CallbacksTable
  claims: ClaimsTable
  call_turns: CallTurnsTable
  cloud_grants: CloudGrantsTable
  cloud_offers: CloudOffersTable
  cloud_surveys: CloudSurveysTable
  clouds: CloudsTable
  credentials: CredentialsTable
  deliveries: DeliveriesTable
  delivery_attempts: DeliveryAttemptsTable
  deployment_actions: DeploymentActionsTable
  deployments: DeploymentsTable
  events: EventsTable
  holds: HoldsTable
  hook_secrets: HookSecretsTable
  hooks: HooksTable
  hosts: HostsTable
  idempotency_keys: IdempotencyKeysTable
  installation: InstallationTable
  instances: InstancesTable
  inventory: InventoryTable
  inventory_account: InventoryAccountTable
  items: ItemsTable
  launch_attempts: LaunchAttemptsTable
  launch_orders: LaunchOrdersTable
  lease_events: LeaseEventsTable
  leases: LeasesTable
  name_counters: NameCountersTable
  orphans: OrphansTable
  outbox: OutboxTable
  projects: ProjectsTable
  realms: RealmsTable
  reservations: ReservationsTable
  sender_shards: SenderShardsTable
  ssh_keys: SshKeysTable
  taggings: TaggingsTable
  tokens: TokensTable
  users: UsersTable
}
