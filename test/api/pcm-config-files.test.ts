/** Files of the configuration directory: read when they change, and what is said of those that are wrong. */
import { mkdir, symlink, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type ConfigFiles, openConfigFiles } from '../../api/pcm/config-files.ts'
import { type FileKind, parseFile } from '../../api/pcm/config-schema.ts'
import { type ConfigFolder, openConfigFolder } from '../support/config-folder.ts'

let folder: ConfigFolder
let files: ConfigFiles
let warned: string[]

beforeEach(async () => {
  folder = await openConfigFolder()
  warned = []
  files = openConfigFiles(folder.path, ({ file, reason }) => void warned.push(`${file}: ${reason}`))
})
afterEach(() => folder.close())

const sizes = () => Object.fromEntries(files.contents('sizes'))

describe('a look at the files', () => {
  test('finds an empty directory empty, and says nothing', async () => {
    expect(await files.look()).toBe(false)
    expect([sizes(), files.names('clouds'), warned]).toEqual([{}, new Set(), []])
  })

  test('finds new files and folders, changes, and what is gone', async () => {
    await folder.put('sizes/small', { ram: 1 })
    expect(await files.look()).toBe(true)
    await folder.put('sizes/large', { ram: 8 })
    await folder.put('services', { v1api: 'http://old.example.com' })
    expect(await files.look()).toBe(true)
    expect([sizes(), files.contents('services').get('services')]).toEqual([
      { large: { ram: 8 }, small: { ram: 1 } },
      { v1api: 'http://old.example.com' },
    ])
    await folder.put('sizes/small', { ram: 2 })
    await folder.drop('sizes/large')
    expect(await files.look()).toBe(true)
    expect(sizes()).toEqual({ small: { ram: 2 } })
    await folder.move('sizes', 'was-sizes')
    expect(await files.look()).toBe(true)
    expect([sizes(), warned]).toEqual([{}, []])
  })

  test('finds nothing new where nothing changed, not even where a file was written as it was', async () => {
    await folder.put('sizes/small', { ram: 1 })
    await files.look()
    expect(await files.look()).toBe(false)
    await folder.put('sizes/small', { ram: 1 })
    expect(await files.look()).toBe(false)
  })

  test('sees changes that keep size and time', async () => {
    const path = join(folder.path, 'sizes/small.conf')
    const moment = new Date()
    for (const ram of [1, 2, 3, 4]) {
      await folder.put('sizes/small', { ram })
      await utimes(path, moment, moment)
      expect(await files.look()).toBe(true)
      expect(sizes()).toEqual({ small: { ram } })
    }
  })

  test('passes over dotfiles and files that are not ours', async () => {
    await folder.put('sizes/.hidden', { ram: 1 })
    await folder.put('sizes/..data', { ram: 1 })
    await folder.put('sizes/small.conf.bak/x', '')
    await folder.put('notes', { a: 1 })
    expect(await files.look()).toBe(false)
    expect([sizes(), warned]).toEqual([{}, []])
  })

  test('follows links, as orchestrators lay them', async () => {
    await mkdir(join(folder.path, 'sizes'))
    await folder.put('..data/small', { ram: 1 })
    await symlink('../..data/small.conf', join(folder.path, 'sizes/small.conf'))
    expect(await files.look()).toBe(true)
    expect(sizes()).toEqual({ small: { ram: 1 } })
  })
})

describe('a file that broke', () => {
  test('keeps what it said, one warning a change, and is read again when it is whole', async () => {
    await folder.put('sizes/small', { ram: 1 })
    await files.look()
    await folder.put('sizes/small', '{"ram": 2')
    expect([await files.look(), await files.look(), await files.look()]).toEqual([false, false, false])
    expect([sizes(), warned.length]).toEqual([{ small: { ram: 1 } }, 1])
    await folder.put('sizes/small', '{"ram": 2,')
    await files.look()
    await files.look()
    expect([sizes(), warned.length]).toEqual([{ small: { ram: 1 } }, 2])
    await folder.put('sizes/small', '{"ram": 2}')
    expect(await files.look()).toBe(true)
    expect([sizes(), warned.length]).toEqual([{ small: { ram: 2 } }, 2])
  })

  test('and was never whole is left out, but it is there', async () => {
    await folder.put('clouds/lab', 'not JSON')
    await files.look()
    expect([files.contents('clouds').size, files.names('clouds')]).toEqual([0, new Set(['lab'])])
    expect(warned).toEqual(['clouds/lab.conf: is not JSON; what it says is left out'])
  })

  test('and goes is gone', async () => {
    await folder.put('sizes/small', { ram: 1 })
    await files.look()
    await folder.put('sizes/small', 'not JSON')
    await files.look()
    await folder.drop('sizes/small')
    expect(await files.look()).toBe(true)
    expect(sizes()).toEqual({})
  })

  test('because it is no file any more keeps what it said', async () => {
    await folder.put('sizes/small', { ram: 1 })
    await files.look()
    await folder.move('sizes/small.conf', 'sizes/was-small')
    await mkdir(join(folder.path, 'sizes/small.conf'))
    await files.look()
    await files.look()
    expect(sizes()).toEqual({ small: { ram: 1 } })
    expect(warned).toEqual([expect.stringContaining('sizes/small.conf: cannot be read (not a file)')])
  })

  test('because it became too large keeps what it said', async () => {
    await folder.put('sizes/small', { ram: 1 })
    await files.look()
    await folder.put('sizes/small', { text: 'x'.repeat(1_100_000) })
    await files.look()
    expect([sizes(), warned]).toEqual([{ small: { ram: 1 } }, [expect.stringContaining('larger than 1 MiB')]])
  })
})

describe('a folder that cannot be listed', () => {
  test('keeps what it held; nobody can tell which files it has', async () => {
    await folder.put('clouds/lab', { provider: 'simulated', simulated: { endpoint: 'http://127.0.0.1:1' } })
    await files.look()
    await folder.move('clouds', 'was-clouds')
    await symlink('clouds', join(folder.path, 'clouds'))
    await files.look()
    await files.look()
    expect([files.contents('clouds').size, files.names('clouds')]).toEqual([1, null])
    expect(warned).toEqual([expect.stringMatching(/^clouds: cannot be listed \(ELOOP\)/)])
  })

  test('is no empty one where it is the directory itself', async () => {
    await folder.put('sizes/small', { ram: 1 })
    await files.look()
    await folder.close()
    expect([await files.look(), await files.look()]).toEqual([false, false])
    expect([sizes(), files.names('sizes')]).toEqual([{ small: { ram: 1 } }, null])
    expect(warned).toEqual([expect.stringContaining('the configuration directory cannot be listed (ENOENT)')])
  })
})

const SECRET = 'Xq7-very-secret'
const openstack = { provider: 'openstack', openstack_auth_url: 'https://keystone.example.com:5000/v3' }

describe('a file is not taken', () => {
  test.each<[FileKind, string, unknown, RegExp]>([
    ['clouds', 'lab', [], /object/],
    ['clouds', 'lab', {}, /^provider: /],
    ['clouds', 'lab', { provider: 'rackspace' }, /^provider: .*openstack/],
    ['clouds', 'lab', { provider: 'openstack' }, /^openstack_auth_url: is missing/],
    ['clouds', 'lab', { provider: 'aws' }, /^aws_endpoint: is missing/],
    ['clouds', 'lab', { provider: 'simulated' }, /^simulated: is missing/],
    ['clouds', 'lab', { provider: 'aws', simulated: { endpoint: 'ftp://x' } }, /^simulated.endpoint: is not an http/],
    [
      'clouds',
      'lab',
      { ...openstack, openstack_auth_url: `http://me:${SECRET}@x` },
      /^openstack_auth_url: must not hold/,
    ],
    ['clouds', 'lab', { ...openstack, allocation: -1 }, /^allocation: /],
    ['clouds', 'lab', { ...openstack, sizes: { small: 7 } }, /^sizes.small: is neither a name/],
    ['clouds', 'lab', { ...openstack, sizes: { small: { id: 7 } } }, /^sizes.small: is neither a name/],
    [
      'clouds',
      'lab',
      { ...openstack, defaults: { extra: { openstack: 1 } } },
      /^defaults.extra.openstack: is not an object/,
    ],
    [
      'clouds',
      'lab',
      { ...openstack, defaults: { extra: { openstack: { name: 1 } } } },
      /^defaults.extra.openstack.name: is res/,
    ],
    ['clouds', 'two words', openstack, /^its name/],
    ['clouds', 'x'.repeat(64), openstack, /^its name/],
    ['sizes', 'constructor', {}, /^its name/],
    ['sizes', 'small', '[1]', /object/],
    ['sizes', 'small', '{"a": {"__proto__": 1}}', /^file.a.__proto__: this name is not allowed/],
    ['sizes', 'small', { a: 'x\0' }, /NUL/],
    ['roles', 'db', { sizes: 'small' }, /^sizes: .*array/],
    ['roles', 'db', { extra: [] }, /^extra: is not an object/],
    ['inventory', 'inventory', { url: 'nowhere' }, /^url: /],
    ['services', 'services', 'null', /object/],
    ['clouds', 'lab', `{"openstack_api_key": ${SECRET}}`, /^is not JSON/],
    ['clouds', 'lab', `{"openstack_api_key": "${SECRET}"\n  "a": 1}`, /^is not JSON, see line 2 column 3$/],
    ['clouds', 'lab', { ...openstack, openstack_api_key: { [SECRET]: `${SECRET}\0` } }, /NUL/],
  ])('%s/%s %j', (kind, name, content, reason) => {
    const parsed = parseFile(kind, name, typeof content === 'string' ? content : JSON.stringify(content))
    expect(parsed).toEqual({ broken: expect.stringMatching(reason) })
  })

  test('and what is said of it holds nothing of what it says', () => {
    const texts = [
      `{"openstack_api_key": ${SECRET}}`,
      `{"openstack_api_key": "${SECRET}", "a": }`,
      `"${SECRET}`,
      SECRET,
    ]
    const objects = [
      { ...openstack, openstack_auth_url: SECRET },
      { ...openstack, provider: SECRET },
      { ...openstack, simulated: { endpoint: 'http://x', api_key: '', secret: SECRET } },
      { ...openstack, enabled: SECRET, priority: SECRET, host_domain: `${SECRET}\n` },
      { ...openstack, settings: SECRET, sizes: SECRET, defaults: SECRET },
    ]
    for (const text of [...texts, ...objects.map((object) => JSON.stringify(object))]) {
      const parsed = parseFile('clouds', 'lab', text)
      expect(parsed).toHaveProperty('broken')
      expect(JSON.stringify(parsed)).not.toContain(SECRET)
    }
  })
})

describe('a file of a cloud', () => {
  const parse = (content: object) => {
    const parsed = parseFile('clouds', 'lab', JSON.stringify(content))
    if ('broken' in parsed) throw new Error(parsed.broken)
    return parsed
  }

  test('gives its account: address, and credentials that nothing shows', () => {
    const parsed = parse({ ...openstack, openstack_username: 'pcm', openstack_api_key: SECRET, aws_region: 'x' })
    const { account } = parsed.content
    expect(account).toMatchObject({ provider: 'openstack', endpoint: openstack.openstack_auth_url, enabled: true })
    expect(JSON.parse(account.credential!.reveal())).toEqual({ openstack_username: 'pcm', openstack_api_key: SECRET })
    expect(JSON.stringify(parsed)).not.toContain(SECRET)
    expect(parsed.unread).toEqual([])
  })

  test('of AWS is spoken to by the adapter for EC2', () => {
    const aws = {
      provider: 'aws',
      aws_endpoint: 'https://ec2.example.com',
      aws_access_key_id: 'a',
      aws_secret_access_key: SECRET,
    }
    const { account } = parse(aws).content
    expect(account).toMatchObject({ provider: 'ec2', endpoint: 'https://ec2.example.com' })
    expect(JSON.parse(account.credential!.reveal())).toEqual({ aws_access_key_id: 'a', aws_secret_access_key: SECRET })
  })

  test('that is simulated plays its provider type', () => {
    const simulated = { endpoint: 'http://127.0.0.1:4600/clouds/lab', api_key: SECRET }
    const { cloud, account } = parse({
      ...openstack,
      openstack_api_key: 'unused',
      simulated,
      settings: { settle_ms: 1 },
    }).content
    expect(cloud).toMatchObject({ name: 'lab', provider: 'openstack', passes_through: true })
    expect(account).toMatchObject({
      provider: 'simulated',
      endpoint: simulated.endpoint,
      settings: { settle_ms: 1, presents_as: 'openstack' },
    })
    expect(account.credential!.reveal()).toBe(SECRET)
    expect(parse({ provider: 'simulated', simulated: { endpoint: 'http://x' } }).content.account).toMatchObject({
      settings: {},
      credential: null,
    })
  })

  test('may have fields that nobody reads; they are told by name', () => {
    const { unread } = parse({ ...openstack, defualts: {}, toString: 1, defaults: { size: 'x', colour: SECRET } })
    expect(unread).toEqual(['defualts', 'toString', 'defaults.colour'])
  })
})
