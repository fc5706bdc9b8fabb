/** Launch orders, end to end: real HTTP, Temporal and PostgreSQL; only the clouds are simulated. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { instancesOf, submitOrder, untilInstance, untilOrder } from '../support/flow.ts'
import { type Harness, startHarness } from '../support/harness.ts'
import { waitFor } from '../support/wait-for.ts'

let h: Harness
beforeAll(async () => {
  h = await startHarness()
})
afterAll(() => h.close())

const alive = (machines: readonly { gone_at: number | null }[]) =>
  machines.filter((machine) => machine.gone_at === null)

describe('forward', () => {
  test('an order becomes machines at a well-behaved cloud, and its end takes them away', async () => {
    const project = await h.project()
    const cloud = await h.cloud(project)
    const { id } = await submitOrder(project, { count: 3 })
    expect(await untilOrder(project.api, id, ['running', 'failed'])).toMatchObject({
      state: 'running',
      partial: false,
      counts: { running: 3 },
    })
    const instances = await instancesOf(project.api, id)
    expect(instances.every((instance) => instance.state === 'running' && instance.cloud === cloud.name)).toBe(true)
    expect(alive(await cloud.control.machines())).toHaveLength(3)
    await project.api.delete(`/api/launch-orders/${id}`)
    await untilOrder(project.api, id, ['terminated'])
    expect(alive(await cloud.control.machines())).toHaveLength(0)
  })

  test('where a cloud refuses half-way the rest goes to the next', async () => {
    const project = await h.project()
    const small = await h.cloud(project, { configuration: { capacity: 2 } })
    const large = await h.cloud(project, { configuration: { presents_as: 'aws' } })
    const { id } = await submitOrder(project, { count: 5, clouds: [small.name, large.name] })
    expect(await untilOrder(project.api, id, ['running', 'failed'])).toMatchObject({ state: 'running' })
    expect(alive(await small.control.machines())).toHaveLength(2)
    expect(alive(await large.control.machines())).toHaveLength(3)
  })

  test('policy all: refused by every cloud, everything is undone', async () => {
    const project = await h.project()
    const cloud = await h.cloud(project, { configuration: { capacity: 2 } })
    const { id } = await submitOrder(project, { count: 3 })
    await untilOrder(project.api, id, ['failed'])
    expect(alive(await cloud.control.machines())).toHaveLength(0)
    expect((await instancesOf(project.api, id)).map((instance) => instance.state).toSorted()).toEqual([
      'failed',
      'terminated',
      'terminated',
    ])
  })

  test.each([
    ['any', {}, 'running'],
    ['at_least', { at_least: 2 }, 'running'],
    ['at_least', { at_least: 3 }, 'failed'],
  ] as const)('policy %s %j with room for two of three: %s', async (policy, more, state) => {
    const project = await h.project()
    const cloud = await h.cloud(project, { configuration: { capacity: 2 } })
    const { id } = await submitOrder(project, { count: 3, policy, ...more })
    expect(await untilOrder(project.api, id, ['running', 'failed'])).toMatchObject({
      state,
      partial: state === 'running',
    })
    expect(alive(await cloud.control.machines())).toHaveLength(state === 'running' ? 2 : 0)
  })

  test('a machine that fails to boot is replaced and removed', async () => {
    const project = await h.project()
    const cloud = await h.cloud(project)
    await cloud.control.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'boot', outcome: 'fails' } })
    const { id } = await submitOrder(project, { count: 2 })
    await untilOrder(project.api, id, ['running'])
    await waitFor(async () => alive(await cloud.control.machines()).length === 2, {
      what: 'the failed machine to go',
      timeout_ms: 20_000,
    })
    expect(await cloud.control.machines()).toHaveLength(3)
  })

  test('a throttled cloud is asked again when it said so, and not before', async () => {
    const project = await h.project()
    const cloud = await h.cloud(project)
    await cloud.control.fault({
      match: { verb: 'create' },
      times: 2,
      effect: { kind: 'error', class: 'throttled', retry_after_ms: 1_000 },
    })
    const { id } = await submitOrder(project, { count: 2 })
    await untilOrder(project.api, id, ['running'])
    expect(await cloud.control.machines()).toHaveLength(2)
  })
})

describe('one instance', () => {
  test('is terminated by itself; its order becomes partial, and is over with its last', async () => {
    const project = await h.project()
    const cloud = await h.cloud(project)
    const { id } = await submitOrder(project, { count: 2 })
    await untilOrder(project.api, id, ['running'])
    const [first, second] = await instancesOf(project.api, id)
    await project.api.post(`/api/instances/${first!.id}/actions`, { action: 'terminate' })
    await untilInstance(project.api, first!.id, ['terminated'])
    await waitFor(async () => (await untilOrder(project.api, id, ['running'])).partial, {
      what: 'the order to be partial',
      timeout_ms: 20_000,
    })
    expect(alive(await cloud.control.machines())).toHaveLength(1)
    await project.api.post(`/api/instances/${second!.id}/actions`, { action: 'terminate' })
    await untilOrder(project.api, id, ['terminated'])
  })

  test('that vanishes is missing after two lists and a get, and its order is partial', async () => {
    const project = await h.project()
    const cloud = await h.cloud(project)
    const { id } = await submitOrder(project, { count: 2 })
    await untilOrder(project.api, id, ['running'])
    const [first] = await instancesOf(project.api, id)
    await cloud.control.fate(first!.provider_id!, 'vanish')
    await untilInstance(project.api, first!.id, ['missing'])
    await waitFor(async () => (await untilOrder(project.api, id, ['running'])).partial, {
      what: 'the order to be partial',
      timeout_ms: 20_000,
    })
  }, 90_000)
})
