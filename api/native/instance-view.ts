/** An instance as the native wire shows it. */
import { z } from '@hono/zod-openapi'
import type { findInstance } from '../../store/instances.ts'
import { BlockerOut, iso, isoOrNull, MomentOut } from '../schemas.ts'

export const INSTANCE_STATES = [
  'pending',
  'starting',
  'running',
  'stopping',
  'stopped',
  'rebooting',
  'terminating',
  'terminated',
  'failed',
  'missing',
] as const

export const Instance = z
  .strictObject({
    id: z.string(),
    href: z.string(),
    name: z
      .string()
      .openapi({ description: 'Until an inventory outside has named it: the id of the request for its name.' }),
    external_id: z.string().nullable(),
    state: z.enum(INSTANCE_STATES),
    order_id: z.string(),
    deployment_id: z.string(),
    cloud: z.string().nullable().openapi({ description: 'Where it is; null until a machine is bound to it.' }),
    provider_id: z.string().nullable(),
    raw_state: z.string().nullable().openapi({ description: "The cloud's own word." }),
    size: z.string(),
    image: z.string(),
    public_addresses: z.array(z.string()),
    private_addresses: z.array(z.string()),
    wish: z.enum(['run', 'stop', 'terminate']),
    blocker: BlockerOut.nullable(),
    stale_since: MomentOut.nullable().openapi({
      description: 'Its cloud cannot be reached; the state is the last known.',
    }),
    sequence: z.int(),
    created_at: MomentOut,
    running_at: MomentOut.nullable(),
    terminated_at: MomentOut.nullable(),
  })
  .openapi('Instance')

type InstanceRow = NonNullable<Awaited<ReturnType<typeof findInstance>>>

export const renderInstance = (row: InstanceRow): z.infer<typeof Instance> => ({
  id: row.id,
  href: `/api/deployments/${row.deployment_id}/instances/${row.id}`,
  name: row.name,
  external_id: row.external_id,
  state: row.state,
  order_id: row.order_id,
  deployment_id: row.deployment_id,
  cloud: row.cloud,
  provider_id: row.provider_id,
  raw_state: row.raw_state,
  size: row.size,
  image: row.image,
  public_addresses: row.public_addresses,
  private_addresses: row.private_addresses,
  wish: row.wish,
  blocker: row.blocker,
  stale_since: isoOrNull(row.stale_since),
  sequence: row.sequence,
  created_at: iso(row.created_at),
  running_at: isoOrNull(row.running_at),
  terminated_at: isoOrNull(row.terminated_at),
})
