/** The words of the Cloud State dialect, and the message its callbacks get. */

export const CLOUD_STATE_WORDS = [
  'pending',
  'running',
  'stopping',
  'stopped',
  'failed',
  'vanished',
  'terminated',
] as const
export type CloudStateWord = (typeof CLOUD_STATE_WORDS)[number]

const WORDS: Readonly<Record<string, CloudStateWord>> = {
  pending: 'pending',
  starting: 'pending',
  running: 'running',
  rebooting: 'running',
  stopping: 'stopping',
  stopped: 'stopped',
  terminating: 'stopping',
  terminated: 'terminated',
  failed: 'failed',
  missing: 'vanished',
}

/** A state of an instance as Cloud State tells it. */
export const cloudStateWord = (state: string): CloudStateWord => WORDS[state] ?? 'pending'

/** Our states that are told as one word. */
export const statesOf = (word: CloudStateWord): string[] => Object.keys(WORDS).filter((state) => WORDS[state] === word)

/** What a callback is told of an instance besides the event: what its caller knows it by. */
export interface CallbackSubject {
  readonly uuid: string
  readonly ssh_key: { readonly name: string; readonly fingerprint: string } | null
}

/** Where the private half of an instance's key is given out, once. */
export const sshKeyHref = (instance_id: string): string => `/api/cloud_state/instances/${instance_id}/ssh_key`

interface NativeBody {
  readonly id: string
  readonly timestamp: string
  readonly data: {
    readonly resource_id: string
    readonly to: string | null
    readonly snapshot: {
      readonly public_addresses?: readonly string[]
      readonly private_addresses?: readonly string[]
    }
  }
}

/** The message of a callback, made of the event's native body (Cloud State, callback message). */
export function callbackMessage(native_body: string, subject: CallbackSubject): string {
  const { id, timestamp, data } = JSON.parse(native_body) as NativeBody
  const { public_addresses = [], private_addresses = [] } = data.snapshot
  return JSON.stringify({
    event: {
      id,
      href: `/api/events/${id}`,
      instance: {
        id: data.resource_id,
        uuid: subject.uuid,
        href: `/api/cloud_state/instances/${data.resource_id}`,
        state: cloudStateWord(data.to ?? ''),
        public_address: public_addresses[0] ?? null,
        private_address: private_addresses[0] ?? null,
        ...(subject.ssh_key ? { ssh_key: { ...subject.ssh_key, href: sshKeyHref(data.resource_id) } } : {}),
      },
      datetime: `${timestamp.slice(0, 19)}Z`,
    },
  })
}
