/**
 * Keys for the first login to an instance: made with it, the public half given to its cloud, the private one to its owner,
 * once (Cloud State, ssh_key).
 */
import { createHash, generateKeyPairSync } from 'node:crypto'
import { type Kysely, sql } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import { type Store, type Trx, write } from './database.ts'
import type { Envelope } from './envelope.ts'
import type { Tables } from './tables.ts'

const TYPE = 'ssh-ed25519'

/** A length and the bytes, as everything in the format of public keys (RFC 4253, section 6.6). */
const field = (bytes: Buffer): Buffer => {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

/** Makes a key for each instance. */
export async function makeSshKeys(
  trx: Trx,
  instances: readonly { readonly id: string; readonly name: string }[],
  envelope: Envelope,
): Promise<void> {
  if (!instances.length) return
  const rows = instances.map(({ id, name }) => {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519')
    const { x } = publicKey.export({ format: 'jwk' })
    const blob = Buffer.concat([field(Buffer.from(TYPE)), field(Buffer.from(x!, 'base64url'))])
    const digest = createHash('sha256').update(blob).digest('base64').replace(/=+$/, '')
    return {
      instance_id: id,
      name: `${name}-key`,
      public_key: `${TYPE} ${blob.toString('base64')}`,
      fingerprint: `SHA256:${digest}`,
      sealed: envelope.seal(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), id),
    }
  })
  await trx.insertInto('ssh_keys').values(rows).execute()
}

/**
 * The private key of an instance, sealed; locked in a transaction. Throws `not_found` where none was made, `gone` where it
 * was given out before or went with its instance.
 */
export async function requireSshKey(db: Kysely<Tables>, instance_id: string): Promise<Buffer> {
  const key = await db
    .selectFrom('ssh_keys')
    .select('sealed')
    .where('instance_id', '=', instance_id)
    .forUpdate()
    .executeTakeFirst()
  if (!key) throw new DomainError('not_found', `no key was made for instance ${instance_id}`)
  if (!key.sealed) throw new DomainError('gone', 'the private key was given out once, or went with its instance')
  return key.sealed
}

/** Gives out the private key of an instance (PKCS #8, PEM), and erases it. Throws as `requireSshKey` does. */
export function releaseSshKey(store: Store, instance_id: string, envelope: Envelope): Promise<string> {
  return write(store, async (trx) => {
    const sealed = await requireSshKey(trx, instance_id)
    await trx
      .updateTable('ssh_keys')
      .set({ sealed: null, released_at: sql<Date>`record_now()` })
      .where('instance_id', '=', instance_id)
      .execute()
    return envelope.open(sealed, instance_id)
  })
}

/** Erases private keys that nobody fetched while their instance lived. */
export async function eraseSshKeys(db: Kysely<Tables>): Promise<void> {
  await sql`
    update ssh_keys set sealed = null from instances
    where ssh_keys.sealed is not null and instances.id = ssh_keys.instance_id and instances.state = 'terminated'`.execute(
    db,
  )
}
