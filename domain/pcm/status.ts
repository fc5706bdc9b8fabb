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

/** Words of a cloud that say more than our states do. */
const RAW: Readonly<Record<string, PcmStatus>> = {
  HARD_REBOOT: 'hard-reboot',
  REBUILD: 'provider-operation',
  RESCUE: 'provider-operation',
  RESIZE: 'provider-operation',
  REVERT_RESIZE: 'provider-operation',
  VERIFY_RESIZE: 'needs-verify',
}

/** The status of an instance; a cloud's own word counts while the machine lives. */
export function pcmStatus(state: string, raw_state: string | null): PcmStatus {
  const over = state === 'pending' || state === 'terminated' || state === 'failed' || state === 'missing'
  return (!over && RAW[(raw_state ?? '').split(' ')[0]!]) || (STATUSES[state] ?? 'unknown')
}

/** What setting a status asks for. */
export const SETTABLE: Readonly<Record<string, { readonly kind: InstanceAction; readonly reboot?: 'soft' | 'hard' }>> =
  {
    reboot: { kind: 'reboot', reboot: 'soft' },
    'hard-reboot': { kind: 'reboot', reboot: 'hard' },
    suspend: { kind: 'stop' },
    active: { kind: 'start' },
  }
