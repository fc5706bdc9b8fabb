/** Launch orders and their attempts as the native wire shows them. */
import { z } from '@hono/zod-openapi'
import { HEALINGS, PLACEMENTS } from '../../domain/launch-order.ts'
import type { listAttempts, ShownOrder } from '../../store/order-list.ts'
import { BlockerOut, ErrorOut, iso, isoOrNull, MomentOut } from '../schemas.ts'
import { RetryBudget } from './order-input.ts'

export const ORDER_STATES = [
  'queued',
  'launching',
  'settling',
  'running',
  'held',
  'compensating',
  'cancelled',
  'terminating',
  'terminated',
  'failed',
] as const

export const LaunchOrder = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    name: z.string(),
    deployment: z.strictObject({ id: z.string(), name: z.string(), href: z.string() }),
    lease_id: z.string().nullable(),
    state: z.enum(ORDER_STATES),
    partial: z.boolean().openapi({ description: 'It runs, but not with all it was to have.' }),
    policy: z.enum(['all', 'at_least', 'any']),
    at_least: z.int().nullable(),
    count: z.int(),
    counts: z.record(z.string(), z.int()).openapi({ description: 'Items by state.' }),
    clouds: z.array(z.string()),
    size: z.string(),
    image: z.string(),
    user_data: z.boolean().openapi({ description: 'Whether it carries user data, which is never shown.' }),
    extra: z.record(z.string(), z.unknown()),
    credentials: z.array(z.string()).openapi({ description: 'Ids of those it was given.' }),
    priority: z.int(),
    deadline_at: MomentOut.nullable(),
    hold: z.boolean(),
    placement: z.enum(PLACEMENTS),
    retry_budget: RetryBudget,
    healing: z.enum(HEALINGS),
    healing_max: z.int().nullable(),
    wish: z.enum(['run', 'withdraw', 'cancel', 'terminate']).openapi({
      description: '`withdraw`: what did not run yet is not wanted any more.',
    }),
    blocker: BlockerOut.nullable().openapi({ description: 'What holds it up.' }),
    sequence: z.int(),
    created_at: MomentOut,
    settled_at: MomentOut.nullable(),
  })
  .openapi('LaunchOrder')

export const Attempt = z
  .strictObject({
    id: z.string(),
    item: z.int(),
    instance_id: z.string(),
    number: z.int(),
    cloud: z.string(),
    state: z.enum(['open', 'sent', 'won', 'lost', 'unknown', 'surplus']),
    provider_id: z.string().nullable(),
    sends: z.int(),
    sent_at: MomentOut.nullable(),
    answered_at: MomentOut.nullable(),
    settle_at: MomentOut.nullable().openapi({ description: 'From then on silence means it was never carried out.' }),
    error: ErrorOut.nullable(),
    created_at: MomentOut,
    gone_at: MomentOut.nullable(),
  })
  .openapi('LaunchAttempt')

type Column = Exclude<keyof z.infer<typeof LaunchOrder>, 'href' | 'user_data' | 'deployment' | 'credentials'>
type Shown = Pick<ShownOrder, Column | 'deployment' | 'deployment_id' | 'sealed_user_data' | 'credentials'>

/** Takes a row of the record, or what stands for it right after accepting. */
export function renderOrder(row: Shown): z.infer<typeof LaunchOrder> {
  const { id, name, state, partial, policy, at_least, count, counts, clouds, size, image, extra, priority, wish } = row
  return {
    id,
    href: `/api/launch-orders/${id}`,
    name,
    deployment: { id: row.deployment_id, name: row.deployment, href: `/api/deployments/${row.deployment_id}` },
    lease_id: row.lease_id,
    state,
    partial,
    policy,
    at_least,
    count,
    counts,
    clouds,
    size,
    image,
    user_data: row.sealed_user_data !== null,
    extra,
    credentials: Object.values(row.credentials),
    priority,
    deadline_at: isoOrNull(row.deadline_at),
    hold: row.hold,
    placement: row.placement,
    retry_budget: row.retry_budget,
    healing: row.healing,
    healing_max: row.healing_max,
    wish,
    blocker: row.blocker,
    sequence: row.sequence,
    created_at: iso(row.created_at),
    settled_at: isoOrNull(row.settled_at),
  }
}

type AttemptRow = Awaited<ReturnType<typeof listAttempts>>[number]
export const renderAttempt = (row: AttemptRow): z.infer<typeof Attempt> => ({
  id: row.id,
  item: row.item,
  instance_id: row.instance_id,
  number: row.number,
  cloud: row.cloud,
  state: row.state,
  provider_id: row.provider_id,
  sends: row.sends,
  sent_at: isoOrNull(row.sent_at),
  answered_at: isoOrNull(row.answered_at),
  settle_at: isoOrNull(row.settle_at),
  error: row.error,
  created_at: iso(row.created_at),
  gone_at: isoOrNull(row.gone_at),
})
