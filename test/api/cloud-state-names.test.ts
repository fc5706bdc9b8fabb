/** Cloud State: sizes and images by the names the clouds themselves have for them. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ApiClient, ErrorAnswer } from '../support/api-client.ts'
import { type ApiServer, startApi } from '../support/api-server.ts'
import { INSTANCES, ORDERS, one } from '../support/cloud-state.ts'

interface Shown {
  readonly name: string
  readonly hwp_id: string
  readonly image_id: string
}

let server: ApiServer
let api: ApiClient
beforeAll(async () => {
  server = await startApi()
  api = await server.client('web')
  const east = { sizes: { small: '2', east_only: '7' }, images: { debian: 'a', rocky: 'b' }, priority: 5 }
  const west = { sizes: { small: '1', large: '2', tiny: 'small' }, images: { debian: 'b', rocky: 'a', suse: 'c' } }
  await server.cloud('east', ['web'], east)
  await server.cloud('west', ['web'], west)
})
afterAll(() => server.close())

describe("a cloud's own name is read by the map", () => {
  test.each<[string, Record<string, unknown>, Record<string, unknown>]>([
    ['of the cloud the instance names', { cloud: 'west', hwp_id: '2' }, { hwp_id: 'large' }],
    ['of that cloud for an image, too', { cloud: 'west', image_id: 'b' }, { image_id: 'debian' }],
    ['of the one cloud that knows it', { hwp_id: '7' }, { hwp_id: 'east_only' }],
  ])('%s', async (_, sent, shown) => {
    const { body } = await api.post<{ instance: Shown }>(INSTANCES, one(sent), { expect: 202 })
    expect(body.instance).toMatchObject(shown)
  })

  test('of the clouds of the order, unless the instance names its own', async () => {
    const instances = [one({ name: 'as the order', hwp_id: '1' }), one({ name: 'another', cloud: 'west', hwp_id: '2' })]
    const { body } = await api.post<{ launch_order: { instances: Shown[] } }>(
      ORDERS,
      { cloud: 'west', instances },
      { expect: 202 },
    )
    const shown = Object.fromEntries(body.launch_order.instances.map(({ name, hwp_id }) => [name, hwp_id]))
    expect(shown).toEqual({ 'as the order': 'small', another: 'large' })
  })
})

test('our names come first: one that a cloud uses for something else is ours', async () => {
  const { body } = await api.post<{ instance: Shown }>(INSTANCES, one({ cloud: 'west' }), { expect: 202 })
  expect(body.instance.hwp_id).toBe('small')
})

test.each([
  ['several', { instances: [one(), one({ hwp_id: '2', image_id: 'a' })] }, 1],
  ['clouds by name', { clouds: ['west', 'east'], instances: [one({ hwp_id: '2', image_id: 'a' })] }, 0],
  ['so many like one', { count: 3, instances: [one({ hwp_id: '2', image_id: 'a' })] }, 0],
])('what means another thing at each cloud is refused: %s', async (_, order, i) => {
  const { body } = await api.post<ErrorAnswer>(ORDERS, order, { expect: 400 })
  const by_path = Object.fromEntries(body.error.problems!.map(({ path, reason }) => [path, reason]))
  expect(body.error.problems).toHaveLength(2)
  expect(by_path).toEqual({
    [`body.instances[${i}].hwp_id`]: 'is small at cloud east, large at cloud west: name the cloud',
    [`body.instances[${i}].image_id`]: 'is debian at cloud east, rocky at cloud west: name the cloud',
  })
})
