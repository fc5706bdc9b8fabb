/** The twelve statuses of PCM (part 1, status), and what a client may set. */
import type { InstanceAction } from '../instance.ts'

export const PCM_STATUSES = [
  'active',
  'build',
  'terminated',
  'error',
  'hard-reboot',
  'reboot',
  'provider-operation',
  'shutting-down',
  'suspending',
  'suspend',
  'unknown',
  'needs-verify',
] as const
export type PcmStatus = (typeof PCM_STATUSES)[number]

const STATUSES: Readonly<Record<string, PcmStatus>> = {
  pending: 'build',
  starting: 'build',
  running: 'active',
  rebooting: 'reboot',
  stopping: 'suspending',
  stopped: 'suspend',
  terminating: 'shutting-down',
  terminated: 'terminated',
  failed: 'error',
  missing: 'unknown',
}

/** Words of a cloud that say what our states do: those of OpenStack, and of EC2. */
const PLAIN: ReadonlySet<string> = new Set([
  ...['ACTIVE', 'PASSWORD', 'SHUTOFF', 'BUILD', 'DELETED', 'ERROR', 'REBOOT'],
  ...['running', 'pending', 'terminated', 'shutting-down', 'stopping', 'stopped'],
])
/** Words of a cloud that say more. */
const RAW: Readonly<Record<string, PcmStatus>> = {
  SUSPENDED: 'suspend',
  HARD_REBOOT: 'hard-reboot',
  REBUILD: 'provider-operation',
  RESCUE: 'provider-operation',
  RESIZE: 'provider-operation',
  REVERT_RESIZE: 'provider-operation',
  VERIFY_RESIZE: 'needs-verify',
}

/** The status of an instance; a cloud's own word counts while the machine lives, and one of no list says nothing. */
export function pcmStatus(state: string, raw_state: string | null): PcmStatus {
  const over = state === 'pending' || state === 'terminated' || state === 'failed' || state === 'missing'
  const word = (raw_state ?? '').split(' ')[0]!
  if (over || word === '' || PLAIN.has(word)) return STATUSES[state] ?? 'unknown'
  return RAW[word] ?? 'unknown'
}

/** What setting a status asks for. */
export const SETTABLE: Readonly<Record<string, { readonly kind: InstanceAction; readonly reboot?: 'soft' | 'hard' }>> =
  {
    reboot: { kind: 'reboot', reboot: 'soft' },
    'hard-reboot': { kind: 'reboot', reboot: 'hard' },
    suspend: { kind: 'stop' },
    active: { kind: 'start' },
  }
