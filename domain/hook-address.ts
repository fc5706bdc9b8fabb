/**
 * Where a hook may point: the outgoing address rules. Checked when a hook is saved, at each lookup, and on the
 * connected peer, because each of these alone has a hole (names change their answers, literals skip the lookup).
 */
import ipaddr from 'ipaddr.js'
import { DomainError } from './errors.ts'

type Range = [ipaddr.IPv4 | ipaddr.IPv6, number]

/** CIDRs opened by the operator (`HOOK_ALLOW`). */
export interface AllowList {
  readonly ranges: readonly Range[]
}

export const URI_LENGTH_MAX = 2_048

const v4 = (...cidrs: string[]): Range[] => cidrs.map((cidr) => ipaddr.IPv4.parseCIDR(cidr))
const v6 = (...cidrs: string[]): Range[] => cidrs.map((cidr) => ipaddr.IPv6.parseCIDR(cidr))

const LOOPBACK = [...v4('127.0.0.0/8'), ...v6('::1/128')]
/** Never opened, whatever the operator names: link-local and the metadata services of clouds. */
const NEVER = [
  ...v4('0.0.0.0/8', '169.254.0.0/16', '168.63.129.16/32', '192.0.0.192/32', '100.100.100.200/32', '224.0.0.0/4'),
  ...v4('255.255.255.255/32'),
  ...v6('::/128', 'fe80::/10', 'fd00:ec2::254/128', 'ff00::/8'),
]
const REFUSED_V4 = v4(
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '168.63.129.16/32',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.31.196.0/24',
  '192.52.193.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '192.175.48.0/24',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  '240.0.0.0/4',
)
/** IPv6 is an allow-list: what is not global unicast is refused without being named. */
const GLOBAL_V6 = v6('2000::/3')
const REFUSED_V6 = v6('2001::/23', '2001:db8::/32', '3fff::/20', '2002::/16', '2620:4f:8000::/48')
const REFUSED_SUFFIXES = ['localhost', 'local', 'internal', 'svc', 'cluster.local', 'home.arpa', 'lan']

/** Parses `HOOK_ALLOW`: CIDRs separated by commas. Throws on anything else, naming it. */
export function parseAllowList(text: string | undefined): AllowList {
  const ranges = (text ?? '')
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map((part): Range => {
      if (!ipaddr.isValidCIDR(part)) {
        throw new DomainError('invalid_request', `HOOK_ALLOW: '${part}' is not a CIDR such as 10.1.0.0/16`)
      }
      return ipaddr.parseCIDR(part)
    })
  return { ranges }
}

/** True when a connection to this address may be opened. */
export function addressAllowed(address: string, allow: AllowList): boolean {
  const parsed = parse(address)
  if (!parsed) return false
  if (opened(parsed, allow)) return true
  if (parsed.kind() === 'ipv4') return !within(parsed, REFUSED_V4)
  return within(parsed, GLOBAL_V6) && !within(parsed, REFUSED_V6)
}

/** True when the operator opened this address: http and any port may be used there. */
export function addressOpened(address: string, allow: AllowList): boolean {
  const parsed = parse(address)
  return parsed !== undefined && opened(parsed, allow)
}

/** What the addresses behind a host have to satisfy: `public` the address rules, `opened` lie inside `HOOK_ALLOW`. */
export type AddressNeed = 'public' | 'opened' | 'refused'

/** The rule for the addresses of a target, given by its scheme, port and name. */
export function addressNeed(
  target: { protocol: string; hostname: string; port: string },
  allow: AllowList,
): AddressNeed {
  const host = bareHost(target.hostname)
  const plain = target.protocol !== 'https:' || (target.port !== '' && target.port !== '443')
  if (ipaddr.isValid(host)) return plain ? 'opened' : 'public'
  const name = host.toLowerCase().replace(/\.$/, '')
  const loopback_opened = allow.ranges.some((range) => isLoopbackRange(range))
  if (name === 'localhost') return loopback_opened ? 'opened' : 'refused'
  if (!name.includes('.')) return 'refused'
  if (REFUSED_SUFFIXES.some((suffix) => name === suffix || name.endsWith(`.${suffix}`))) return 'refused'
  return plain ? 'opened' : 'public'
}

/** Checks an address for a hook as far as that goes without a lookup; returns it in its normal form. */
export function checkHookUri(uri: string, allow: AllowList): string {
  if (uri.length > URI_LENGTH_MAX) throw refused(`is longer than ${URI_LENGTH_MAX} characters`)
  if (!URL.canParse(uri)) throw refused('is not an absolute address')
  const url = new URL(uri)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw refused('must start with https://')
  if (url.username || url.password) throw refused('must not hold a user name or password')
  if (url.hash) throw refused('must not hold a fragment')
  if (url.href.length > URI_LENGTH_MAX) throw refused(`is longer than ${URI_LENGTH_MAX} characters`)
  const host = bareHost(url.hostname)
  const literal = ipaddr.isValid(host)
  const need = addressNeed(url, allow)
  if (need === 'refused' || (literal && !addressAllowed(host, allow))) throw refused('destination not allowed')
  if (need === 'opened' && (literal ? !addressOpened(host, allow) : allow.ranges.length === 0)) {
    throw refused('must use https on port 443')
  }
  return url.href
}

/** The host without the brackets of an IPv6 literal. */
export function bareHost(hostname: string): string {
  return hostname.startsWith('[') && hostname.endsWith(']') ? hostname.slice(1, -1) : hostname
}

function opened(address: ipaddr.IPv4 | ipaddr.IPv6, allow: AllowList): boolean {
  if (within(address, NEVER)) return false
  const loopback = within(address, LOOPBACK)
  // Loopback must be named: 0.0.0.0/0 does not open it.
  return allow.ranges.some((range) => (!loopback || isLoopbackRange(range)) && within(address, [range]))
}

function isLoopbackRange([network, bits]: Range): boolean {
  return LOOPBACK.some(
    ([loopback, loopback_bits]) => bits >= loopback_bits && within(network, [[loopback, loopback_bits]]),
  )
}

function within(address: ipaddr.IPv4 | ipaddr.IPv6, ranges: readonly Range[]): boolean {
  return ranges.some(([network, bits]) => network.kind() === address.kind() && address.match(network, bits))
}

function parse(address: string): ipaddr.IPv4 | ipaddr.IPv6 | undefined {
  if (address.includes('%') || !(ipaddr.IPv4.isValidFourPartDecimal(address) || ipaddr.IPv6.isValid(address)))
    return undefined
  const parsed = ipaddr.parse(address)
  return parsed instanceof ipaddr.IPv6 && parsed.isIPv4MappedAddress() ? parsed.toIPv4Address() : parsed
}

const refused = (reason: string): DomainError =>
  new DomainError('invalid_request', `the hook's uri ${reason}`, { problems: [{ path: 'uri', reason }] })
