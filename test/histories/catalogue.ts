/**
 * Which histories there must be: for every workflow type the ways its runs go, each with what a run of that kind shows.
 * A way is a file `<type>-<way>.json`: a history in the engine's own JSON, as `temporal workflow show --output json`
 * writes it.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

export const FOLDER = import.meta.dirname

interface HistoryEvent {
  readonly eventType: string
  readonly activityTaskScheduledEventAttributes?: { readonly activityType: { readonly name: string } }
}
export interface JsonHistory {
  readonly events: readonly HistoryEvent[]
}

/** A history, asked for what is in it. */
export interface Seen {
  /** How many events of a type, for example `TIMER_FIRED`. */
  count(type: string): number
  /** The last event's type. */
  readonly end: string
  /** How often a regular activity was scheduled. */
  scheduled(activity: string): number
  /** Whether a payload (argument, result, summary, search attribute) has this text. */
  mentions(text: string): boolean
}

const COMPLETED = 'WORKFLOW_EXECUTION_COMPLETED'
const RENEWED = 'WORKFLOW_EXECUTION_CONTINUED_AS_NEW'
const done = (seen: Seen): boolean => seen.end === COMPLETED
const renewed = (seen: Seen): boolean => seen.end === RENEWED
const stepFailed = (activity: string) => (seen: Seen) =>
  done(seen) && seen.count('ACTIVITY_TASK_FAILED') > 0 && seen.scheduled(activity) > 1
/** An activity that stays failed, and was run again after a pause. */
const stayFailed = (activity: string) => (seen: Seen) =>
  seen.count('ACTIVITY_TASK_FAILED') > 0 && seen.count('TIMER_FIRED') > 0 && seen.scheduled(activity) > 1
/** Planning as a local activity failed, and a regular one took over. */
const planned = (activity: string) => (seen: Seen) => done(seen) && seen.scheduled(activity) > 0
/** Acts of leases and deployments are found in what their plans answered. */
const planning =
  (...words: string[]) =>
  (seen: Seen): boolean =>
    done(seen) && words.every((word) => seen.mentions(word))

export const WAYS: Readonly<Record<string, Readonly<Record<string, (seen: Seen) => boolean>>>> = {
  launchOrder: {
    plain: (seen) => done(seen) && seen.scheduled('createInstances') === 1 && !seen.scheduled('deleteInstances'),
    'cancel-before-create': (seen) =>
      done(seen) && !seen.count('ACTIVITY_TASK_SCHEDULED') && seen.mentions('cancelled'),
    'cancel-in-create': (seen) => done(seen) && seen.count('ACTIVITY_TASK_CANCEL_REQUESTED') > 0,
    'cancel-in-boot': (seen) =>
      done(seen) &&
      seen.mentions('cancelled') &&
      seen.scheduled('createInstances') === 1 &&
      seen.scheduled('deleteInstances') > 0 &&
      !seen.count('ACTIVITY_TASK_CANCEL_REQUESTED'),
    'cancel-in-compensation': (seen) =>
      done(seen) &&
      seen.mentions('compensating') &&
      seen.mentions('cancelled') &&
      seen.scheduled('deleteInstances') > 0,
    terminate: (seen) => done(seen) && !seen.scheduled('createInstances') && seen.scheduled('deleteInstances') > 0,
    failover: (seen) => done(seen) && seen.scheduled('createInstances') > 1 && seen.mentions('running'),
    'lost-reply': (seen) =>
      done(seen) && seen.count('TIMER_FIRED') > 0 && seen.scheduled('createInstances') > 1 && seen.mentions('running'),
    compensation: (seen) => done(seen) && seen.scheduled('deleteInstances') > 0 && seen.mentions('failed'),
    'failing-step': stepFailed('createInstances'),
    'record-away': planned('planOrder'),
    'continue-as-new': renewed,
  },
  instance: {
    plain: (seen) => done(seen) && seen.scheduled('terminateInstance') === 1,
    cancel: (seen) => done(seen) && seen.count('ACTIVITY_TASK_CANCEL_REQUESTED') > 0,
    power: (seen) => done(seen) && seen.scheduled('actOnInstance') >= 3 && !seen.scheduled('terminateInstance'),
    'power-superseded': (seen) =>
      done(seen) &&
      seen.scheduled('actOnInstance') > 0 &&
      seen.count('ACTIVITY_TASK_CANCEL_REQUESTED') > 0 &&
      seen.scheduled('terminateInstance') > 0,
    tagged: (seen) => done(seen) && seen.scheduled('tagInstance') === 1,
    'tagged-late': (seen) => done(seen) && seen.scheduled('tagInstance') > 1 && seen.count('TIMER_FIRED') > 0,
    named: (seen) => done(seen) && seen.scheduled('nameInstance') === 1 && !seen.scheduled('recordInstance'),
    'named-late': (seen) => done(seen) && seen.scheduled('nameInstance') > 1 && seen.count('TIMER_FIRED') > 0,
    recorded: (seen) => done(seen) && seen.scheduled('recordInstance') > 0 && !seen.scheduled('nameInstance'),
    'failing-step': stepFailed('terminateInstance'),
    'record-away': planned('planInstance'),
  },
  deployment: {
    plain: planning('**restart**'),
    terminate: (seen) => planning('**terminate**')(seen) && !seen.mentions('**stop**'),
    superseded: planning('**stop**', '**terminate**'),
    'record-away': planned('planDeployment'),
  },
  lease: {
    plain: planning('ACTIVE', 'TERMINATED'),
    'start-delay': (seen) => planning('TERMINATED')(seen) && seen.mentions('start-delay'),
    extended: (seen) => planning('ACTIVE', 'TERMINATED')(seen) && seen.mentions('extended'),
    shortened: (seen) => planning('ACTIVE', 'TERMINATED')(seen) && seen.mentions('shortened'),
    ended: (seen) => planning('ACTIVE', 'TERMINATED')(seen) && seen.mentions('ended'),
    'cancel-before-start': planning('TERMINATED'),
    'record-away': planned('planLease'),
  },
  hookSender: {
    plain: (seen) => seen.scheduled('sendShard') === 1 && seen.end !== COMPLETED,
    'failing-step': stayFailed('sendShard'),
    'continue-as-new': renewed,
  },
  hookLane: {
    plain: (seen) => done(seen) && seen.scheduled('attemptDelivery') > 0 && seen.mentions('handed back'),
    cancel: (seen) => done(seen) && seen.scheduled('attemptDelivery') > 0 && seen.mentions('deleted'),
    'failing-step': stepFailed('attemptDelivery'),
    'record-away': planned('planLane'),
    'continue-as-new': renewed,
  },
  cloudWatch: {
    plain: (seen) => seen.scheduled('watchCloud') === 1 && seen.end !== COMPLETED,
    'taken-over': done,
    'failing-step': stayFailed('watchCloud'),
    'continue-as-new': renewed,
  },
  housekeeping: {
    plain: done,
    failed: (seen) => seen.end === 'WORKFLOW_EXECUTION_FAILED',
  },
}

export const fileOf = (type: string, way: string): string => `${type}-${way}.json`

/** The recorded histories there are, by file name. */
export async function readHistories(): Promise<Map<string, JsonHistory>> {
  const files = (await readdir(FOLDER)).filter((file) => file.endsWith('.json')).toSorted()
  const read = async (file: string) => JSON.parse(await readFile(join(FOLDER, file), 'utf8')) as JsonHistory
  return new Map(await Promise.all(files.map(async (file) => [file, await read(file)] as const)))
}

/** What a history has in it. */
export function look({ events }: JsonHistory): Seen {
  const types = events.map((event) => event.eventType.replace('EVENT_TYPE_', ''))
  let texts: string | undefined
  return {
    count: (wanted) => types.filter((type) => type === wanted).length,
    end: types.at(-1)!,
    scheduled: (activity) =>
      events.filter((event) => event.activityTaskScheduledEventAttributes?.activityType.name === activity).length,
    mentions(text) {
      texts ??= [...payloadsOf(events)].join('\n')
      return texts.includes(text)
    },
  }
}

function* payloadsOf(value: unknown): Generator<string> {
  if (typeof value !== 'object' || value === null) return
  for (const [key, entry] of Object.entries(value)) {
    if (key === 'data' && typeof entry === 'string') yield Buffer.from(entry, 'base64').toString('utf8')
    else yield* payloadsOf(entry)
  }
}
