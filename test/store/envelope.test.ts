import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createEnvelope, loadMasterKeys } from '../../store/envelope.ts'

const OLD = { id: 'old', key: Buffer.alloc(32, 1) }
const NEW = { id: 'new', key: Buffer.alloc(32, 2) }

describe('the envelope', () => {
  const envelope = createEnvelope({ current: OLD })
  test('opens what it sealed, and seals the same text differently each time', () => {
    const sealed = envelope.seal('whsec_ż ✓', 'hook-1')
    expect(envelope.open(sealed, 'hook-1')).toBe('whsec_ż ✓')
    expect(envelope.seal('whsec_ż ✓', 'hook-1').equals(sealed)).toBe(false)
    expect(sealed.includes('whsec')).toBe(false)
  })
  test('does not open for another context', () => {
    expect(() => envelope.open(envelope.seal('a', 'hook-1'), 'hook-2')).toThrow('sealed for something else')
  })
  test('does not open when any byte was changed or cut', () => {
    const sealed = envelope.seal('secret', 'hook-1')
    for (let index = 0; index < sealed.length; index++) {
      const changed = Buffer.from(sealed)
      changed[index]! ^= 1
      expect(() => envelope.open(changed, 'hook-1')).toThrow()
      expect(() => envelope.open(sealed.subarray(0, index), 'hook-1')).toThrow()
    }
  })
  test('after a change of keys opens the old and seals with the new', () => {
    const sealed = envelope.seal('a', 'x')
    const rotated = createEnvelope({ current: NEW, old: [OLD] })
    expect(rotated.open(sealed, 'x')).toBe('a')
    expect(() => envelope.open(rotated.seal('a', 'x'), 'x')).toThrow('unknown key')
  })
})

describe('the master key', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'holdfast-'))
  })
  afterAll(() => rm(folder, { recursive: true }))

  test('is made once, readable by its owner only, also when many start at once', async () => {
    const keys = await Promise.all(Array.from({ length: 20 }, () => loadMasterKeys(folder, {})))
    expect(new Set(keys.map(({ current }) => current.key.toString('hex'))).size).toBe(1)
    expect((await stat(join(folder, 'master-key'))).mode & 0o777).toBe(0o600)
    expect(await readdir(folder)).toEqual(['master-key'])
  })
  test('comes from the environment first', async () => {
    const text = Buffer.alloc(32, 7).toString('base64')
    expect((await loadMasterKeys(folder, { HOLDFAST_MASTER_KEY: text })).current.key).toEqual(Buffer.alloc(32, 7))
    await expect(loadMasterKeys(folder, { HOLDFAST_MASTER_KEY: 'short' })).rejects.toThrow('32 bytes')
  })
  test('several: the first seals, the others open', async () => {
    const keys = [8, 7].map((byte) => Buffer.alloc(32, byte).toString('base64'))
    const before = createEnvelope(await loadMasterKeys(folder, { HOLDFAST_MASTER_KEY: keys[1] }))
    const after = createEnvelope(await loadMasterKeys(folder, { HOLDFAST_MASTER_KEY: keys.join(', ') }))
    expect(after.open(before.seal('a', 'x'), 'x')).toBe('a')
    expect(() => before.open(after.seal('a', 'x'), 'x')).toThrow('unknown key')
  })
})
