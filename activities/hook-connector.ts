/**
 * Connections to receivers: only to addresses that were checked. The lookup is ours and blocks a name if one of its
 * answers is bad; literals, for which no lookup happens, are checked before; the connected peer is checked before a
 * byte is written.
 */
import { type LookupAddress, type LookupOptions, lookup } from 'node:dns'
import type { LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { buildConnector } from 'undici'
import {
  type AddressNeed,
  type AllowList,
  addressAllowed,
  addressNeed,
  addressOpened,
  bareHost,
} from '../domain/hook-address.ts'

/** DNS, connect and TLS together. */
const CONNECT_MS = 5_000

/** The rules of the house forbid this destination; no packet was sent. */
export class BlockedAddressError extends Error {
  override readonly name = 'BlockedAddressError'
  readonly code = 'HOOK_BLOCKED'
  constructor() {
    super('destination not allowed')
  }
}

/** Resolves all addresses of a name. A parameter only so that tests can lie about names. */
export type Resolve = (
  hostname: string,
  options: LookupOptions,
  done: (error: Error | null, addresses: LookupAddress[]) => void,
) => void

const resolveBySystem: Resolve = (hostname, options, done) =>
  lookup(hostname, { ...options, all: true, verbatim: true }, (error, addresses) => done(error, addresses))

/** A connector for undici that opens only what the rules allow. */
export function guardedConnector(allow: AllowList, resolve: Resolve = resolveBySystem): buildConnector.connector {
  const fits = (address: string, need: AddressNeed): boolean =>
    need === 'opened' ? addressOpened(address, allow) : need === 'public' && addressAllowed(address, allow)

  const guardedLookup =
    (need: AddressNeed): LookupFunction =>
    (hostname, options, done) => {
      resolve(hostname, { ...options, all: true }, (error, addresses) => {
        if (error) return done(error, [])
        // One bad answer blocks all: whoever mixes them means to get the bad one.
        if (!addresses.length || !addresses.every(({ address }) => fits(address, need))) {
          return done(new BlockedAddressError(), [])
        }
        if (options.all) return done(null, addresses)
        done(null, addresses[0]!.address, addresses[0]!.family)
      })
    }

  const connectors = new Map(
    (['public', 'opened'] as const).map((need) => [
      need as AddressNeed,
      buildConnector({
        timeout: CONNECT_MS,
        allowH2: false,
        minVersion: 'TLSv1.2',
        lookup: guardedLookup(need),
        autoSelectFamily: true,
      }),
    ]),
  )

  return function connect(options, done) {
    const need = addressNeed(options, allow)
    const host = bareHost(options.hostname)
    const connector = connectors.get(need)
    if (!connector || (ipaddr.isValid(host) && !fits(host, need))) return done(new BlockedAddressError(), null)
    connector(options, (...[error, socket]) => {
      if (error || !socket) return done(error ?? new Error('no socket'), null)
      if (socket.remoteAddress === undefined || fits(socket.remoteAddress, need)) return done(null, socket)
      socket.destroy()
      done(new BlockedAddressError(), null)
    })
  }
}
