/**
 * The rules of an inventory outside: it gives a machine its name before the machine is made, and is told what became of it.
 * Pure. Either is asked for until it is done, however long that takes; no machine is made without its name.
 */
import type { BlockerDecision } from '../blocker.ts'
import type { Attributes } from './configuration.ts'

/** Looked at again after this, where there is nobody to be asked; an inventory that is configured wakes whoever waits. */
const LOOK_AGAIN_MS = 60_000

export const NO_INVENTORY = 'there is no inventory.conf to say which inventory to ask'

/** What is known of a machine's entry; times are real, in ms. */
export interface EntryView {
  readonly is_named: boolean
  /** Its instance came to its end. */
  readonly is_over: boolean
  /** It was asked for a name, which may have been given though nobody heard it. */
  readonly was_asked: boolean
  /** What is to be recorded of it is what was told last. */
  readonly is_told: boolean
  /** It is known which inventory to ask, and how. */
  readonly has_account: boolean
  readonly next_try_at: number
  /** Why it came to nothing when it was last asked for. */
  readonly error: string | null
}

export interface EntryDecision {
  /** Ask the inventory now. */
  readonly step: 'name' | 'record' | null
  readonly due_at: number | null
  readonly blocker: BlockerDecision | null
  readonly waiting_for: string
}

const NOTHING: EntryDecision = { step: null, due_at: null, blocker: null, waiting_for: '' }

/** What an entry wants. A name that nobody asked for is not wanted any more once the instance is over. */
export function wantedOf({
  is_named,
  is_over,
  was_asked,
  is_told,
}: Pick<EntryView, 'is_named' | 'is_over' | 'was_asked' | 'is_told'>): EntryDecision['step'] {
  if (!is_named) return is_over && !was_asked ? null : 'name'
  return is_told ? null : 'record'
}

/** Decides what an instance's entry in the inventory needs at `now`; null: it has none outside. */
export function decideEntry(view: EntryView | null, now: number): EntryDecision {
  const wanted = view && wantedOf(view)
  if (!wanted) return NOTHING
  const { has_account } = view
  const error = has_account ? view.error : NO_INVENTORY
  const next_try_at = has_account ? view.next_try_at : now + LOOK_AGAIN_MS
  const blocker: BlockerDecision | null = error
    ? wanted === 'name'
      ? nameBlocker(error, next_try_at)
      : { code: 'record_unconfirmed', reason: `the inventory has not taken its record: ${error}`, next_try_at }
    : null
  const step = next_try_at <= now
  const waiting_for = wanted === 'name' ? 'the inventory to name it' : 'the inventory to take its record'
  return { step: step ? wanted : null, due_at: step ? null : next_try_at, blocker, waiting_for }
}

/** What holds up a machine that the inventory gives no name. */
export const nameBlocker = (error: string, next_try_at: number): BlockerDecision => ({
  code: 'name_missing',
  reason: `the inventory has not named it: ${error}`,
  next_try_at,
})

const HOST_NAME_MAX = 253
const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i

/** Whether it is one (RFC 1123). */
export const isHostName = (text: unknown): text is string =>
  typeof text === 'string' && text.length <= HOST_NAME_MAX && text.split('.').every((label) => LABEL.test(label))

/** What a machine is called in full. An inventory outside may give full names, the built-in one never does. */
export function fullName(name: string, host_domain: string | null, given_outside: boolean): string {
  return host_domain === null || (given_outside && name.includes('.')) ? name : `${name}.${host_domain}`
}

/** How an inventory calls the state of an instance. */
export function inventoryStatus(state: string): 'building' | 'active' | 'decommissioned' {
  if (state === 'terminated' || state === 'failed' || state === 'missing') return 'decommissioned'
  return state === 'pending' || state === 'starting' ? 'building' : 'active'
}

/** What a caller said of a machine, and what it came to. */
export interface Entry {
  readonly name: string | null
  readonly cloud: string
  readonly environment: string | null
  readonly roles: readonly string[]
  readonly subnet: string | null
  readonly host_domain: string | null
  readonly extra: Attributes
  readonly state: string
  readonly size: string
  readonly image: string
  readonly provider_id: string | null
  readonly public_addresses: readonly string[]
  readonly private_addresses: readonly string[]
}

/** What the inventory is asked with for a name. */
export const requestOf = ({ cloud, environment, roles, subnet, size, image, extra }: Entry): Attributes => ({
  cloud,
  environment_name: environment,
  roles: roles.toSorted().join(','),
  subnet,
  size,
  image,
  ...extra,
})

/** What the inventory is told of a machine that it named; null: nothing yet, the machine is still to be made. */
export function recordOf(entry: Entry, was_told: boolean): Attributes | null {
  const { name, cloud, environment, roles, host_domain, extra, state, size, image, provider_id } = entry
  if (name === null || (state === 'pending' && !was_told)) return null
  const full = fullName(name, host_domain, true)
  return {
    fqdn: full,
    size,
    image,
    serial_number: provider_id,
    roles: roles.toSorted().join(','),
    ip_address: entry.public_addresses[0] ?? entry.private_addresses[0] ?? null,
    host_fqdn: host_domain === null ? null : full,
    environment_name: environment,
    cloud,
    status: inventoryStatus(state),
    ...extra,
  }
}
