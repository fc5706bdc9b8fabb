/** A launch order as people write it, and the check of its names against what the project may use. */
import { z } from '@hono/zod-openapi'
import type { Problem } from '../../domain/errors.ts'
import type { CloudNames } from '../../store/clouds.ts'
import { invalid } from '../errors.ts'
import { fields, Name, Word } from '../schemas.ts'

const ITEMS_MAX = 1_000
const CLOUDS_MAX = 20
const USER_DATA_BYTES_MAX = 65_536
const EXTRA_BYTES_MAX = 65_536

const bytes = (text: string): number => Buffer.byteLength(text, 'utf8')

/** The fields; `policyFits` belongs behind them. */
export const orderShape = {
  name: Name,
  deployment: Name.optional().openapi({
    description: 'Name of the deployment; made when new. Default: one of its own.',
  }),
  count: z.int().min(1).max(ITEMS_MAX).default(1),
  policy: z.enum(['all', 'at_least', 'any']).default('all').openapi({
    description: 'How many must run. Where that cannot be met everything is undone.',
  }),
  at_least: z.int().min(1).max(ITEMS_MAX).optional().openapi({ description: 'With policy `at_least`.' }),
  clouds: z
    .array(Word)
    .min(1)
    .max(CLOUDS_MAX)
    .refine((names) => new Set(names).size === names.length, { error: 'names a cloud twice' })
    .optional()
    .openapi({ description: 'In order of preference. Default: all that offer size and image, by priority.' }),
  size: z.string().min(1).max(200),
  image: z.string().min(1).max(200),
  user_data: z
    .string()
    .refine((text) => bytes(text) <= USER_DATA_BYTES_MAX, { error: `is longer than ${USER_DATA_BYTES_MAX} bytes` })
    .optional()
    .openapi({ description: 'Given to the machines; kept sealed and never shown.' }),
  extra: z
    .record(z.string().min(1).max(200), z.record(z.string(), z.unknown()))
    .refine((extra) => bytes(JSON.stringify(extra)) <= EXTRA_BYTES_MAX, {
      error: `is longer than ${EXTRA_BYTES_MAX} bytes`,
    })
    .optional(),
  priority: z.int().min(-1_000).max(1_000).optional(),
} as const

/** `at_least` stands with its policy and is no more than there are. */
export const policyFits = (order: { policy: string; at_least?: number | undefined; count: number }): boolean =>
  order.policy === 'at_least' ? (order.at_least ?? order.count + 1) <= order.count : order.at_least === undefined

export const POLICY_ERROR = {
  error: 'goes with policy "at_least" only, where it is needed and at most `count`',
  path: ['at_least'],
}

export const OrderInput = fields(orderShape).refine(policyFits, POLICY_ERROR).openapi('LaunchOrderInput')

/** Which clouds an order goes to; a 400 that names what there is where it asks for something else. */
export function checkNames(
  order: { clouds?: string[] | undefined; size: string; image: string },
  granted: readonly CloudNames[],
  path = 'body',
): CloudNames[] {
  const problems: Problem[] = []
  const by_name = new Map(granted.map((cloud) => [cloud.name, cloud]))
  const chosen = (order.clouds ?? []).flatMap((name, i) => {
    const cloud = by_name.get(name)
    if (!cloud) {
      const reason = 'is not a cloud this project may use'
      problems.push({ path: `${path}.clouds[${i}]`, reason, accepted: [...by_name.keys()] })
    }
    return cloud ? [cloud] : []
  })
  const clouds = order.clouds ? chosen : granted.filter((cloud) => offers(cloud, order))
  if (!order.clouds && !clouds.length) problems.push(...noneOffers(order, granted, path))
  for (const cloud of chosen) {
    for (const kind of ['size', 'image'] as const) {
      const names = Object.keys(cloud[`${kind}s`])
      if (!names.includes(order[kind]))
        problems.push({ path: `${path}.${kind}`, reason: `cloud ${cloud.name} has no such ${kind}`, accepted: names })
    }
  }
  if (problems.length) throw invalid(problems as [Problem, ...Problem[]])
  return clouds
}

const offers = (cloud: CloudNames, order: { size: string; image: string }): boolean =>
  Object.hasOwn(cloud.sizes, order.size) && Object.hasOwn(cloud.images, order.image)

function noneOffers(order: { size: string; image: string }, granted: readonly CloudNames[], path: string): Problem[] {
  if (!granted.length) return [{ path: `${path}.clouds`, reason: 'this project may use no cloud yet' }]
  const problems = (['size', 'image'] as const).flatMap((kind): Problem[] => {
    const names = [...new Set(granted.flatMap((cloud) => Object.keys(cloud[`${kind}s`])))]
    const reason = `no cloud of this project has such ${kind === 'size' ? 'a size' : 'an image'}`
    return names.includes(order[kind]) ? [] : [{ path: `${path}.${kind}`, reason, accepted: names }]
  })
  const both = { path: `${path}.image`, reason: 'no cloud of this project has both this size and this image' }
  return problems.length ? problems : [both]
}
