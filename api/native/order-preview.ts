/** What would become of a launch order: where it would go, what would wait and why. Changes nothing. */
import { z } from '@hono/zod-openapi'
import type { Placement as Choice } from '../../domain/launch-order.ts'
import { choicesOf } from '../../domain/order/choices.ts'
import { previewPlacement } from '../../domain/order/preview.ts'
import type { CloudView, ItemView } from '../../domain/order/view.ts'
import { listClouds, type ShownCloud } from '../../store/clouds.ts'
import { findCredential } from '../../store/credentials.ts'
import { closedRealms } from '../../store/surveys.ts'
import type { ApiDeps } from '../context.ts'
import type { ChosenCredentials } from './credential-input.ts'
import type { CheckedNames } from './order-input.ts'

export const Placement = z
  .strictObject({
    fits: z.boolean().openapi({ description: 'All of it would go somewhere at once.' }),
    policy_met: z.boolean().openapi({ description: 'As many would go somewhere at once as must run.' }),
    clouds: z
      .array(
        z.strictObject({
          cloud: z.string(),
          count: z.int().openapi({ description: 'Instances that would go there.' }),
          free: z.int().nullable().openapi({ description: 'Room in its allocation; null: no limit of ours.' }),
          concerns: z.array(z.string()).openapi({ description: 'What speaks against it, or holds it back.' }),
        }),
      )
      .openapi({ description: 'Those it may go to, in order of preference.' }),
    waiting: z.int().openapi({ description: 'Instances that would wait for room, or for a cloud to be open.' }),
    alternatives: z.array(z.string()).openapi({ description: 'Other clouds of yours that have all it asks for.' }),
  })
  .openapi('Placement')

interface Asked {
  readonly count: number
  readonly policy: 'all' | 'at_least' | 'any'
  readonly at_least?: number | undefined
  readonly size: string
  readonly image: string
  readonly placement?: Choice | undefined
  readonly instances?:
    | readonly { readonly size?: string | undefined; readonly realm?: string | undefined }[]
    | undefined
}

/** Places an order on paper. */
export async function previewOrder(
  { store }: ApiDeps,
  project_id: string,
  asked: Asked,
  { clouds, cloud_indexes }: CheckedNames,
  { credentials, inline_credentials }: ChosenCredentials,
): Promise<z.infer<typeof Placement>> {
  const rows = new Map((await listClouds(store.db, { project_id })).map((row) => [row.id, row]))
  const views = await Promise.all(
    clouds.map(async ({ id }): Promise<CloudView> => {
      const kept = inline_credentials.every((one) => one.cloud_id !== id) && credentials[id]
      const known = kept ? await findCredential(store.db, project_id, { id: kept }) : undefined
      return viewOf(rows.get(id)!, known?.state ?? 'ok', await closedRealms(store.db, id))
    }),
  )
  const all = [...clouds.keys()]
  const items = Array.from({ length: asked.count }, (_, i) => {
    const { size = asked.size, realm = null } = asked.instances?.[i] ?? {}
    const price = (index: number) => rows.get(clouds[index]!.id)!.prices[size]
    const choices = choicesOf(asked.placement ?? 'in_order', cloud_indexes[i] ?? all, i, price)
    return freshItem(String(i), choices, realm)
  })
  const { placed, waiting, closed } = previewPlacement({ ...EMPTY_ORDER, clouds: views, items }, Date.now())
  const count = asked.count - waiting - closed
  const must = asked.policy === 'all' ? asked.count : asked.policy === 'any' ? 1 : (asked.at_least ?? asked.count)
  return {
    fits: count === asked.count,
    policy_met: count >= must,
    clouds: views.map((view) => ({
      cloud: view.name,
      count: placed.get(view.id) ?? 0,
      free: view.free,
      concerns: concernsOf(view, rows.get(view.id)!),
    })),
    waiting: waiting + closed,
    alternatives: [...rows.values()]
      .filter((row) => !clouds.some(({ id }) => id === row.id) && row.enabled && offers(row, asked))
      .map(({ name }) => name),
  }
}

const offers = ({ sizes, images }: ShownCloud, { size, image }: Asked): boolean =>
  Object.hasOwn(sizes, size) && Object.hasOwn(images, image)

const EMPTY_ORDER = {
  state: 'queued',
  policy: 'any',
  at_least: null,
  wish: 'run',
  settled: false,
  may_delete: true,
  deadline_at: null,
  hold: false,
  retry_budget: {},
  healing: 'none',
  healing_room: 0,
  next_batch: 1,
  next_undo_batch: 1,
} as const

const viewOf = (row: ShownCloud, credential: CloudView['credential'], closed_realms: readonly string[]): CloudView => ({
  id: row.id,
  name: row.name,
  enabled: row.enabled,
  idempotency_tokens: false,
  call_timeout_ms: 0,
  boot_timeout_ms: 0,
  listed_at: row.last_list_sent_at?.getTime() ?? null,
  credential,
  closed_realms,
  free: row.allocation === null ? null : Math.max(0, row.allocation - row.allocation_used),
})

const freshItem = (id: string, cloud_indexes: readonly number[], realm: string | null): ItemView => ({
  id,
  state: 'queued',
  cloud_index: 0,
  cloud_indexes,
  realm,
  rounds: 0,
  errors: {},
  attempts: 0,
  next_attempt_at: null,
  last_error: null,
  instance_id: id,
  instance_state: 'pending',
  instance_wish: 'run',
  naming: null,
  restart: null,
  open: [],
})

function concernsOf({ enabled, credential, free }: CloudView, row: ShownCloud): string[] {
  const away = row.state === 'unreachable' || row.state === 'refused'
  return [
    ...(enabled ? [] : ['it is disabled']),
    ...(away ? [`it is ${row.state} since ${row.stale_since?.toISOString() ?? 'a moment'}`] : []),
    ...(credential === 'ok' ? [] : [`the credential for it is ${credential}`]),
    ...(free === 0 ? ['its allocation is taken'] : []),
  ]
}
