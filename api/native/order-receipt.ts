/** The receipt of an order, as the native wire shows it. */
import { z } from '@hono/zod-openapi'
import type { findOrder } from '../../store/orders.ts'
import type { countUnmade, listMade } from '../../store/receipt.ts'
import { isoOrNull, MomentOut } from '../schemas.ts'
import { ORDER_STATES } from './order-view.ts'

export const Receipt = z
  .strictObject({
    order_id: z.string(),
    state: z.enum(ORDER_STATES),
    complete: z
      .boolean()
      .openapi({ description: 'It will not change any more: the order is over, and nothing of it is left.' }),
    made: z.int().openapi({ description: 'Machines that were made for it.' }),
    undone: z.int().openapi({ description: 'Of these: gone, confirmed by their cloud.' }),
    remaining: z.int(),
    released: z.int().openapi({ description: 'Let go by a person: they live on and are not ours.' }),
    never_made: z.int().openapi({ description: 'Launch attempts that never had a machine.' }),
    unknown: z.int().openapi({ description: 'Launch attempts of which that is not known yet.' }),
    unknown_until: MomentOut.nullable(),
    machines: z.array(
      z.strictObject({
        cloud: z.string(),
        provider_id: z.string(),
        credential_id: z
          .string()
          .nullable()
          .openapi({ description: "Of the account it is in; null: the cloud's own." }),
        attempt_id: z.string(),
        instance_id: z.string(),
        made_at: MomentOut.nullable(),
        fate: z.enum(['remains', 'deleted', 'vanished', 'released']),
        confirmed_at: MomentOut.nullable().openapi({ description: 'When its cloud had no such machine any more.' }),
        owner: z.string().nullable().openapi({
          description:
            'Who has what remains: the instance it is bound to, or the order, which deletes it; null: nobody.',
        }),
      }),
    ),
  })
  .openapi('Receipt')

type Order = NonNullable<Awaited<ReturnType<typeof findOrder>>>
type Made = Awaited<ReturnType<typeof listMade>>[number]

const OVER: ReadonlySet<string> = new Set(['cancelled', 'terminated', 'failed'])

/** Renders a receipt from the machines and attempts of an order. */
export function renderReceipt(
  order: Order,
  made: readonly Made[],
  unmade: Awaited<ReturnType<typeof countUnmade>>,
): z.infer<typeof Receipt> {
  const count = (...fates: readonly Made['fate'][]): number => made.filter(({ fate }) => fates.includes(fate)).length
  const remaining = count('remains')
  return {
    order_id: order.id,
    state: order.state,
    complete: OVER.has(order.state) && remaining === 0 && unmade.unknown === 0,
    made: made.length,
    undone: count('deleted', 'vanished'),
    remaining,
    released: count('released'),
    never_made: unmade.never_made,
    unknown: unmade.unknown,
    unknown_until: isoOrNull(unmade.unknown_until),
    machines: made.map((row) => ({
      cloud: row.cloud,
      provider_id: row.provider_id!,
      credential_id: row.credential_id,
      attempt_id: row.attempt_id,
      instance_id: row.instance_id,
      made_at: isoOrNull(row.made_at),
      fate: row.fate,
      confirmed_at: row.fate === 'released' ? null : isoOrNull(row.confirmed_at),
      owner: ownerOf(order, row),
    })),
  }
}

function ownerOf(order: Order, { fate, state, instance_id, instance_wish }: Made): string | null {
  if (fate !== 'remains') return null
  const bound = state === 'won' && order.wish !== 'cancel' && order.wish !== 'terminate'
  return bound || instance_wish === 'terminate' ? `/api/instances/${instance_id}` : `/api/launch-orders/${order.id}`
}
