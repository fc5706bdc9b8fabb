/** The receiver's handle: starts the process, asks for its ledger, and judges it. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

export interface Received {
  /** First byte of the request, ms since 1970. */
  readonly at: number
  /** `<type>/<id>` */
  readonly resource: string
  readonly sequence: number
  readonly to: string | null
  /** The resource's name, from the snapshot. */
  readonly name: string
}

export type ReceiverOrder = 'reset' | 'ledger' | 'count'

export interface ReceiverProcess {
  readonly uri: string
  readonly pid: number
  reset(): Promise<void>
  count(): Promise<number>
  ledger(): Promise<Received[]>
  stop(): Promise<void>
}

const RECEIVER = fileURLToPath(new URL('./receiver.ts', import.meta.url))

export async function openReceiver(): Promise<ReceiverProcess> {
  const child = fork(RECEIVER, {
    execArgv: ['--disable-warning=ExperimentalWarning'],
    stdio: ['ignore', 2, 2, 'ipc'],
    serialization: 'advanced',
  })
  const exited = once(child, 'exit')
  const early = exited.then(() => {
    throw new Error('the receiver ended')
  })
  early.catch(() => {})
  const answer = async <T>(): Promise<T> => ((await Promise.race([once(child, 'message'), early])) as [T])[0]
  const ask = <T>(order: ReceiverOrder): Promise<T> => {
    const answered = answer<T>()
    child.send(order)
    return answered
  }
  const { port } = await answer<{ port: number }>()
  return {
    uri: `http://127.0.0.1:${port}/hook`,
    pid: child.pid!,
    reset: async () => void (await ask('reset')),
    count: () => ask<number>('count'),
    ledger: () => ask<Received[]>('ledger'),
    async stop() {
      child.disconnect()
      await exited
    },
  }
}

export interface Judgement {
  readonly doubled: number
  readonly inversions: number
}

/** Doubled deliveries and first ones out of order, by resource. */
export function judgeReceived(ledger: readonly Received[]): Judgement {
  let [doubled, inversions] = [0, 0]
  const newest = new Map<string, number>()
  const seen = new Set<string>()
  for (const { resource, sequence } of ledger.toSorted((a, b) => a.at - b.at)) {
    const event = `${resource}/${sequence}`
    if (seen.has(event)) {
      doubled++
      continue
    }
    seen.add(event)
    if (sequence < (newest.get(resource) ?? 0)) inversions++
    newest.set(resource, Math.max(sequence, newest.get(resource) ?? 0))
  }
  return { doubled, inversions }
}
