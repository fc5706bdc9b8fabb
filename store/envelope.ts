/**
 * Secrets at rest: AES-256-GCM under a master key that never enters the database. A sealed value names the key it was
 * sealed with, so that the master key can change; its context (whose secret it is) is authenticated with it, so that a
 * value copied to another row does not open.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'
import { link, mkdir, open, readFile, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { DomainError } from '../domain/errors.ts'

const VERSION = 1
const KEY_BYTES = 32
const NONCE_BYTES = 12
const TAG_BYTES = 16
const KEY_FILE = 'master-key'

export interface MasterKey {
  readonly id: string
  readonly key: Buffer
}

export interface MasterKeys {
  readonly current: MasterKey
  /** Those before it: what they sealed still opens, until it is sealed anew. */
  readonly old?: readonly MasterKey[]
}

export interface Envelope {
  /** What everything sealed with the current key begins with. */
  readonly head: Buffer
  /** Seals a text for one context, for example the id of the row it belongs to. */
  seal(plaintext: string, context: string): Buffer
  /** Opens what was sealed for this very context; throws DomainError `internal` otherwise. */
  open(sealed: Buffer, context: string): string
}

/** Seals with `current`, opens with any of the keys. */
export function createEnvelope(keys: MasterKeys): Envelope {
  const by_id = new Map([...(keys.old ?? []), keys.current].map((master) => [master.id, master.key]))
  const id = Buffer.from(keys.current.id, 'utf8')
  const head = Buffer.concat([Buffer.from([VERSION, id.length]), id])
  return {
    head,
    seal(plaintext, context) {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv('aes-256-gcm', keys.current.key, nonce)
      cipher.setAAD(Buffer.concat([head, Buffer.from(context, 'utf8')]))
      const body = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()])
      return Buffer.concat([head, nonce, cipher.getAuthTag(), body])
    },
    open(sealed, context) {
      const head = sealed.subarray(0, 2 + (sealed[1] ?? 0))
      const key = by_id.get(head.subarray(2).toString('utf8'))
      if (sealed[0] !== VERSION || !key) throw new DomainError('internal', 'a sealed value names an unknown key')
      const nonce = sealed.subarray(head.length, head.length + NONCE_BYTES)
      const tag = sealed.subarray(head.length + NONCE_BYTES, head.length + NONCE_BYTES + TAG_BYTES)
      if (tag.length !== TAG_BYTES) throw new DomainError('internal', 'a sealed value is cut short')
      const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
      decipher.setAAD(Buffer.concat([head, Buffer.from(context, 'utf8')]))
      decipher.setAuthTag(tag)
      try {
        const body = sealed.subarray(head.length + NONCE_BYTES + TAG_BYTES)
        return Buffer.concat([decipher.update(body), decipher.final()]).toString('utf8')
      } catch {
        throw new DomainError('internal', 'a sealed value does not open: changed, or sealed for something else')
      }
    },
  }
}

/** Null also for what was sealed with a key that is not known any more: it is then taken for changed. */
export function openedOrNull(envelope: Envelope, sealed: Buffer | null, context: string): string | null {
  try {
    return sealed && envelope.open(sealed, context)
  } catch {
    return null
  }
}

/**
 * The master keys: `HOLDFAST_MASTER_KEY` (base64 of 32 bytes each, several divided by commas), else the file
 * `master-key` in the data folder (one a line), made at the first start. The first one seals, the others open. Several
 * processes may start at once: all get the same key.
 */
export async function loadMasterKeys(
  data_folder: string,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Promise<MasterKeys> {
  const given = environment.HOLDFAST_MASTER_KEY
  if (given) return masterKeys(given, 'HOLDFAST_MASTER_KEY')
  const path = join(data_folder, KEY_FILE)
  const found = await readFile(path, 'utf8').catch(absent)
  if (found !== undefined) return masterKeys(found, path)
  await mkdir(data_folder, { recursive: true })
  // Written whole under another name, then linked: whoever links first wins, and nobody ever reads half a key.
  const draft = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`
  const file = await open(draft, 'wx', 0o600)
  try {
    await file.writeFile(`${randomBytes(KEY_BYTES).toString('base64')}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
  try {
    await link(draft, path)
  } catch (error) {
    if ((error as { code?: string }).code !== 'EEXIST') throw error
  } finally {
    await unlink(draft)
  }
  return masterKeys(await readFile(path, 'utf8'), path)
}

function masterKeys(text: string, source: string): MasterKeys {
  const [current, ...old] = text.split(/[\s,]+/).filter(Boolean)
  return { current: masterKey(current ?? '', source), old: old.map((key) => masterKey(key, source)) }
}

function masterKey(text: string, source: string): MasterKey {
  const key = Buffer.from(text.trim(), 'base64')
  if (key.length !== KEY_BYTES) {
    throw new DomainError('invalid_request', `${source} must be base64 of ${KEY_BYTES} bytes, it holds ${key.length}`)
  }
  return { id: createHash('sha256').update(key).digest('hex').slice(0, 12), key }
}

function absent(error: unknown): undefined {
  if ((error as { code?: string }).code === 'ENOENT') return undefined
  throw error
}
