import { describe, expect, test } from 'vitest'
import { addressAllowed, checkHookUri, parseAllowList } from '../../domain/hook-address.ts'
import { PASSED, REFUSED } from '../support/hook-addresses.ts'

const NONE = parseAllowList('')
const LOOPBACK = parseAllowList('127.0.0.0/8, ::1/128')

const uriOf = (address: string): string => `https://${address.includes(':') ? `[${address}]` : address}/hook`

describe('addresses', () => {
  test.each(REFUSED)('%s is refused', (address) => {
    expect(addressAllowed(address, NONE)).toBe(false)
    expect(() => checkHookUri(uriOf(address), NONE)).toThrow()
  })
  test.each(PASSED)('%s passes', (address) => {
    expect(addressAllowed(address, NONE)).toBe(true)
    expect(() => checkHookUri(uriOf(address), NONE)).not.toThrow()
  })
  test.each(['', 'nonsense', '1.2.3', '999.1.1.1', 'fe80::1%lo'])('%j is no address', (text) => {
    expect(addressAllowed(text, NONE)).toBe(false)
  })
})

describe('what the operator opens', () => {
  test('opens private ranges', () => {
    expect(addressAllowed('10.2.3.4', parseAllowList('10.0.0.0/8'))).toBe(true)
    expect(addressAllowed('fd12::1', parseAllowList('fd12::/16'))).toBe(true)
    expect(addressAllowed('10.2.3.4', parseAllowList('192.168.0.0/16'))).toBe(false)
  })
  test('opens loopback only when that is named', () => {
    expect(addressAllowed('127.0.0.1', parseAllowList('0.0.0.0/0'))).toBe(false)
    expect(addressAllowed('::1', parseAllowList('::/0'))).toBe(false)
    expect(addressAllowed('127.0.0.1', LOOPBACK)).toBe(true)
    expect(addressAllowed('::ffff:127.0.0.1', LOOPBACK)).toBe(true)
  })
  test.each(['169.254.169.254', '168.63.129.16', '100.100.100.200', '192.0.0.192', 'fe80::1', 'fd00:ec2::254'])(
    'never opens %s',
    (address) => expect(addressAllowed(address, parseAllowList('0.0.0.0/0,::/0,169.254.0.0/16,fd00::/8'))).toBe(false),
  )
  test('says which CIDR it does not understand', () => {
    expect(() => parseAllowList('10.0.0.0/8,10.0.0.300')).toThrow("'10.0.0.300'")
  })
})

describe('uris', () => {
  test.each([
    'https://127.1/',
    'https://0x7f000001/',
    'https://2130706433/',
    'https://017700000001/',
    'https://①②⑦.0.0.1/',
    'https://127。0。0。1/',
    'http://example.com/',
    'https://example.com:8443/',
    'https://user@example.com/',
    'https://user:word@example.com/',
    'https://example.com/#part',
    'ftp://example.com/',
    'file:///etc/passwd',
    'example.com',
    '',
    'https://intranet/',
    'https://localhost/',
    'https://LOCALHOST./',
    'https://a.localhost/',
    'https://printer.local/',
    'https://metadata.google.internal/',
    'https://api.svc/',
    'https://api.default.svc.cluster.local/',
    'https://nas.home.arpa/',
    'https://nas.lan./',
    `https://example.com/${'x'.repeat(2_048)}`,
  ])('%s is refused', (uri) => expect(() => checkHookUri(uri, NONE)).toThrow())

  test.each([
    ['https://example.com', 'https://example.com/'],
    ['https://EXAMPLE.com:443/a?b=c', 'https://example.com/a?b=c'],
    ['https://example.com\\@127.0.0.1', 'https://example.com/@127.0.0.1'],
    ['https://bücher.example/', 'https://xn--bcher-kva.example/'],
  ])('%s becomes %s', (uri, normal) => expect(checkHookUri(uri, NONE)).toBe(normal))

  test('inside the opened ranges http and any port pass (W6, W11)', () => {
    expect(checkHookUri('http://127.0.0.1:8080/x', LOOPBACK)).toBe('http://127.0.0.1:8080/x')
    expect(checkHookUri('http://[::1]:8080/x', LOOPBACK)).toBe('http://[::1]:8080/x')
    expect(checkHookUri('http://localhost:8080/x', LOOPBACK)).toBe('http://localhost:8080/x')
    expect(() => checkHookUri('http://8.8.8.8/', LOOPBACK)).toThrow('https')
    expect(() => checkHookUri('http://localhost/', parseAllowList('10.0.0.0/8'))).toThrow()
  })
})
