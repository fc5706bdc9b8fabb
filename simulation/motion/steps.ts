/**
 * Steps of flows, as in activities/instances.ts: create and delete at a cloud and store what came of it. Workers die in
 * the middle: the step is run again, sometimes while the worker that was taken for dead goes on.
 */
import { answerCreate, answerDelete, machineAt } from '../cloud/machines.ts'
import { machineOf } from '../record/actions.ts'
import { type SendOutcome, storeOutcome } from '../record/attempts.ts'
import type { ModelStep } from '../record/order-plan.ts'
import { machinesToDelete, storeGone } from '../record/removals.ts'
import type { AttemptRow, OrderRow } from '../record/rows.ts'
import { after, strikes, tell, type World } from '../world.ts'
import { type Flow, planSoon } from './flows.ts'

export interface Running {
  readonly flow: Flow
  readonly step: ModelStep
  cancelled: boolean
}

/** One run of a step by one worker. */
interface Run {
  readonly running: Running
  /** Taken for dead from then on; it may live on all the same. */
  readonly lost_at: number
  readonly lives_on: boolean
}

const WORKER_LOST = 0.01
/** A worker stands still between writing down that it sends, and sending. */
const PAUSED = 0.002
const RECORD_AWAY = 0.01
const STAY_MS = 3_000
const STAY_REFUSED_MS = 500
const DELETE_FOLLOW_MS = 10_000
const POLL_MS = 1_000

export function startStep(world: World, flow: Flow, step: ModelStep): void {
  const running: Running = { flow, step, cancelled: false }
  flow.running.set(step.key, running)
  runStep(world, running)
}

const isWaitedFor = ({ flow, step }: Running, running: Running): boolean =>
  !flow.over && flow.running.get(step.key) === running

function runStep(world: World, running: Running): void {
  const { chance } = world
  const lost = strikes(world, WORKER_LOST)
  const lost_at = lost ? world.now + chance.spread(1, 15_000) : Number.POSITIVE_INFINITY
  const run: Run = { running, lost_at, lives_on: lost && chance.happens(0.5) }
  if (lost) {
    world.agenda.put(lost_at + chance.whole(5_000, 7_000), () => {
      if (!isWaitedFor(running, running)) return
      world.say(running.flow.target.id, `${running.step.key} runs again: its worker was lost`)
      runStep(world, running)
    })
  }
  const { row, kind } = running.flow.target
  if (kind === 'lease') return
  const order = kind === 'order' ? row : row.item.order
  if (running.step.kind === 'create') create(world, run, order)
  else if (kind === 'order') remove(world, run, order, machinesToDelete(world, order, running.step.batch), true)
  else {
    const machine = machineOf(row)
    remove(world, run, order, machine ? [machine] : [], false)
  }
}

const isDead = (world: World, run: Run): boolean => world.now >= run.lost_at && !run.lives_on

function end(world: World, run: Run): void {
  const { running } = run
  if (world.now >= run.lost_at || !isWaitedFor(running, running)) return
  running.flow.running.delete(running.step.key)
  planSoon(world, running.flow)
}

/** The record may be away for a while; what was answered is kept in hand until it can be stored. */
const recordPause = (world: World): number => (strikes(world, RECORD_AWAY) ? world.chance.spread(100, 25_000) : 10)

function create(world: World, run: Run, order: OrderRow): void {
  const sent = world.store.markSent(world, order, run.running.step.batch)
  let open = sent.length
  let refused = false
  if (!open) after(world, 10, () => end(world, run))
  const answered = (outcome: SendOutcome): void => {
    if (isDead(world, run)) return
    storeOutcome(world, order, outcome)
    refused ||= outcome.error !== undefined
    if (--open) return
    const stays = run.running.cancelled ? 0 : world.chance.whole(0, refused ? STAY_REFUSED_MS : STAY_MS)
    after(world, stays, () => end(world, run))
  }
  for (const { attempt, send } of sent) {
    const call = (): void => {
      if (isDead(world, run)) return
      const { in_ms, ...answer } = answerCreate(world, attempt)
      after(world, in_ms + recordPause(world), () => answered({ attempt, send, ...answer }))
    }
    if (!strikes(world, PAUSED)) call()
    else {
      world.say(attempt.id, 'its sender stands still')
      after(world, world.chance.spread(100, 120_000), call)
    }
  }
}

function remove(world: World, run: Run, order: OrderRow, attempts: readonly AttemptRow[], by_order: boolean): void {
  let open = attempts.length
  if (!open) after(world, 10, () => end(world, run))
  const store = (attempt: AttemptRow, gone: boolean, error?: { class: string; retry_after_ms?: number }): void => {
    after(world, recordPause(world), () => {
      if (isDead(world, run)) return
      storeGone(world, order, [{ attempt, gone, ...(error ? { error } : {}) }], by_order)
      if (--open === 0) end(world, run)
    })
  }
  const ask = (attempt: AttemptRow, give_up_at: number, again: boolean): void => {
    if (isDead(world, run)) return
    const machine = machineAt(world, attempt.cloud, attempt.provider_id!)
    tell(world, { act: 'asked_to_delete', attempt, again })
    const { in_ms, outcome } = answerDelete(world, attempt)
    after(world, in_ms, () => {
      if (isDead(world, run)) return
      if (outcome === 'not_found') return store(attempt, true)
      if (outcome !== 'accepted') return store(attempt, false, outcome)
      if (world.now > give_up_at || run.running.cancelled) return store(attempt, false)
      // It is asked for again and again; only the first time at which it can be gone is simulated.
      const gone_at = machine?.doomed_at === null ? world.now : (machine?.forgotten_at ?? world.now)
      const next_at = Math.min(Math.max(gone_at, world.now) + world.chance.whole(50, POLL_MS), give_up_at + POLL_MS)
      world.agenda.put(next_at, () => ask(attempt, give_up_at, true))
    })
  }
  for (const attempt of attempts) ask(attempt, world.now + DELETE_FOLLOW_MS, false)
}
