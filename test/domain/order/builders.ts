/** Orders, items, attempts and clouds as decisions are given them, each with everything as it mostly is. */
import type { AttemptView, CloudView, ItemView, OrderView } from '../../../domain/order/view.ts'

export const NOW = 1_000_000
export const at = new Date(NOW).toISOString()

export const cloud = (id: string, change: Partial<CloudView> = {}): CloudView => ({
  id,
  name: id,
  enabled: true,
  idempotency_tokens: false,
  call_timeout_ms: 5_000,
  boot_timeout_ms: 900_000,
  listed_at: NOW,
  credential: 'ok',
  closed_realms: [],
  free: null,
  ...change,
})

export const item = (id: string, change: Partial<ItemView> = {}): ItemView => ({
  id,
  state: 'queued',
  cloud_index: 0,
  cloud_indexes: null,
  realm: null,
  rounds: 0,
  errors: {},
  attempts: 0,
  next_attempt_at: null,
  last_error: null,
  instance_id: `instance-${id}`,
  instance_state: 'pending',
  instance_wish: 'run',
  naming: null,
  restart: null,
  open: [],
  ...change,
})

export const attempt = (id: string, change: Partial<AttemptView> = {}): AttemptView => ({
  id,
  number: 1,
  cloud_id: 'east',
  batch: 1,
  undo_batch: null,
  state: 'open',
  provider_id: null,
  sends: 0,
  sent_at: null,
  settle_at: null,
  next_send_at: null,
  error: null,
  ...change,
})

export const order = (items: ItemView[], change: Partial<OrderView> = {}): OrderView => ({
  state: 'launching',
  policy: 'all',
  at_least: null,
  settled: false,
  wish: 'run',
  may_delete: true,
  deadline_at: null,
  hold: false,
  retry_budget: {},
  healing: 'none',
  healing_room: 0,
  clouds: [cloud('east'), cloud('west')],
  items,
  next_batch: 7,
  next_undo_batch: 3,
  ...change,
})

export const refused = (error_class: string) => ({ class: error_class, message: `${error_class} refused`, at })
export const running = (id: string) =>
  item(id, {
    state: 'running',
    attempts: 1,
    instance_state: 'running',
    open: [attempt(`won-${id}`, { state: 'won', provider_id: `m-${id}` })],
  })
