/** Signatures of hook deliveries, after Standard Webhooks 1.0.0, version `v1`. */
import { createHmac } from 'node:crypto'

const PREFIX = 'whsec_'

/** The bytes that sign: the secret's text without its prefix, decoded. */
export function secretKey(secret: string): Buffer {
  return Buffer.from(secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret, 'base64')
}

/** The header `webhook-signature`: one signature for each live secret, in the order given. */
export function sign(secrets: readonly string[], webhook_id: string, timestamp_s: number, body: Buffer): string {
  return secrets
    .map((secret) => {
      const mac = createHmac('sha256', secretKey(secret)).update(`${webhook_id}.${timestamp_s}.`).update(body)
      return `v1,${mac.digest('base64')}`
    })
    .join(' ')
}
