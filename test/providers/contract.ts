/** The one contract suite: whoever fulfils `providers/provider.ts` passes it, whatever cloud is behind. */
import { ulid } from 'ulid'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Machine, type Provider, ProviderError, type ProviderErrorClass } from '../../providers/provider.ts'
import { waitFor } from '../support/wait-for.ts'

/** A cloud to try the contract on. */
export interface ContractSubject {
  readonly provider: Provider
  /** The same cloud with a credential it does not accept; absent where it asks for none. */
  readonly with_bad_credential?: Provider
  /** The same adapter for an address where nobody listens. */
  readonly unreachable: Provider
  /** A size and an image that the cloud has, in its own names. */
  readonly size: string
  readonly image: string
  /** More machines than fit on one page, if that is feasible. */
  readonly several: number
  /** How long a boot or another change of state may take. */
  readonly patience_ms: number
  close(): Promise<void>
}

const signal = () => AbortSignal.timeout(60_000)

/** Expects the call to fail with this class, and returns the error. */
export async function expectClass(call: Promise<unknown>, errorClass: ProviderErrorClass): Promise<ProviderError> {
  const outcome = await call.then(
    () => 'no error',
    (error: unknown) => error,
  )
  expect(outcome).toBeInstanceOf(ProviderError)
  const error = outcome as ProviderError
  expect(error.class).toBe(errorClass)
  return error
}

/** All machines of an installation, page by page. */
export async function listAll(provider: Provider, installation_id: string): Promise<Machine[]> {
  const machines: Machine[] = []
  let cursor: string | null = null
  do {
    const page: Awaited<ReturnType<Provider['list']>> = await provider.list(installation_id, cursor, signal())
    machines.push(...page.machines)
    cursor = page.next
  } while (cursor !== null)
  return machines
}

/** Deletes and repeats until the cloud says that the machine is not there. */
export async function deleteUntilGone(provider: Provider, provider_id: string, timeout_ms: number): Promise<void> {
  const check = async () => {
    try {
      await provider.delete(provider_id, signal())
      return false
    } catch (error) {
      if (error instanceof ProviderError && error.class === 'not_found') return true
      throw error
    }
  }
  await waitFor(check, { what: 'the machine to be gone', timeout_ms, interval_ms: 50 })
}

/** Runs the suite against the cloud that `open` gives. */
export function describeProviderContract(name: string, open: () => Promise<ContractSubject>): void {
  describe(`${name} fulfils the provider contract`, () => {
    let subject: ContractSubject
    let provider: Provider
    const installation_id = `contract-${ulid()}`

    beforeAll(async () => {
      subject = await open()
      provider = subject.provider
    })
    afterAll(() => subject?.close())

    const create = (attempt_id = ulid()) => {
      const { size, image } = subject
      return provider.create({ attempt_id, installation_id, name: `m-${attempt_id}`, size, image }, signal())
    }
    const reaches = (provider_id: string, state: Machine['state']) =>
      waitFor(
        async () => {
          const machine = await provider.get(provider_id, signal())
          return machine.state === state && machine
        },
        { what: `the machine to be ${state}`, timeout_ms: subject.patience_ms, interval_ms: 20 },
      )

    test('a create is accepted, and the machine comes to run', async () => {
      const attempt_id = ulid()
      const machine = await create(attempt_id)
      expect(['pending', 'running']).toContain(machine.state)
      expect(machine.provider_id).not.toBe('')
      expect(machine.attempt_id).toBe(provider.capabilities.tags ? attempt_id : null)
      const running = await reaches(machine.provider_id, 'running')
      expect(running.provider_id).toBe(machine.provider_id)
      expect(running.raw_state).not.toBe('')
    })

    test('a create repeated with its attempt id gives the same machine where the cloud has tokens', async () => {
      const attempt_id = ulid()
      const [first, second] = await Promise.all([create(attempt_id), create(attempt_id)])
      const third = await create(attempt_id)
      const ids = new Set([first, second, third].map((machine) => machine.provider_id))
      expect(ids.size).toBe(provider.capabilities.idempotency_tokens ? 1 : 3)
    })

    test('a list shows all machines of the installation with their attempts, and no others', async () => {
      if (!provider.capabilities.tags) return
      const attempt_ids = Array.from({ length: subject.several }, () => ulid())
      await Promise.all(attempt_ids.map((attempt_id) => create(attempt_id)))
      const listed = await waitFor(
        async () => {
          const machines = await listAll(provider, installation_id)
          const known = new Set(machines.map((machine) => machine.attempt_id))
          return attempt_ids.every((attempt_id) => known.has(attempt_id)) && machines
        },
        { what: 'all machines to be listed', timeout_ms: subject.patience_ms },
      )
      expect(listed.length).toBeGreaterThanOrEqual(subject.several)
      expect(await listAll(provider, `stranger-${ulid()}`)).toEqual([])
    })

    test('a machine is adopted and released: listed as ours in between, and alive all the time', async () => {
      const { size, image } = subject
      const stranger = { attempt_id: ulid(), installation_id: `stranger-${ulid()}` }
      const made = await provider.create({ ...stranger, name: `m-${stranger.attempt_id}`, size, image }, signal())
      const { provider_id } = made
      const owner = { attempt_id: ulid(), installation_id }
      if (!provider.capabilities.adoption) {
        await expectClass(provider.adopt(provider_id, owner, signal()), 'invalid')
        await expectClass(provider.release(provider_id, signal()), 'invalid')
        return
      }
      const untilListed = (installation: string, attempt_id: string | null) =>
        waitFor(
          async () => {
            const listed = (await listAll(provider, installation)).find(
              (machine) => machine.provider_id === provider_id,
            )
            return (listed?.attempt_id ?? null) === attempt_id
          },
          { what: `${provider_id} to be listed for ${attempt_id}`, timeout_ms: subject.patience_ms },
        )
      await untilListed(stranger.installation_id, stranger.attempt_id)
      for (let times = 0; times < 2; times += 1) await provider.adopt(provider_id, owner, signal())
      await untilListed(installation_id, owner.attempt_id)
      await untilListed(stranger.installation_id, null)
      expect(await provider.get(provider_id, signal())).toMatchObject(owner)
      for (let times = 0; times < 2; times += 1) await provider.release(provider_id, signal())
      await untilListed(installation_id, null)
      const free = await reaches(provider_id, 'running')
      expect(free).toMatchObject({ attempt_id: null, installation_id: null })
      await deleteUntilGone(provider, provider_id, subject.patience_ms)
    })

    test('a machine stops, starts and reboots', async () => {
      const { provider_id } = await create()
      await reaches(provider_id, 'running')
      await provider.stop(provider_id, signal())
      await reaches(provider_id, 'stopped')
      await provider.start(provider_id, signal())
      await reaches(provider_id, 'running')
      for (const kind of ['soft', 'hard'] as const) {
        await provider.reboot(provider_id, kind, signal())
        await reaches(provider_id, 'running')
      }
    })

    test('a reboot of a stopped machine is a conflict', async () => {
      const { provider_id } = await create()
      await reaches(provider_id, 'running')
      await provider.stop(provider_id, signal())
      await reaches(provider_id, 'stopped')
      await expectClass(provider.reboot(provider_id, 'soft', signal()), 'conflict')
    })

    test('a delete is repeated until not found, and the machine is never alive again', async () => {
      const { provider_id } = await create()
      await deleteUntilGone(provider, provider_id, subject.patience_ms)
      const state = await provider.get(provider_id, signal()).then(
        (machine) => machine.state,
        (error: ProviderError) => error.class,
      )
      expect(['terminated', 'not_found']).toContain(state)
      const listed = (await listAll(provider, installation_id)).find((machine) => machine.provider_id === provider_id)
      expect(listed?.state ?? 'terminated').toBe('terminated')
    })

    test('a machine nobody has ever seen is not found, whatever is asked of it', async () => {
      const { provider_id } = await create()
      await deleteUntilGone(provider, provider_id, subject.patience_ms)
      const stranger = provider_id.replace(/[0-9a-f]{6}$/, '000000')
      await expectClass(provider.get(stranger, signal()), 'not_found')
      await expectClass(provider.start(stranger, signal()), 'not_found')
      await expectClass(provider.stop(stranger, signal()), 'not_found')
      await expectClass(provider.reboot(stranger, 'soft', signal()), 'not_found')
      await expectClass(provider.delete(stranger, signal()), 'not_found')
      if (!provider.capabilities.adoption) return
      await expectClass(provider.adopt(stranger, { attempt_id: ulid(), installation_id }, signal()), 'not_found')
      await expectClass(provider.release(stranger, signal()), 'not_found')
    })

    test('a size the cloud does not have is invalid, and makes nothing', async () => {
      const attempt_id = ulid()
      const machine = { attempt_id, installation_id, name: 'm', size: 'no-such-size', image: subject.image }
      const error = await expectClass(provider.create(machine, signal()), 'invalid')
      expect(JSON.stringify(error.evidence).length).toBeLessThan(1_500)
      const listed = await listAll(provider, installation_id)
      expect(listed.filter((found) => found.attempt_id === attempt_id)).toEqual([])
    })

    test('the console is text, or refused where the cloud has none', async () => {
      const { provider_id } = await create()
      if (provider.capabilities.console_log)
        expect(typeof (await provider.consoleLog(provider_id, signal()))).toBe('string')
      else await expectClass(provider.consoleLog(provider_id, signal()), 'invalid')
    })

    test('the cloud tells its sizes, images, realms and, where it can, hosts', async () => {
      const [sizes, images] = await Promise.all([provider.sizes(signal()), provider.images(signal())])
      expect(sizes.flatMap(({ id, name }) => [id, name])).toContain(subject.size)
      expect(images.flatMap(({ id, name }) => [id, name])).toContain(subject.image)
      expect(Array.isArray(await provider.realms(signal()))).toBe(true)
      if (provider.capabilities.hosts) expect((await provider.hosts(signal())).length).toBeGreaterThan(0)
      else await expectClass(provider.hosts(signal()), 'invalid')
    })

    test('a credential the cloud does not accept is told as such', async () => {
      if (!subject.with_bad_credential) return
      await expectClass(subject.with_bad_credential.sizes(signal()), 'auth')
    })

    test('where nobody listens nothing was carried out, and it says so', async () => {
      const { size, image } = subject
      const machine = { attempt_id: ulid(), installation_id, name: 'm', size, image }
      await expectClass(subject.unreachable.create(machine, signal()), 'unavailable')
      await expectClass(subject.unreachable.get('some-machine', signal()), 'unavailable')
    })

    test('a call given up before it is sent is surely not carried out', async () => {
      const { size, image } = subject
      const machine = { attempt_id: ulid(), installation_id, name: 'm', size, image }
      await expectClass(provider.create(machine, AbortSignal.abort()), 'unavailable')
    })
  })
}
