import { type Kysely, sql } from 'kysely'

/**
 * The record, first shape. Reading order: installation and clock, who, clouds, events, orders, leases, hooks, motion.
 *
 * Rules the database keeps by itself, whoever writes: an event's sequence follows the one before (trigger
 * `chain_event`), every event has one delivery row for each hook that wants it (trigger `fan_out`), one attempt of an
 * item wins, no two bookings of a host overlap, one hold a host.
 */
const RECORD = `
create extension if not exists btree_gist;

-- Installation and clock ---------------------------------------------------------------------------------------------

create table installation (
  singleton boolean primary key default true check (singleton),
  id uuid not null default gen_random_uuid(),
  schema_version int not null,
  min_compatible int not null,
  clock_offset interval not null default interval '0',
  -- Off after a restore from backup: machines are then deleted for what a person wished, and for no rule.
  automatic_removal boolean not null default true,
  restored_at timestamptz, -- real time; null: never
  clock_seen_at timestamptz not null default clock_timestamp(), -- real time never was before it, unless it was set back
  sequence int not null default 0,
  created_at timestamptz not null default clock_timestamp()
);

-- The record's clock. Everything due, booked or shown is in this time; tokens, tags, heartbeats and sends are in real time.
create function record_now() returns timestamptz language sql volatile as
  $$ select clock_timestamp() + (select clock_offset from installation) $$;

-- Time-sortable random id (ULID): 48 bits of milliseconds, 80 of chance, Crockford's base 32.
create function ulid() returns text language sql volatile as $$
  select string_agg(substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ',
    1 + case when i < 10 then ((ms >> (5 * (9 - i))) & 31)::int else get_byte(chance, i - 10) & 31 end, 1), '' order by i)
  from (select (extract(epoch from clock_timestamp()) * 1000)::bigint as ms, uuid_send(gen_random_uuid()) as chance) seed,
    generate_series(0, 25) as i
$$;

-- The blocker that readers are shown: a noun's own, else that its flow did not look at it though its moment is past.
-- Its flow says in its details why; the record only sees that it did not come.
create function shown_blocker(blocker jsonb, due_at timestamptz) returns jsonb language sql volatile as $$
  select coalesce(nullif(blocker, 'null'), case when due_at < record_now() - interval '10 s' then
    jsonb_build_object('code', 'planning_overdue',
      'reason', 'its flow was to look at it and has not: Temporal is away or behind, or planning fails; its flow''s details in the Temporal UI say which',
      'since', moment, 'next_try_at', moment) end)
  from (select to_char(due_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as moment) as due
$$;

-- Who ----------------------------------------------------------------------------------------------------------------

create table projects (
  id uuid primary key,
  name text not null unique,
  created_at timestamptz not null default record_now()
);

create table users (
  id uuid primary key,
  project_id uuid not null references projects,
  name text not null,
  created_at timestamptz not null default record_now(),
  unique (project_id, name)
);

create table tokens (
  id uuid primary key,
  project_id uuid not null references projects,
  user_id uuid not null references users,
  role text not null check (role in ('operator', 'member', 'reader', 'monitor')),
  grants text[] not null default '{}',
  hash bytea not null unique,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz
);

create table idempotency_keys (
  project_id uuid not null references projects,
  key text not null,
  request_hash bytea not null,
  status int not null,
  resource_type text not null,
  resource_id uuid not null,
  sealed_secret bytea,
  created_at timestamptz not null default clock_timestamp(),
  primary key (project_id, key)
);
create index on idempotency_keys (created_at);

-- Clouds -------------------------------------------------------------------------------------------------------------

create table credentials (
  id uuid primary key,
  project_id uuid references projects, -- null: the installation's own, for a cloud's account of its own
  cloud_id uuid, -- the cloud it opens an account of; null: it is that cloud's own
  order_id uuid, -- the order it came with, and ends with; null: none
  name text not null,
  sealed bytea, -- null: erased
  version int not null default 1, -- of the secret
  created_at timestamptz not null default record_now(),
  expires_at timestamptz,
  refused_at timestamptz, -- by its cloud; no more calls with it until it is replaced
  replaced_at timestamptz, -- real time; what was asked before it says nothing of the present secret
  listed_at timestamptz, -- real time: when the last whole list of its machines was asked for; null: never
  erased_at timestamptz,
  sequence int not null default 0
);
create unique index credentials_by_name on credentials (project_id, name) where sealed is not null;
create index credentials_of_clouds on credentials (cloud_id) where sealed is not null;
create index credentials_of_orders on credentials (order_id) where sealed is not null and order_id is not null;

create table clouds (
  id uuid primary key,
  name text not null unique,
  provider text not null,
  endpoint text not null,
  credential_id uuid references credentials,
  settings jsonb not null default '{}',
  sizes jsonb not null default '{}',  -- our name -> provider's name
  images jsonb not null default '{}',
  prices jsonb not null default '{}', -- our name of a size -> what it costs, in a unit of the operator's
  priority int not null default 0,
  enabled boolean not null default true,
  allocation int check (allocation >= 0), -- instances at most; null: no limit of ours
  source text not null default 'api' check (source in ('api', 'file')),
  imported bytea, -- sealed: what its file said; null: made through the API
  retired_at timestamptz, -- its file is gone: not for new orders, what runs there stays
  state text not null default 'unknown' check (state in ('unknown', 'ok', 'unreachable', 'refused')),
  stale_since timestamptz,
  last_error jsonb,
  last_list_sent_at timestamptz, -- real time
  last_list_took_ms int,
  watch_epoch bigint not null default 0,
  sequence int not null default 0,
  created_at timestamptz not null default record_now()
);

-- When the next call to a cloud with a limit of calls may be made. Lost in a crash, and then counted from now.
create unlogged table call_turns (
  cloud_id uuid primary key references clouds on delete cascade,
  next_at timestamptz not null
);

create table cloud_grants (
  project_id uuid not null references projects,
  cloud_id uuid not null references clouds,
  primary key (project_id, cloud_id)
);

-- Machines with our tag and no attempt of ours: reported, removed or adopted by a person only.
create table orphans (
  cloud_id uuid not null references clouds,
  provider_id text not null,
  credential_id uuid references credentials, -- of the account it is in; null: the cloud's own
  tag text,
  raw_state text not null,
  first_seen_at timestamptz not null default clock_timestamp(),
  last_seen_at timestamptz not null default clock_timestamp(),
  absent_lists int not null default 0, -- complete lists in a row that did not show it
  gone_at timestamptz, -- it is not there any more
  removal jsonb, -- a person asked for it: {user_id, requested_at, event, error?, next_try_at?}
  tombstone jsonb,
  primary key (cloud_id, provider_id)
);

-- What a cloud last told of its realms, sizes and images, and when it was asked for each of the three.
create table realms (
  cloud_id uuid not null references clouds,
  provider_id text not null,
  name text not null,
  available boolean not null,
  since timestamptz not null default record_now(), -- it is, or is not, available
  primary key (cloud_id, provider_id)
);

create table cloud_offers (
  cloud_id uuid not null references clouds,
  kind text not null check (kind in ('size', 'image')),
  provider_id text not null,
  name text not null,
  attributes jsonb not null default '{}', -- {vcpus, memory_mib, disk_gib} of a size
  primary key (cloud_id, kind, provider_id)
);

create table cloud_surveys (
  cloud_id uuid not null references clouds,
  kind text not null check (kind in ('realm', 'size', 'image')),
  seen_at timestamptz, -- last answered
  failing_since timestamptz, -- null: the last time it was answered
  last_error jsonb, -- {class, message, at}
  primary key (cloud_id, kind)
);

-- Events and hooks ---------------------------------------------------------------------------------------------------

create sequence event_position;

create table events (
  number bigint generated always as identity primary key,
  id text not null unique default 'evt_' || ulid(),
  project_id uuid references projects, -- null: the installation's
  resource_type text not null,
  resource_id uuid not null,
  sequence int not null check (sequence > 0),
  type text not null,
  from_state text,
  to_state text,
  snapshot jsonb not null,
  cause jsonb not null,
  schema_version int not null default 1,
  at timestamptz not null default record_now(),
  digest bytea not null,
  position bigint unique, -- stamped after commit, see store/events.ts
  unique (resource_type, resource_id, sequence)
);
create index events_unstamped on events (number) where position is null;
create index events_of_project on events (project_id, position desc) where position is not null;

create table hooks (
  id uuid primary key,
  project_id uuid not null references projects,
  user_id uuid not null references users,
  uri text not null,
  description text,
  version text not null default 'v1',
  format text not null default 'json' check (format in ('json', 'cloud_state')),
  filter jsonb not null default '{}', -- {types?: [..], resource_type?, resource_id?, deployment_id?}
  state text not null default 'active' check (state in ('unverified', 'active', 'paused', 'disabled', 'deleted')),
  state_reason text,
  paused_until timestamptz,
  shard smallint not null check (shard between 0 and 3),
  owner text not null default 'sender' check (owner in ('sender', 'lane')),
  attended_until timestamptz, -- real time; its lane is awake and will look again by itself
  timeout_ms int not null default 15000 check (timeout_ms between 1000 and 30000),
  in_flight_max int not null default 8 check (in_flight_max between 1 and 64),
  schedule_ms int[], -- null: the default schedule
  failures_in_row int not null default 0,
  last_success_at timestamptz,
  last_failure_at timestamptz,
  sequence int not null default 0,
  created_at timestamptz not null default record_now()
);
create index on hooks (project_id) where state <> 'deleted';
create index on hooks (shard) where state <> 'deleted';

create table hook_secrets (
  id uuid primary key,
  hook_id uuid not null references hooks,
  sealed bytea not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz
);
create index on hook_secrets (hook_id);

create table sender_shards (
  shard smallint primary key,
  epoch bigint not null default 0
);
insert into sender_shards (shard) values (0), (1), (2), (3);

create table deliveries (
  id bigint generated always as identity primary key,
  project_id uuid not null references projects,
  hook_id uuid not null references hooks,
  event_number bigint not null references events (number),
  resource_type text not null,
  resource_id uuid not null,
  sequence int not null,
  state text not null default 'pending' check (state in
    ('pending', 'in_flight', 'waiting', 'parked', 'delivered', 'exhausted', 'aborted', 'cancelled', 'expired')),
  reason text, -- why it waits
  trigger text not null default 'schedule', -- what brings the next attempt
  attempts int not null default 0, -- charged ones: they take a place of the schedule
  sends int not null default 0, -- all of them
  unknown_in_row int not null default 0,
  next_attempt_at timestamptz not null default record_now(),
  claim bigint, -- epoch of whoever has it in flight
  created_at timestamptz not null default record_now(),
  settled_at timestamptz,
  unique (hook_id, event_number)
) with (fillfactor = 80);
create index deliveries_open on deliveries (hook_id, resource_type, resource_id, sequence)
  where state in ('pending', 'in_flight', 'waiting', 'parked');
create index deliveries_by_event on deliveries (event_number);
create index deliveries_by_project on deliveries (project_id, id desc);

create table delivery_attempts (
  delivery_id bigint not null references deliveries,
  number int not null,
  trigger text not null,
  started_at timestamptz not null, -- real time
  ended_at timestamptz not null,
  outcome text not null, -- delivered or an error class
  status int,
  response_headers jsonb,
  response_body text,
  remote_address text,
  next_attempt_at timestamptz,
  primary key (delivery_id, number)
);

create function hook_wants(filter jsonb, event events) returns boolean language sql immutable as $$
  select (not filter ? 'types' or exists (
      select from jsonb_array_elements_text(filter -> 'types') as wanted
      where wanted = event.type or wanted = '*' or (right(wanted, 2) = '.*' and starts_with(event.type, left(wanted, -1)))))
    and (not filter ? 'resource_type' or filter ->> 'resource_type' = event.resource_type)
    and (not filter ? 'resource_id' or filter ->> 'resource_id' = event.resource_id::text)
    and (not filter ? 'deployment_id' or filter ->> 'deployment_id' = coalesce(event.snapshot ->> 'deployment_id', event.resource_id::text))
$$;

-- What an event says, in the words of the API: what its digest covers, so that whoever has the event can check it.
create function event_text(event events) returns text language sql stable as $$
  select jsonb_build_object('id', event.id, 'type', event.type, 'resource_type', event.resource_type,
    'resource_id', event.resource_id, 'sequence', event.sequence, 'from', event.from_state, 'to', event.to_state,
    'at', to_char(event.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'cause', event.cause,
    'snapshot', event.snapshot)::text
$$;

-- An event as a hook of the native format is sent it. Always the same: an event never changes.
create function event_body(event events) returns text language sql stable as $$
  select json_build_object('id', event.id, 'type', event.type,
    'timestamp', to_char(event.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
    'data', json_build_object('resource_type', event.resource_type, 'resource_id', event.resource_id,
      'sequence', event.sequence, 'from', event.from_state, 'to', event.to_state, 'reason', event.cause ->> 'reason',
      'cause', event.cause, 'snapshot', event.snapshot))::text
$$;

create function chain_event() returns trigger language plpgsql as $$
declare previous bytea;
begin
  if new.sequence > 1 then
    select digest into previous from events
      where resource_type = new.resource_type and resource_id = new.resource_id and sequence = new.sequence - 1;
    if not found then
      raise exception 'event % of % % has no predecessor', new.sequence, new.resource_type, new.resource_id
        using errcode = 'integrity_constraint_violation';
    end if;
  end if;
  new.digest := sha256(coalesce(previous, '') || convert_to(event_text(new), 'UTF8'));
  return new;
end $$;
create trigger chain_event before insert on events for each row execute function chain_event();

create function fan_out() returns trigger language plpgsql as $$
begin
  insert into deliveries (project_id, hook_id, event_number, resource_type, resource_id, sequence, state, reason)
    select hook.project_id, hook.id, event.number, event.resource_type, event.resource_id, event.sequence,
      case when hook.state = 'disabled' then 'parked' else 'pending' end,
      case when hook.state = 'disabled' then 'endpoint_disabled' end
    from new_events as event join hooks as hook on hook.project_id = event.project_id
    where hook.state <> 'deleted' and hook_wants(hook.filter, event::events)
      and (hook.format <> 'cloud_state' or event.resource_type = 'instance'
        and event.type in ('instance.state_changed', 'instance.updated')
        and exists (select from callbacks where hook_id = hook.id and instance_id = event.resource_id))
      and not (event.resource_type = 'hook' and event.resource_id = hook.id)
    order by event.number;
  return null;
end $$;
create trigger fan_out after insert on events referencing new table as new_events
  for each statement execute function fan_out();

-- Launch orders and instances ----------------------------------------------------------------------------------------

create table deployments (
  id uuid primary key,
  project_id uuid not null references projects,
  name text not null,
  state text not null default 'queued',
  sequence int not null default 0,
  created_at timestamptz not null default record_now(),
  unique (project_id, name)
);

create table leases (
  id uuid primary key,
  project_id uuid not null references projects,
  user_id uuid not null references users,
  name text not null,
  state text not null default 'PENDING' check (state in
    ('PENDING', 'STARTING', 'ACTIVE', 'TERMINATING', 'TERMINATED', 'ERROR')),
  start_at timestamptz not null,
  end_at timestamptz not null,
  before_end_at timestamptz,
  order_template jsonb, -- what to launch at the start
  order_id uuid, -- what was launched
  wish text not null default 'run' check (wish in ('run', 'end')),
  wish_version int not null default 1,
  wished_by uuid,
  wished_at timestamptz not null default record_now(),
  wish_event text,
  blocker jsonb,
  attended_until timestamptz, -- real time
  due_at timestamptz, -- when its flow has something to do by itself; null: never
  sequence int not null default 0,
  created_at timestamptz not null default record_now(),
  ended_at timestamptz,
  overstayed_ms bigint, -- how long others waited for hosts that it still held, the longest; null: nobody had to
  check (end_at > start_at)
);
create index leases_open on leases (due_at) where state not in ('TERMINATED', 'ERROR');
create index leases_by_project on leases (project_id, id desc);

create table lease_events (
  id uuid primary key,
  lease_id uuid not null references leases,
  type text not null,
  time timestamptz not null,
  status text not null default 'UNDONE' check (status in ('UNDONE', 'IN_PROGRESS', 'DONE', 'ERROR')),
  acted_at timestamptz,
  late_ms bigint,
  unique (lease_id, type)
);

create table launch_orders (
  id uuid primary key,
  project_id uuid not null references projects,
  user_id uuid not null references users,
  deployment_id uuid not null references deployments,
  lease_id uuid references leases,
  name text not null,
  state text not null default 'queued' check (state in ('queued', 'launching', 'settling', 'running', 'held',
    'compensating', 'cancelled', 'terminating', 'terminated', 'failed')),
  partial boolean not null default false,
  policy text not null default 'all' check (policy in ('all', 'at_least', 'any')),
  at_least int check (at_least > 0),
  count int not null check (count between 1 and 1000),
  cloud_ids uuid[] not null, -- in order of preference
  size text not null,
  image text not null,
  sealed_user_data bytea,
  extra jsonb not null default '{}',
  credentials jsonb not null default '{}', -- cloud id -> id of the credential it is used with; others: the cloud's own
  priority int not null default 0,
  healing text not null default 'none' check (healing in ('none', 'restart', 'replace', 'notify')),
  healing_max int check (healing_max > 0), -- of its deployment at once; null: a fifth
  hold boolean not null default false, -- waits for its clouds instead of giving up
  placement text not null default 'in_order' check (placement in ('in_order', 'spread', 'cheapest')),
  retry_budget jsonb not null default '{}', -- class of errors -> more tries of each item
  deadline_at timestamptz, -- its policy is to be met by then
  wish text not null default 'run' check (wish in ('run', 'withdraw', 'cancel', 'terminate')),
  wish_version int not null default 1,
  wished_by uuid,
  wished_at timestamptz not null default record_now(),
  wish_event text,
  blocker jsonb,
  next_batch int not null default 1,
  next_undo_batch int not null default 1,
  attended_until timestamptz, -- real time
  due_at timestamptz, -- when its flow has something to do by itself; null: only when woken
  sequence int not null default 0,
  created_at timestamptz not null default record_now(),
  settled_at timestamptz
);
create index launch_orders_open on launch_orders (due_at) where state not in ('running', 'cancelled', 'terminated', 'failed');
create index launch_orders_by_project on launch_orders (project_id, id desc);
create index on launch_orders (deployment_id);
create index on launch_orders (lease_id) where lease_id is not null;

create table instances (
  id uuid primary key,
  project_id uuid not null references projects,
  deployment_id uuid not null references deployments,
  order_id uuid not null references launch_orders,
  external_id text, -- the caller's own
  name text not null,
  state text not null default 'pending' check (state in ('pending', 'starting', 'running', 'stopping', 'stopped',
    'rebooting', 'terminating', 'terminated', 'failed', 'missing')),
  size text not null,
  image text not null,
  spec jsonb not null default '{}', -- what else is asked of the provider
  extra jsonb not null default '{}', -- its own additions to those of its order
  sealed_user_data bytea, -- null: its order's
  content_hash bytea, -- of what its caller sent; null: no caller's own id came with it
  cloud_id uuid references clouds, -- set with provider_id by the attempt that won
  credential_id uuid references credentials, -- of the account it is in; null: the cloud's own
  provider_id text,
  raw_state text,
  public_addresses text[] not null default '{}',
  private_addresses text[] not null default '{}',
  wish text not null default 'run' check (wish in ('run', 'stop', 'terminate')),
  wish_version int not null default 1,
  wished_by uuid,
  wished_at timestamptz not null default record_now(),
  wish_event text,
  blocker jsonb,
  stale_since timestamptz,
  absent_lists int not null default 0, -- complete lists in a row that did not show it
  acknowledged_at timestamptz, -- real time of the create's answer
  changed_at timestamptz not null default clock_timestamp(), -- real time; older observations are dropped
  attended_until timestamptz, -- real time
  due_at timestamptz,
  sequence int not null default 0,
  created_at timestamptz not null default record_now(),
  running_at timestamptz,
  terminated_at timestamptz,
  dismissed_at timestamptz, -- deleted by its caller once it was over: not listed any more
  unique (project_id, external_id)
);
create index instances_by_order on instances (order_id);
create index instances_by_project on instances (project_id, id desc);
create index instances_by_deployment on instances (deployment_id);
create unique index instances_by_machine on instances (cloud_id, provider_id) where provider_id is not null and state <> 'terminated';
create index instances_over on instances (terminated_at) where terminated_at is not null;
create index instances_due on instances (due_at) where due_at is not null;
create index instances_alive on instances (cloud_id) where state not in ('pending', 'terminated', 'failed');

-- Whom an instance's changes are told, beside the hooks of its project: the lane is a hook, one for each address.
create table callbacks (
  id uuid primary key,
  project_id uuid not null references projects,
  instance_id uuid not null references instances,
  hook_id uuid not null references hooks,
  created_at timestamptz not null default record_now(),
  unique (instance_id, hook_id)
);
create index on callbacks (hook_id);
create index callbacks_by_project on callbacks (project_id, id desc);

-- Made for the first login to an instance; the private half is given out once.
create table ssh_keys (
  instance_id uuid primary key references instances,
  name text not null,
  public_key text not null, -- a line for authorized_keys
  fingerprint text not null,
  sealed bytea, -- null: given out, or erased with its instance
  released_at timestamptz
);

-- Names given to machines: each once for good. What became of the machine is its instance's to tell.
create table inventory (
  id uuid primary key,
  project_id uuid not null references projects,
  name text, -- null: an inventory outside has not given one yet
  instance_id uuid not null unique references instances,
  request_id text unique, -- what an inventory outside is asked with for the name; null: the built-in one gave it
  cloud text not null,
  environment text,
  roles text[] not null default '{}',
  subnet text,
  host_domain text,
  extra jsonb not null default '{}', -- what its caller adds to the record
  -- The rest is of an inventory outside. Open while the instance has a due_at.
  told jsonb, -- the record it took last; null: none, or nobody knows which
  calls int not null default 0, -- begun
  tries int not null default 0, -- in vain since the last that was not
  next_try_at timestamptz not null default clock_timestamp(), -- real time
  error jsonb, -- {class, message, at}
  created_at timestamptz not null default record_now(),
  unique (project_id, name)
);
create unique index inventory_named_outside on inventory (lower(name)) where request_id is not null;

-- An inventory outside, as its file says; no row: there is none.
create table inventory_account (
  singleton boolean primary key default true check (singleton),
  url text not null,
  username text,
  sealed bytea -- the password; null: none
);
create table name_counters (
  project_id uuid not null references projects,
  stem text not null, -- a name with a gap where the number goes
  last int not null,
  primary key (project_id, stem)
);

create table items (
  id uuid primary key,
  order_id uuid not null references launch_orders,
  number int not null,
  instance_id uuid not null references instances,
  state text not null default 'queued' check (state in ('queued', 'claimed', 'creating', 'starting', 'running',
    'failed', 'cancelled', 'terminated')),
  cloud_index int not null default 0, -- how far it is in its list of clouds
  cloud_indexes int[], -- that list, as places in the order's; null: the order's
  rounds int not null default 0, -- over all its clouds, in vain, since it last ran
  errors jsonb not null default '{}', -- class -> how often it met one
  attempts int not null default 0,
  next_attempt_at timestamptz,
  last_error jsonb,
  unique (order_id, number)
);
create index on items (instance_id);

create table launch_attempts (
  id uuid primary key, -- tag and idempotency token
  item_id uuid not null references items,
  instance_id uuid not null references instances,
  order_id uuid not null references launch_orders,
  number int not null,
  cloud_id uuid not null references clouds,
  credential_id uuid references credentials, -- null: the cloud's own
  batch int not null, -- created together, within the order
  undo_batch int, -- deleted together, within the order
  deletes int not null default 0, -- asked for without being confirmed
  state text not null default 'open' check (state in ('open', 'sent', 'won', 'lost', 'unknown', 'surplus')),
  provider_id text,
  sends int not null default 0,
  sent_at timestamptz, -- real time of the last send's begin
  answered_at timestamptz,
  settle_at timestamptz, -- real time: after it, silence means it was never carried out
  next_send_at timestamptz, -- real time
  error jsonb, -- {class, message, evidence, at}
  created_at timestamptz not null default record_now(),
  gone_at timestamptz, -- its machine, if there was one, is confirmed gone, or was released
  vanished boolean not null default false, -- its machine is gone, and nobody had it deleted
  released_at timestamptz, -- a person let its machine go: it lives on and is not ours
  unique (item_id, number)
);
create unique index one_winner_an_item on launch_attempts (item_id) where state = 'won' and gone_at is null;
create index launch_attempts_by_order on launch_attempts (order_id, batch);
create index launch_attempts_by_cloud on launch_attempts (cloud_id, state);
create index launch_attempts_by_credential on launch_attempts (credential_id, gone_at) where credential_id is not null;
create unique index launch_attempts_by_machine on launch_attempts (cloud_id, provider_id) where provider_id is not null and gone_at is null;
create index launch_attempts_surplus on launch_attempts (order_id) where state = 'surplus' and gone_at is null;
create index launch_attempts_released on launch_attempts (cloud_id, provider_id) where released_at is not null;

-- Machines that are to be told whose they are: adopted ones get our tags, released ones lose them. Open until confirmed.
create table taggings (
  instance_id uuid primary key references instances,
  attempt_id uuid not null references launch_attempts,
  wish text not null check (wish in ('adopt', 'release')),
  tries int not null default 0,
  next_try_at timestamptz not null default clock_timestamp(), -- real time
  error jsonb -- {class, message, evidence, at}
);

-- Capacity and quota are claims: one row an attempt, released exactly once.
create table claims (
  attempt_id uuid primary key references launch_attempts,
  cloud_id uuid not null references clouds,
  project_id uuid not null references projects,
  claimed_at timestamptz not null default record_now(),
  released_at timestamptz
);
create index claims_open on claims (cloud_id) where released_at is null;

-- Start, stop and restart go through the instances there are in waves, by id; a terminate ends the orders there are.
create table deployment_actions (
  id uuid primary key,
  project_id uuid not null references projects,
  deployment_id uuid not null references deployments,
  number int not null,
  kind text not null check (kind in ('start', 'stop', 'restart', 'terminate')),
  wave_size int check (wave_size between 1 and 25), -- null: a terminate
  state text not null default 'running' check (state in ('running', 'done', 'failed', 'superseded')),
  wave int not null default 0, -- the last one begun
  skipped int not null default 0, -- instances that it did not fit
  last_id uuid, -- of the last instance, or order, that was looked at
  wished_by uuid,
  wish_event text,
  waiting_for text, -- as of the last plan
  error jsonb, -- {class, message, at}
  due_at timestamptz, -- when its flow looks again by itself
  created_at timestamptz not null default record_now(),
  finished_at timestamptz,
  unique (deployment_id, number)
);
create unique index one_deployment_action_at_a_time on deployment_actions (deployment_id) where state = 'running';

create table actions (
  id uuid primary key,
  project_id uuid not null references projects,
  instance_id uuid not null references instances,
  number int not null,
  kind text not null check (kind in ('start', 'stop', 'reboot', 'terminate')),
  detail jsonb not null default '{}', -- {reboot?: soft or hard}
  state text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'superseded')),
  wished_by uuid,
  deployment_action_id uuid references deployment_actions, -- that it is part of
  wave int, -- of that action
  error jsonb, -- {class, message, evidence, at}
  sends int not null default 0,
  looks int not null default 0, -- for what it came to
  started_at timestamptz, -- real time of the first plan for it
  sent_at timestamptz, -- real time of the last send; null: none that may have had an effect
  answered_at timestamptz, -- real time; null: what was sent was not answered
  confirmed_at timestamptz, -- real time; the machine is as it was asked to be
  next_try_at timestamptz, -- real time
  created_at timestamptz not null default record_now(),
  finished_at timestamptz,
  unique (instance_id, number)
);
create unique index one_action_at_a_time on actions (instance_id) where state = 'running';
create index on actions (deployment_action_id, wave) where deployment_action_id is not null;

-- Hosts, reservations, bookings, holds -------------------------------------------------------------------------------

-- A computer of a cloud that leases can have for themselves.
create table hosts (
  id bigint generated always as identity primary key,
  cloud_id uuid not null references clouds,
  name text not null,
  properties jsonb not null default '{}',
  reservable boolean not null default true,
  sequence int not null default 0,
  created_at timestamptz not null default record_now(),
  deleted_at timestamptz
);
create unique index hosts_by_name on hosts (cloud_id, name) where deleted_at is null;

-- What a lease asks for; the bookings say what it got.
create table reservations (
  id uuid primary key,
  lease_id uuid not null references leases,
  cloud_id uuid not null references clouds,
  resource_type text not null,
  state text not null default 'pending',
  min_count int not null default 1,
  max_count int not null default 1,
  requirements jsonb not null default '{}',
  before_end text not null default 'default',
  created_at timestamptz not null default record_now()
);
create index on reservations (lease_id);

-- Promised: a host to a lease for a time. That it is not promised twice is the constraint's to see, no code's.
create table bookings (
  id uuid primary key,
  host_id bigint not null references hosts,
  lease_id uuid not null references leases,
  reservation_id uuid not null references reservations,
  kind text not null default 'physical' check (kind in ('physical', 'counted')),
  amount jsonb not null default '{}',
  during tstzrange not null check (not isempty(during)),
  exclude using gist (host_id with =, during with &&) where (kind = 'physical')
);
create index on bookings (lease_id);

-- In fact: who has a host, from the start of a lease until the cloud has confirmed that its machines are gone.
create table holds (
  host_id bigint primary key references hosts,
  lease_id uuid not null references leases,
  taken_at timestamptz not null default record_now(),
  waited_ms bigint -- how long a lease waited for it that gave up, the longest
);
create index on holds (lease_id);

-- Motion -------------------------------------------------------------------------------------------------------------

-- "Look again at this": no state, no command. Real time.
create table outbox (
  id bigint generated always as identity primary key,
  target text not null,
  project_id uuid,
  kind text not null default 'wake' check (kind in ('start', 'wake')),
  not_before timestamptz not null default clock_timestamp(),
  created_at timestamptz not null default clock_timestamp()
);
create index on outbox (target);
create index on outbox (not_before, id);

insert into installation (schema_version, min_compatible) values (1, 1);
`

export async function up(db: Kysely<never>): Promise<void> {
  await sql.raw(RECORD).execute(db)
}
