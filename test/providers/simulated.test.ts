import { ulid } from 'ulid'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Machine, ProviderError } from '../../providers/provider.ts'
import { createProvider, findCloudProblems } from '../../providers/registry.ts'
import type { CloudConfigurationInput } from '../../providers/simulated/configuration.ts'
import { waitFor } from '../support/wait-for.ts'
import { type ContractSubject, deleteUntilGone, describeProviderContract, expectClass, listAll } from './contract.ts'
import { CloudControl, openSimulatedCloud } from './simulated-control.ts'

const signal = () => AbortSignal.timeout(10_000)
const NOBODY_LISTENS = 'http://127.0.0.1:1/clouds/nowhere'

async function subject(
  configuration: CloudConfigurationInput,
  settings: Record<string, unknown>,
  names: { size: string; image: string },
): Promise<ContractSubject> {
  const server = await openSimulatedCloud()
  const cloud = new CloudControl(server.url, 'contract')
  const quick = { boot_latency_ms: 30, start_latency_ms: 20, stop_latency_ms: 20, reboot_latency_ms: 20 }
  await cloud.configure({ ...quick, delete_latency_ms: 20, page_size: 3, api_keys: ['right'], ...configuration })
  return {
    provider: cloud.provider(settings, 'right'),
    with_bad_credential: cloud.provider(settings, 'wrong'),
    unreachable: createProvider({ provider: 'simulated', endpoint: NOBODY_LISTENS, credential: null, settings }),
    ...names,
    several: 8,
    patience_ms: 3_000,
    close: server.close,
  }
}

describeProviderContract('the simulated cloud as openstack', () =>
  subject({ presents_as: 'openstack' }, { hosts: true }, { size: 'm1.small', image: 'ubuntu-24.04' }),
)
describeProviderContract('the simulated cloud as aws', () =>
  subject(
    { presents_as: 'aws', console_log: false },
    { idempotency_tokens: true, console_log: false },
    { size: 't3.micro', image: 'ami-0a1b2c3d4e5f60001' },
  ),
)
describeProviderContract('the simulated cloud without tags', () =>
  subject({ tags: false }, { tags: false }, { size: '1', image: 'debian-13' }),
)

describe('the simulated cloud', () => {
  let server: Awaited<ReturnType<typeof openSimulatedCloud>>
  let cloud: CloudControl
  const installation_id = 'installation-1'

  beforeAll(async () => {
    server = await openSimulatedCloud()
  })
  afterAll(() => server.close())

  const open = async (configuration: CloudConfigurationInput = {}) => {
    cloud = new CloudControl(server.url, `cloud-${ulid()}`)
    await cloud.configure({ boot_latency_ms: 10, delete_latency_ms: 10, ...configuration })
    return cloud.provider()
  }
  const machine = (more: Record<string, unknown> = {}) => {
    const attempt_id = ulid()
    return { attempt_id, installation_id, name: `m-${attempt_id}`, size: 'm1.tiny', image: 'debian-13', ...more }
  }

  test('a cloud that was never configured is no proof that a machine is gone', async () => {
    const stranger = new CloudControl(server.url, 'never-configured').provider()
    await expectClass(stranger.get('x', signal()), 'invalid')
    await expectClass(stranger.create(machine(), signal()), 'invalid')
  })

  test('tags that change are told in the ledger with the life of their machine', async () => {
    const provider = await open()
    const { provider_id } = await provider.create(machine(), signal())
    await provider.adopt(provider_id, { attempt_id: 'another', installation_id }, signal())
    await provider.adopt(provider_id, { attempt_id: 'another', installation_id }, signal())
    await provider.release(provider_id, signal())
    const told = (await cloud.ledger()).filter(({ change }) => change === 'tagged')
    expect(told).toMatchObject([
      {
        machine_id: provider_id,
        why: 'tag',
        tags: { holdfast_attempt: 'another', holdfast_installation: installation_id },
      },
      { machine_id: provider_id, why: 'untag', tags: {} },
    ])
    await cloud.fault({ match: { verb: 'tag' }, times: 1, effect: { kind: 'lost_reply' } })
    await expectClass(provider.adopt(provider_id, { attempt_id: 'late', installation_id }, signal()), 'lost_reply')
    expect(await provider.get(provider_id, signal())).toMatchObject({ attempt_id: 'late' })
  })

  test('a token used for another request is refused', async () => {
    await open({ presents_as: 'aws' })
    const provider = cloud.provider({ idempotency_tokens: true })
    const first = machine({ size: 't3.micro', image: 'ubuntu-24.04' })
    await provider.create(first, signal())
    await expectClass(provider.create({ ...first, size: 't3.small' }, signal()), 'invalid')
    expect(await cloud.machines()).toHaveLength(1)
  })

  test('raw states are the words of the type it presents itself as', async () => {
    const words: Record<string, string[]> = {}
    for (const presents_as of ['openstack', 'aws'] as const) {
      const provider = await open({ presents_as, terminated_visible_ms: 60_000, stop_latency_ms: 10 })
      const size = presents_as === 'aws' ? 't3.micro' : 'm1.tiny'
      const created = await provider.create(machine({ size, image: 'ubuntu-24.04' }), signal())
      const seen = [created.raw_state]
      const until = async (state: Machine['state']) => {
        const look = () => provider.get(created.provider_id, signal())
        const found = await waitFor(async () => (await look()).state === state && (await look()), { what: state })
        seen.push(found.raw_state)
      }
      await until('running')
      await provider.stop(created.provider_id, signal())
      await until('stopped')
      await deleteUntilGone(provider, created.provider_id, 1_000)
      await until('terminated')
      words[presents_as] = seen
    }
    expect(words).toEqual({
      openstack: ['BUILD', 'ACTIVE', 'SHUTOFF', 'DELETED'],
      aws: ['pending', 'running', 'stopped', 'terminated'],
    })
  })

  test('an invented raw state is unknown to the adapter and kept as evidence', async () => {
    const provider = await open({ raw_states: { running: 'WARPED' } })
    const { provider_id } = await provider.create(machine(), signal())
    const found = await waitFor(
      async () => {
        const look = await provider.get(provider_id, signal())
        return look.state === 'unknown' && look
      },
      { what: 'the invented state' },
    )
    expect(found.raw_state).toBe('WARPED')
    await cloud.change({ raw_states: {} })
    expect((await provider.get(provider_id, signal())).state).toBe('running')
    await cloud.send('PUT', `/machines/${provider_id}/raw-state`, { raw_state: 'HALF_THERE' })
    expect((await provider.get(provider_id, signal())).raw_state).toBe('HALF_THERE')
  })

  test('the most specific rule decides, and a capacity counts the machines it matches', async () => {
    const provider = await open({
      boot_latency_ms: 60_000,
      rules: [
        { match: { size: 'm1.large' }, capacity: 2 },
        { match: { size: '1' }, boot_latency_ms: 60_000 },
        { match: { size: 'm1.tiny', image: 'debian-13' }, boot_latency_ms: 5 },
      ],
    })
    const { provider_id } = await provider.create(machine(), signal())
    await waitFor(async () => (await provider.get(provider_id, signal())).state === 'running', { what: 'a quick boot' })
    const large = await provider.create(machine({ size: '4' }), signal())
    await provider.create(machine({ size: 'm1.large' }), signal())
    await expectClass(provider.create(machine({ size: 'm1.large' }), signal()), 'capacity')
    await provider.create(machine({ size: 'm1.medium' }), signal())
    await deleteUntilGone(provider, large.provider_id, 1_000)
    await provider.create(machine({ size: 'm1.large' }), signal())
  })

  test('machines go to the host and realm that were asked for', async () => {
    const provider = await open({ rules: [{ match: { host: 'compute-2' }, capacity: 1 }] })
    await provider.create(machine({ extra: { host: 'compute-2' } }), signal())
    await expectClass(provider.create(machine({ extra: { host: 'compute-2' } }), signal()), 'capacity')
    await expectClass(provider.create(machine({ extra: { realm: 'elsewhere' } }), signal()), 'invalid')
    expect(await cloud.machines()).toMatchObject([{ host: 'compute-2', realm: 'nova' }])
    // Where the adapter is not told of hosts, it asks for none.
    await expectClass(provider.create(machine({ host: 'compute-3' }), signal()), 'invalid')
    const with_hosts = cloud.provider({ hosts: true })
    await with_hosts.create(machine({ host: 'compute-3' }), signal())
    await expectClass(with_hosts.create(machine({ host: 'elsewhere' }), signal()), 'invalid')
    expect((await cloud.machines()).map(({ host }) => host)).toEqual(['compute-2', 'compute-3'])
  })

  test('the same seed draws the same boots, another seed others', async () => {
    const boots = async (seed: number) => {
      const provider = await open({ seed, boot_latency_ms: { uniform_ms: [0, 1] }, boot_failure_probability: 0.5 })
      for (let count = 0; count < 16; count += 1) await provider.create(machine(), signal())
      const lives = await waitFor(
        async () => {
          const machines = await cloud.machines()
          return machines.every(({ state }) => state !== 'pending') && machines
        },
        { what: 'all boots' },
      )
      return lives.map(({ state }) => state).join()
    }
    const first = await boots(7)
    expect(await boots(7)).toBe(first)
    expect(await boots(8)).not.toBe(first)
    expect(first).toContain('failed')
    expect(first).toContain('running')
  })

  test('the ledger tells every request as it came, every answer, and the whole life of a machine', async () => {
    await open({ api_keys: ['sesame'] })
    const provider = cloud.provider({}, 'sesame')
    const asked = machine({ user_data: '#!/bin/sh', extra: { key_name: 'k' } })
    const { provider_id } = await provider.create(asked, signal())
    const look = async () => (await provider.get(provider_id, signal())).state === 'running'
    await waitFor(look, { what: 'the boot' })
    await deleteUntilGone(provider, provider_id, 1_000)
    const lines = await cloud.ledger(3)
    expect(JSON.stringify([lines, await cloud.send('GET', '')])).not.toContain('sesame')
    const request = lines.find(({ kind, verb }) => kind === 'request' && verb === 'create')!
    expect(request.headers).toMatchObject({ authorization: '[redacted]' })
    expect(JSON.parse(request.body as string)).toMatchObject({
      user_data: '#!/bin/sh',
      extra: { key_name: 'k' },
      tags: { holdfast_installation: installation_id, holdfast_attempt: asked.attempt_id },
    })
    const answer = lines.find(({ kind, request_seq }) => kind === 'answer' && request_seq === request.seq)
    expect(answer).toMatchObject({ outcome: 'answered', status: 202, body: { machine: { id: provider_id } } })
    const life = lines.filter(({ kind, machine_id }) => kind === 'machine' && machine_id === provider_id)
    expect(life.map(({ change, state }) => [change, state])).toEqual([
      ['created', 'pending'],
      ['state', 'running'],
      ['state', 'terminating'],
      ['gone', 'terminated'],
      ['forgotten', 'terminated'],
    ])
    const times = life.map(({ at }) => at)
    expect(times).toEqual([...times].sort((one, other) => one - other))
    expect(lines.map(({ seq }) => seq)).toEqual([...new Set(lines.map(({ seq }) => seq))].sort((a, b) => a - b))
  })

  test('a replaced key is refused and its successor taken', async () => {
    await open({ api_keys: ['old'] })
    await cloud.provider({}, 'old').sizes(signal())
    await cloud.change({ api_keys: ['new'] })
    const error = await expectClass(cloud.provider({}, 'old').sizes(signal()), 'auth')
    expect(JSON.stringify(error.evidence)).not.toContain('old')
    await cloud.provider({}, 'new').sizes(signal())
  })

  test('bad control input says what and where, and changes nothing', async () => {
    await open({ capacity: 1 })
    await expect(cloud.send('PUT', '', { boot_latency_ms: -1 })).rejects.toThrow(/400.*boot_latency_ms/s)
    await expect(cloud.send('PUT', '', { no_such_field: 1 })).rejects.toThrow(/400.*no_such_field/s)
    await expect(cloud.send('POST', '/faults', { effect: { kind: 'sabotage' } })).rejects.toThrow(/400.*effect/s)
    expect(await cloud.send('GET', '')).toMatchObject({ configuration: { capacity: 1 }, faults: 0 })
  })

  test('a reset forgets machines, faults and ledger, and keeps the configuration', async () => {
    const provider = await open({ capacity: 5 })
    await provider.create(machine(), signal())
    await cloud.fault({ effect: { kind: 'down' } })
    await cloud.send('POST', '/reset')
    expect(await listAll(provider, installation_id)).toEqual([])
    expect(await cloud.send('GET', '')).toMatchObject({ configuration: { capacity: 5 }, faults: 0 })
    expect((await cloud.ledger())[0]).toMatchObject({ kind: 'control', action: 'reset' })
  })

  test('the ledger is cut to its length, and the lives of machines stay', async () => {
    const provider = await open({ ledger_lines: 1_000 })
    await provider.create(machine(), signal())
    // Two lines a call, cut each ten thousand lines.
    for (let round = 0; round < 56; round += 1) {
      await Promise.all(Array.from({ length: 100 }, () => provider.realms(signal())))
    }
    const lines = await cloud.ledger()
    expect(lines.length).toBeLessThan(10_000)
    expect(lines[0]).toMatchObject({ kind: 'machine', change: 'created' })
  })

  test('web pages are turned away', async () => {
    const response = await fetch(`${server.url}/control/clouds`, { headers: { origin: 'http://evil.example' } })
    expect(response.status).toBe(403)
  })

  test('the registry knows its providers and refuses others', () => {
    const account = { endpoint: NOBODY_LISTENS, credential: null, settings: {} }
    expect(() => createProvider({ ...account, provider: 'nimbus' })).toThrow(ProviderError)
    expect(findCloudProblems({ ...account, provider: 'nimbus' })).toMatchObject([
      { path: 'provider', accepted: ['simulated'] },
    ])
    expect(() => createProvider({ ...account, provider: 'simulated', settings: { settle_ms: 'soon' } })).toThrow(
      ProviderError,
    )
  })
})
