/** Every way in which the simulated cloud lies, breaks or refuses, seen from behind the adapter. */
import { ulid } from 'ulid'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Machine, Provider } from '../../providers/provider.ts'
import type { CloudConfigurationInput } from '../../providers/simulated/configuration.ts'
import { waitFor } from '../support/wait-for.ts'
import { deleteUntilGone, expectClass, listAll } from './contract.ts'
import { CloudControl, openSimulatedCloud } from './simulated-control.ts'

const installation_id = 'installation-1'
const signal = () => AbortSignal.timeout(10_000)

let server: Awaited<ReturnType<typeof openSimulatedCloud>>
let cloud: CloudControl
let provider: Provider

beforeAll(async () => {
  server = await openSimulatedCloud()
})
afterAll(() => server.close())
beforeEach(() => open())

async function open(configuration: CloudConfigurationInput = {}): Promise<void> {
  cloud = new CloudControl(server.url, `cloud-${ulid()}`)
  await cloud.configure({ boot_latency_ms: 5, delete_latency_ms: 5, stop_latency_ms: 5, ...configuration })
  provider = cloud.provider({ call_timeout_ms: 200 })
}

function create(more: Record<string, unknown> = {}): Promise<Machine> {
  const attempt_id = ulid()
  const machine = { attempt_id, installation_id, name: `m-${attempt_id}`, size: 'm1.tiny', image: 'debian-13', ...more }
  return provider.create(machine, signal())
}

async function reaches(provider_id: string, state: Machine['state']): Promise<Machine> {
  const look = async () => {
    const machine = await provider.get(provider_id, signal())
    return machine.state === state && machine
  }
  return waitFor(look, { what: `the machine to be ${state}` })
}

describe('refusals', () => {
  for (const errorClass of ['capacity', 'quota', 'invalid', 'conflict', 'auth', 'throttled', 'unavailable'] as const) {
    for (const presents_as of ['openstack', 'aws'] as const) {
      test(`a create refused as ${presents_as} does for ${errorClass} is ${errorClass} and makes nothing`, async () => {
        await open({ presents_as, accept_any_names: true })
        await cloud.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'error', class: errorClass } })
        await expectClass(create(), errorClass)
        expect(await cloud.machines()).toEqual([])
        await create()
        expect(await cloud.machines()).toHaveLength(1)
      })
    }
  }

  test('a machine can be denied for a while after it was made', async () => {
    const { provider_id } = await create()
    await cloud.fault({ match: { verb: 'get' }, times: 2, effect: { kind: 'error', class: 'not_found' } })
    await expectClass(provider.get(provider_id, signal()), 'not_found')
    await expectClass(provider.get(provider_id, signal()), 'not_found')
    expect((await provider.get(provider_id, signal())).provider_id).toBe(provider_id)
  })

  test('throttled tells when to come again', async () => {
    const effect = { kind: 'error', class: 'throttled', retry_after_ms: 1_234 } as const
    await cloud.fault({ effect })
    expect((await expectClass(create(), 'throttled')).retry_after_ms).toBe(1_234)
  })

  test('the text of the provider goes to evidence, cut to 500 characters', async () => {
    await cloud.fault({ effect: { kind: 'error', class: 'quota', message: 'x'.repeat(2_000) } })
    const error = await expectClass(create(), 'quota')
    expect(error.message).not.toContain('xxx')
    expect(error.evidence.text).toBe('x'.repeat(500))
  })

  test('a bare 500 leaves open what a write did, and a read is merely unavailable', async () => {
    const { provider_id } = await create()
    await cloud.fault({ effect: { kind: 'answer', status: 500, body: 'oops' } })
    await expectClass(create(), 'lost_reply')
    await expectClass(provider.delete(provider_id, signal()), 'lost_reply')
    await expectClass(provider.get(provider_id, signal()), 'unavailable')
  })

  test('the rate limit refuses what is too much, carries none of it out, and says when to come again', async () => {
    await open({ rate_limit: { calls_per_s: 5, burst: 2 } })
    await create()
    await create()
    const error = await expectClass(create(), 'throttled')
    expect(error.retry_after_ms).toBeGreaterThan(0)
    expect(error.retry_after_ms).toBeLessThanOrEqual(200)
    expect(await cloud.machines()).toHaveLength(2)
    await waitFor(create, { what: 'the limit to allow another call' })
  })
})

describe('when a fault strikes', () => {
  const refused = async (count: number) => {
    const outcomes: boolean[] = []
    for (let number = 0; number < count; number += 1) {
      outcomes.push(
        await create().then(
          () => false,
          () => true,
        ),
      )
    }
    return outcomes
  }
  const effect = { kind: 'error', class: 'capacity' } as const

  test('the next three', async () => {
    await cloud.fault({ times: 3, effect })
    expect(await refused(5)).toEqual([true, true, true, false, false])
  })

  test('from the third on, and only two', async () => {
    await cloud.fault({ from: 3, times: 2, effect })
    expect(await refused(6)).toEqual([false, false, true, true, false, false])
  })

  test('with a probability, the same ones for the same seed and fault', async () => {
    const once = async () => {
      await open({ seed: 5 })
      await cloud.fault({ id: 'sometimes', probability: 0.5, effect })
      return refused(20)
    }
    const first = await once()
    expect(await once()).toEqual(first)
    expect(new Set(first).size).toBe(2)
  })

  test('only for a size, only for an attempt, and the more specific one first', async () => {
    await cloud.fault({ match: { verb: 'create' }, effect })
    await cloud.fault({ match: { verb: 'create', size: 'm1.large' }, effect: { kind: 'error', class: 'quota' } })
    const match = { verb: 'create', size: '4', attempt_id: 'special' } as const
    await cloud.fault({ match, effect: { kind: 'error', class: 'invalid' } })
    await expectClass(create(), 'capacity')
    await expectClass(create({ size: 'm1.large' }), 'quota')
    await expectClass(create({ size: 'm1.large', attempt_id: 'special' }), 'invalid')
  })

  test('only for machines on one host', async () => {
    const [first, second] = [
      await create({ extra: { host: 'compute-1' } }),
      await create({ extra: { host: 'compute-2' } }),
    ]
    await cloud.fault({ match: { host: 'compute-2' }, effect: { kind: 'down' } })
    expect((await provider.get(first.provider_id, signal())).provider_id).toBe(first.provider_id)
    await expectClass(provider.get(second.provider_id, signal()), 'unavailable')
  })

  test('for a while only, until removed, and told in the list of faults', async () => {
    await cloud.fault({ for_ms: 100, effect })
    await expectClass(create(), 'capacity')
    await waitFor(create, { what: 'the fault to end' })
    const id = await cloud.fault({ effect })
    expect(await cloud.send('GET', '/faults')).toMatchObject({ faults: [{ struck: expect.any(Number) }, { id }] })
    await cloud.noFaults()
    await create()
  })
})

describe('replies that do not arrive', () => {
  for (const how of ['reset', 'close', 'truncate', 'garbage', 'hang'] as const) {
    test(`a create whose reply is lost by ${how} is done, and the caller cannot know`, async () => {
      await create() // leaves a connection that is kept alive
      await cloud.fault({ match: { verb: 'create' }, times: 1, effect: { kind: 'lost_reply', how } })
      await expectClass(create(), 'lost_reply')
      expect(await cloud.machines()).toHaveLength(2)
      const creates = (await cloud.ledger()).filter(({ kind, verb }) => kind === 'request' && verb === 'create')
      expect(creates).toHaveLength(2)
      const lost = (await cloud.ledger()).find(({ outcome }) => outcome === 'lost')
      expect(lost).toMatchObject({ how, status: 202, request_seq: creates[1]?.seq })
    })
  }

  test('with tokens the repeat gives the machine of the lost create', async () => {
    await open({ idempotency_tokens: true })
    provider = cloud.provider({ idempotency_tokens: true })
    await cloud.fault({ times: 1, effect: { kind: 'lost_reply' } })
    await expectClass(create({ attempt_id: 'a', name: 'm' }), 'lost_reply')
    const machine = await create({ attempt_id: 'a', name: 'm' })
    expect((await cloud.machines()).map(({ id }) => id)).toEqual([machine.provider_id])
  })

  test('a late create appears long after the caller gave up', async () => {
    await cloud.fault({ times: 1, effect: { kind: 'late', after_ms: 300 } })
    await expectClass(create({ attempt_id: 'late' }), 'lost_reply')
    expect(await listAll(provider, installation_id)).toEqual([])
    const appeared = await waitFor(async () => (await listAll(provider, installation_id))[0], { what: 'the machine' })
    expect(appeared.attempt_id).toBe('late')
    const lines = await cloud.ledger()
    const request = lines.find(({ kind, verb }) => kind === 'request' && verb === 'create')!
    const created = lines.find(({ change }) => change === 'created')!
    expect(created.request_seq).toBe(request.seq)
    expect(created.at - request.at).toBeGreaterThanOrEqual(300)
  })

  test('where the cloud has tokens a late create makes no second machine', async () => {
    await open({ idempotency_tokens: true })
    provider = cloud.provider({ idempotency_tokens: true })
    await cloud.fault({ times: 1, effect: { kind: 'late', after_ms: 50 } })
    await expectClass(create({ attempt_id: 'a', name: 'm' }), 'lost_reply')
    await create({ attempt_id: 'a', name: 'm' })
    const is_over = async () => (await cloud.ledger()).some(({ action }) => action === 'late')
    await waitFor(is_over, { what: 'the late create' })
    expect(await cloud.machines()).toHaveLength(1)
  })

  test('a delete can be late, too', async () => {
    const { provider_id } = await create()
    await cloud.fault({ match: { verb: 'delete' }, times: 1, effect: { kind: 'late', after_ms: 50 } })
    await expectClass(provider.delete(provider_id, signal()), 'lost_reply')
    await waitFor(async () => (await cloud.machines())[0]?.gone_at, { what: 'the machine to be gone' })
  })

  for (const verb of ['create', 'get', 'list', 'start', 'stop', 'reboot', 'delete', 'console', 'sizes'] as const) {
    test(`a hanging ${verb} ends by the time-out of the call and carries nothing out`, async () => {
      const { provider_id } = await create()
      await reaches(provider_id, 'running')
      await cloud.fault({ match: { verb }, effect: { kind: 'hang' } })
      const calls: Record<typeof verb, () => Promise<unknown>> = {
        create: () => create(),
        get: () => provider.get(provider_id, signal()),
        list: () => provider.list(installation_id, null, signal()),
        start: () => provider.start(provider_id, signal()),
        stop: () => provider.stop(provider_id, signal()),
        reboot: () => provider.reboot(provider_id, 'soft', signal()),
        delete: () => provider.delete(provider_id, signal()),
        console: () => provider.consoleLog(provider_id, signal()),
        sizes: () => provider.sizes(signal()),
      }
      const is_write = ['create', 'start', 'stop', 'reboot', 'delete'].includes(verb)
      await expectClass(calls[verb](), is_write ? 'lost_reply' : 'unavailable')
      expect(await cloud.machines()).toMatchObject([{ state: 'running' }])
    })
  }

  test('a call that hangs for a while is carried out although nobody waits for it', async () => {
    await cloud.fault({ effect: { kind: 'hang', for_ms: 300 } })
    await expectClass(create(), 'lost_reply')
    await waitFor(async () => (await cloud.machines()).length === 1, { what: 'the machine' })
    await waitFor(async () => (await cloud.ledger()).some(({ outcome }) => outcome === 'caller_gone'), {
      what: 'a note',
    })
  })

  test('a cloud that is down answers nobody', async () => {
    const { provider_id } = await create()
    for (const how of ['reset', 'close', '503'] as const) {
      await cloud.noFaults()
      await cloud.fault({ effect: { kind: 'down', how } })
      await expectClass(provider.get(provider_id, signal()), 'unavailable')
      await expectClass(provider.list(installation_id, null, signal()), 'unavailable')
      await expectClass(create(), 'lost_reply')
      await expectClass(provider.delete(provider_id, signal()), 'lost_reply')
    }
    expect(await cloud.machines()).toMatchObject([{ gone_at: null }])
  })
})

describe('slowness', () => {
  test('calls and creates take their time', async () => {
    await open({ create_latency_ms: 60, call_latency_ms: { uniform_ms: [30, 40] } })
    const begin = performance.now()
    await create()
    expect(performance.now() - begin).toBeGreaterThanOrEqual(88)
    await cloud.fault({ match: { verb: 'delete' }, effect: { kind: 'delay', latency_ms: 500 } })
    const [machine] = await listAll(provider, installation_id)
    await expectClass(provider.delete(machine!.provider_id, signal()), 'lost_reply')
  })

  test('a slow delete keeps the machine terminating', async () => {
    await open({ delete_latency_ms: 150 })
    const { provider_id } = await create()
    await provider.delete(provider_id, signal())
    expect((await provider.get(provider_id, signal())).state).toBe('terminating')
    await deleteUntilGone(provider, provider_id, 2_000)
    const [life] = await cloud.machines()
    expect(life?.gone_how).toBe('deleted')
  })
})

describe('machines that do not as they should', () => {
  test('a boot fails, or never ends', async () => {
    await cloud.fault({ times: 1, effect: { kind: 'boot', outcome: 'fails' } })
    await reaches((await create()).provider_id, 'failed')
    await cloud.fault({ times: 1, effect: { kind: 'boot', outcome: 'stuck' } })
    const stuck = await create()
    const after = await create()
    await reaches(after.provider_id, 'running')
    expect((await provider.get(stuck.provider_id, signal())).state).toBe('pending')
    await deleteUntilGone(provider, stuck.provider_id, 1_000)
  })

  test('on command a machine dies or vanishes without a trace', async () => {
    const [dead, gone] = [await create(), await create()]
    await reaches(gone.provider_id, 'running')
    await cloud.fate(dead.provider_id, 'die')
    await cloud.fate(gone.provider_id, 'vanish')
    expect((await provider.get(dead.provider_id, signal())).state).toBe('failed')
    await expectClass(provider.get(gone.provider_id, signal()), 'not_found')
    const listed = await listAll(provider, installation_id)
    expect(listed.map(({ provider_id }) => provider_id)).toEqual([dead.provider_id])
    expect((await cloud.machines()).map(({ gone_how }) => gone_how)).toEqual([null, 'vanished'])
  })

  test('machines die and vanish by themselves at a random rate', async () => {
    await open({ die_after_ms: { exponential_ms: 20 }, rules: [{ match: { size: '2' }, vanish_after_ms: 20 }] })
    await reaches((await create()).provider_id, 'failed')
    const { provider_id } = await create({ size: 'm1.small' })
    const is_gone = async () => (await cloud.machines()).find(({ id }) => id === provider_id)?.gone_how === 'vanished'
    await waitFor(is_gone, { what: 'the machine to vanish' })
  })

  test('what is ignored is answered as done, and is not', async () => {
    const { provider_id } = await create()
    await reaches(provider_id, 'running')
    await cloud.fault({ effect: { kind: 'ignored' } })
    await provider.delete(provider_id, signal())
    await provider.stop(provider_id, signal())
    const phantom = await create()
    await cloud.noFaults()
    expect((await provider.get(provider_id, signal())).state).toBe('running')
    await expectClass(provider.get(phantom.provider_id, signal()), 'not_found')
  })
})

describe('lists that lie', () => {
  test('a list that lags shows the state as it was', async () => {
    await open({ list: { lag_ms: 250 } })
    const { provider_id } = await create()
    await reaches(provider_id, 'running')
    expect(await listAll(provider, installation_id)).toEqual([])
    const listed = async () => (await listAll(provider, installation_id))[0]
    await waitFor(async () => (await listed())?.state === 'running', { what: 'the list to catch up' })
    await deleteUntilGone(provider, provider_id, 1_000)
    expect((await listed())?.state).toBe('running')
    await waitFor(async () => (await listed()) === undefined, { what: 'the list to forget' })
  })

  test('a list omits machines for a while, the same ones each time', async () => {
    for (let count = 0; count < 12; count += 1) await create()
    await cloud.fault({ id: 'omit', match: { verb: 'list' }, effect: { kind: 'list', omit_probability: 0.5 } })
    const first = await listAll(provider, installation_id)
    expect(first.length).toBeGreaterThan(0)
    expect(first.length).toBeLessThan(12)
    expect(await listAll(provider, installation_id)).toHaveLength(first.length)
    await cloud.send('DELETE', '/faults/omit')
    expect(await listAll(provider, installation_id)).toHaveLength(12)
  })

  test('pages come in an order of their own, and still tell every machine', async () => {
    await open({ page_size: 3, list: { shuffle: true } })
    const made: string[] = []
    for (let count = 0; count < 10; count += 1) made.push((await create()).provider_id)
    const listed = (await listAll(provider, installation_id)).map(({ provider_id }) => provider_id)
    expect(listed).not.toEqual(made)
    expect([...listed].sort()).toEqual([...made].sort())
  })

  test('a list tells machines twice, within a page and across pages, and still ends', async () => {
    await open({ page_size: 3, list: { duplicate_probability: 1 } })
    const made = new Set<string>()
    for (let count = 0; count < 7; count += 1) made.add((await create()).provider_id)
    const listed = (await listAll(provider, installation_id)).map(({ provider_id }) => provider_id)
    expect(new Set(listed)).toEqual(made)
    expect(listed.length).toBeGreaterThan(2 * made.size)
  })
})
