/**
 * What every call of the data API goes through, in this order: ledger, key, rate limit, faults, delay, the call itself,
 * the reply or its loss.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { behaviourAt } from './behaviour.ts'
import type { Verb } from './configuration.ts'
import { judge, type Subject, type Verdict } from './faults.ts'
import { carryOut, vanish } from './lifecycle.ts'
import { drawLatency } from './random.ts'
import type { Command } from './records.ts'
import { showMachine } from './view.ts'
import { answer, loseReply, type Reply, recordRequest, refusal, type WireContext } from './wire.ts'
import type { Cloud, World } from './world.ts'

/** One call, prepared: what it is about, and how it is carried out. Writes are commands, reads are functions. */
export interface Call {
  readonly subject: Subject
  readonly perform: ((verdict: Verdict) => Reply) | Command
}

/** Takes a request of one verb through everything that can happen to it. */
export async function handleCall(
  world: World,
  context: WireContext,
  verb: Verb,
  prepare: (cloud: Cloud, account: string, body: string, request_seq: number) => Call | Reply,
): Promise<Response> {
  const cloud = world.cloud(context.req.param('cloud') ?? '')
  if (!cloud) {
    // A code of its own: a cloud that is not there must never be taken for a machine that is gone.
    return context.json({ error: { code: 'noSuchCloud', message: 'There is no cloud of this name.' } }, 404)
  }
  const body = await context.req.text()
  world.advance()
  const request_seq = recordRequest(world, cloud, context, verb, body)
  const reply = (answered: Reply, verdict?: Verdict) =>
    answer(world, cloud, context, answered, request_seq, verdict?.fault_ids ?? [])

  const account = accountOf(cloud, context)
  if (account === null) return reply(refusal(cloud, 'auth'))
  const wait_ms = waitOfRateLimit(cloud)
  if (wait_ms > 0) return reply(refusal(cloud, 'throttled', undefined, wait_ms))
  const prepared = prepare(cloud, account, body, request_seq)
  if ('status' in prepared) return reply(prepared)

  const { subject, perform } = prepared
  const meant = subject.machine_id ? world.store.machine(cloud.name, subject.machine_id) : undefined
  if (meant && meant.account !== account) return reply(refusal(cloud, 'not_found')) // as if it were not there
  const verdict = world.store.transaction(() => judge(world, cloud, subject))
  const delay_ms = verdict.delay_ms + usualDelay(world, cloud, subject)
  if (delay_ms > 0) await delay(delay_ms)

  const carriedOut = () => {
    world.advance()
    if (typeof perform === 'function') return perform(verdict)
    return replyOfCommand(world, cloud, withBoot(perform, verdict))
  }
  const lose = (lost: Reply | null, how: Parameters<typeof loseReply>[6]) =>
    loseReply(world, cloud, context, lost, request_seq, verdict.fault_ids, how)

  const { ending } = verdict
  switch (ending?.kind) {
    case undefined:
      return reply(carriedOut(), verdict)
    case 'error':
      return reply(refusal(cloud, ending.class, ending.message, ending.retry_after_ms), verdict)
    case 'answer':
      return reply({ status: ending.status, body: ending.body ?? {} }, verdict)
    case 'lost_reply':
      return lose(carriedOut(), ending.how)
    case 'late':
      if (typeof perform !== 'function') {
        world.schedule(cloud, ending.after_ms, { kind: 'late', command: withBoot(perform, verdict) })
      }
      return lose(null, ending.how)
    case 'hang':
      if (ending.for_ms === undefined) return lose(null, 'hang')
      await delay(ending.for_ms)
      return reply(carriedOut(), verdict)
    case 'down':
      if (ending.how !== '503') return lose(null, ending.how)
      return reply({ status: 503, body: 'upstream connect error' }, verdict)
    case 'ignored':
      return reply(replyIgnored(world, cloud, perform, verdict), verdict)
  }
}

/** Carries out a command and puts its outcome in the provider's words. */
function replyOfCommand(world: World, cloud: Cloud, command: Command): Reply {
  const outcome = carryOut(world, cloud, command)
  if (outcome.refused !== undefined) return refusal(cloud, outcome.refused, outcome.message)
  return { status: 202, body: { machine: showMachine(cloud.configuration, outcome.machine) } }
}

function replyIgnored(world: World, cloud: Cloud, perform: Call['perform'], verdict: Verdict): Reply {
  if (typeof perform === 'function') return perform(verdict)
  if (perform.verb !== 'create') {
    const machine = world.store.machine(cloud.name, perform.machine_id)
    if (!machine?.listed) return refusal(cloud, 'not_found')
    return { status: 202, body: { machine: showMachine(cloud.configuration, machine) } }
  }
  // A create that is answered needs a machine to tell of; it is gone before anybody can look.
  return world.store.transaction(() => {
    const outcome = carryOut(world, cloud, perform)
    if (outcome.refused !== undefined) return refusal(cloud, outcome.refused, outcome.message)
    vanish(world, outcome.machine, 'its create was ignored')
    return { status: 202, body: { machine: showMachine(cloud.configuration, outcome.machine) } }
  })
}

function withBoot(command: Command, verdict: Verdict): Command {
  if (command.verb !== 'create') return command
  return { ...command, boot_latency_ms: verdict.boot_latency_ms, boot_outcome: verdict.boot_outcome }
}

function usualDelay(world: World, cloud: Cloud, subject: Subject): number {
  const { seed } = cloud.configuration
  const { call_latency_ms, create_latency_ms } = behaviourAt(cloud.configuration, subject)
  if (call_latency_ms === 0 && (subject.verb !== 'create' || create_latency_ms === 0)) return 0
  const number = world.count(cloud, 'calls')
  const create_ms = subject.verb === 'create' ? drawLatency(create_latency_ms, seed, 'create', number) : 0
  return drawLatency(call_latency_ms, seed, 'call', number) + create_ms
}

/** Whose machines a call sees; null: its key is none of the cloud's. */
function accountOf(cloud: Cloud, context: WireContext): string | null {
  const { api_keys } = cloud.configuration
  if (api_keys.length === 0) return ''
  const [scheme, sent] = (context.req.header('authorization') ?? '').split(' ')
  if (scheme?.toLowerCase() !== 'bearer') return null
  const known = api_keys.find((one) => (typeof one === 'string' ? one : one.key) === sent)
  return known === undefined ? null : typeof known === 'string' ? '' : known.account
}

/** Takes one call off the allowance; returns how long to wait where none is left. */
function waitOfRateLimit(cloud: Cloud): number {
  const limit = cloud.configuration.rate_limit
  if (!limit) return 0
  const now = Date.now()
  const { calls, at } = cloud.allowance ?? { calls: limit.burst, at: now }
  const left = Math.min(limit.burst, calls + ((now - at) * limit.calls_per_s) / 1000)
  cloud.allowance = { calls: left >= 1 ? left - 1 : left, at: now }
  return left >= 1 ? 0 : Math.ceil(((1 - left) * 1000) / limit.calls_per_s)
}
