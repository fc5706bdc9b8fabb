import { createHash } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import { describe, expect, test } from 'vitest'
import { secretKey, sign } from '../../activities/hook-signature.ts'

const ID = 'evt_01K7Q2M4T8WJ5V9Z3X6YB0C1DE'
const BODY = Buffer.from(
  '{"type":"instance.state_changed","timestamp":"2026-10-08T12:00:00.000Z","data":{"instance_id":"ins_7","sequence":42,"from":"starting","to":"running","note":"żółć ✓"}}',
)
const A = 'whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8='
const B = 'whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8='

describe('signatures', () => {
  test('of the published example', () => {
    const header = sign(
      ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
      'msg_p5jXN8AQM9LWM0D4loKWxJek',
      1614265330,
      Buffer.from('{"test": 2432232314}'),
    )
    expect(header).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
  })
  test('of our own vectors', () => {
    expect(createHash('sha256').update(BODY).digest('hex')).toBe(
      '531f0fc269bd127c0cf69af010752c6055fa40042c506d46ce85b6e7b362a306',
    )
    expect(sign([A], ID, 1791460800, BODY)).toBe('v1,tCyOu8SEvhK6j4pXHLOEznV4McIgE5dApENmvn+q9Gg=')
    expect(sign([B], ID, 1791460800, BODY)).toBe('v1,u3Mz0eW+jD2jKVDIXip72fIm7Mdp6DytHoYlDExxBck=')
    expect(sign([B, A], ID, 1791460805, BODY)).toBe(
      'v1,QK4gkaaT/iyxdu391OcDvzQj0DOyX9cifkBWGBsCbKE= v1,9t/wvcwQYve8jI1dvPqLX+ta+ga4F4BvBmdguY8Eg4k=',
    )
  })
  test('are accepted by the stock library, by either key, and refused when the body, time or header is wrong', () => {
    const verify = (secret: string, change: { age_s?: number; body?: string; header?: string } = {}): unknown => {
      const timestamp_s = Math.floor(Date.now() / 1000) - (change.age_s ?? 0)
      const headers = {
        'webhook-id': ID,
        'webhook-timestamp': String(timestamp_s),
        'webhook-signature': change.header ?? `${sign([B, A], ID, timestamp_s, BODY)} v9,unknown`,
      }
      return new Webhook(secret).verify(change.body ?? BODY.toString(), headers)
    }
    expect(verify(A)).toMatchObject({ type: 'instance.state_changed' })
    expect(verify(B)).toMatchObject({ type: 'instance.state_changed' })
    expect(() => verify(A, { age_s: 290 })).not.toThrow()
    for (const wrong of [{ age_s: 302 }, { age_s: -302 }, { body: `${BODY} ` }, { header: '' }]) {
      expect(() => verify(A, wrong)).toThrow()
    }
  })
  test('use the decoded secret, not its text', () => {
    expect(secretKey(A)).toEqual(Buffer.from(Array.from({ length: 32 }, (_, index) => index)))
  })
})
