/**
 * What must hold after each step. Each is one function, which says what speaks against it, and about which noun.
 * Promises are those of docs/ARCHITECTURE.md.
 */
import { isInUse, type Machine } from '../cloud/machines.ts'
import { isFinal } from '../record/change.ts'
import type { LeaseRow, OrderRow } from '../record/rows.ts'
import { after, type World } from '../world.ts'
import type { Act } from './acts.ts'
import { mayFollow } from './words.ts'

export type Against = (noun: string, what: string) => void
export type Invariant = (world: World, against: Against) => void

/** Two machines of an item may be in use for so long beyond what their clouds declare: a lost wake, a dead worker. */
const TWIN_GRACE_MS = 5 * 60_000
const ATTEMPTS_A_MINUTE_MAX = 100
const MACHINES_AN_ITEM_MAX = 14
const LOOKS_A_SECOND_MAX = 200

export const INVARIANTS = {
  /** At most one attempt has won its item. */
  one_winner(world, against) {
    for (const { items } of world.step.orders)
      for (const { id, open } of items) {
        const winners = open.filter(({ state }) => state === 'won')
        if (winners.length > 1) against(id, `was won by ${winners.map((attempt) => attempt.id).join(' and ')}`)
      }
  },

  /** Two machines of an item are in use together only as long as it takes to see them. */
  no_twins(world, against) {
    for (const { items } of world.step.orders)
      for (const item of items) {
        const machines = (world.made.get(item) ?? []).filter(isInUse)
        if (machines.length < 2) continue
        const due_at = world.record.automatic_removal ? twinDueAt(machines, world.record.removal_on_at) : null
        if (due_at === null || world.now < due_at) lookAgainAt(world, item.order, due_at ?? world.now + TWIN_GRACE_MS)
        else against(item.id, `has ${machines.map(({ provider_id }) => provider_id).join(' and ')} in use`)
      }
  },

  /** Machines of two leases are never on one host, whatever was booked. */
  one_tenant(world, against) {
    for (const { lease } of world.step.orders) {
      if (!lease?.host) continue
      const tenants = world.record.leases.filter((other) => other.host === lease.host && machinesOf(world, other) > 0)
      if (tenants.length > 1) against(lease.host.id, `has machines of ${tenants.map(({ id }) => id).join(' and ')}`)
    }
  },

  /** A cloud with tokens has at most one machine of an attempt, and so has one without: it is not asked twice. */
  sent_once(world, against) {
    for (const act of world.step.acts)
      if (act.act === 'sent' && act.was !== 'open' && !act.attempt.cloud.traits.idempotency_tokens)
        against(act.attempt.id, `is sent again without a token, though its last send is ${act.was}`)
  },

  /** Every machine at a cloud belongs to an attempt on record, and if that one knows its machine, it is this one. */
  nothing_forgotten(world, against) {
    for (const row of world.step.clouds)
      for (const { provider_id, attempt_id, gone_at } of world.clouds.get(row)!.machines.values()) {
        if (gone_at !== null) continue
        const attempt = world.record.attempts.get(attempt_id)
        if (!attempt) against(attempt_id, `is not on record, its machine is ${provider_id}`)
        else if (attempt.provider_id !== null && attempt.provider_id !== provider_id)
          against(attempt_id, `has ${attempt.provider_id} on record and ${provider_id} at its cloud`)
      }
  },

  /** A machine that serves its item and that nobody wished away is not deleted. */
  nothing_wanted_deleted(world, against) {
    for (const act of world.step.acts) {
      if (act.act !== 'asked_to_delete') continue
      const { attempt } = act
      const { order, instance } = attempt.item
      // Withdrawn, by a person or when its deadline passed, is what does not run yet.
      const late = order.deadline_at !== null && order.deadline_at <= world.now
      const ran = attempt.item.state === 'running' || attempt.item.state === 'failed'
      const withdrawn = (order.wish === 'withdraw' || late) && !ran
      const ended = order.wish === 'cancel' || order.wish === 'terminate' || withdrawn
      const unwanted = ended || order.state === 'compensating' || instance.wish === 'terminate'
      const undone = order.state === 'failed' && order.settled_at === null
      if (attempt.state === 'won' && !unwanted && !undone) against(attempt.id, 'is in use and wanted, and deleted')
      const by_person = instance.wish === 'terminate' || (order.wish !== 'run' && order.by_person)
      if (!act.again && !by_person && !world.record.automatic_removal)
        against(attempt.id, 'is deleted by a rule, which is not allowed')
    }
  },

  /** Claims are never more than the allocation when one is made, and each is there as long as its attempt, no longer. */
  claims_are_true(world, against) {
    for (const act of world.step.acts) {
      if (act.act !== 'claimed') continue
      const { allocation, name } = act.attempt.cloud
      if (allocation !== null && act.claimed > allocation)
        against(act.attempt.id, `is claim ${act.claimed} of ${allocation} at ${name}`)
    }
    for (const row of world.step.clouds)
      for (const attempt of row.claims)
        if (attempt.gone_at !== null || attempt.state === 'lost') against(attempt.id, 'is over and keeps its claim')
    for (const { items } of world.step.orders)
      for (const { open } of items)
        for (const attempt of open) {
          const once_lost = attempt.state === 'surplus' // may have turned up after it was given up
          if (attempt.state !== 'lost' && !once_lost && !attempt.cloud.claims.has(attempt))
            against(attempt.id, `is ${attempt.state} without a claim`)
        }
  },

  /** After its plan a noun that is not over has a step, a time to look again, a blocker, or somebody it waits for. */
  nothing_stuck(world, against) {
    for (const act of world.step.acts) {
      if (act.act === 'planned') {
        const { order, decision } = act
        const steps = decision.create_batches.length + decision.delete_batches.length
        if (decision.done || steps || decision.due_at !== null || decision.blocker?.reason) continue
        // One whose machine a person ends waits for the flow of its instance.
        if (order.items.some(({ instance }) => instance.action !== null)) continue
        against(order.id, `is ${order.state} and waits for nothing`)
      } else if (act.act === 'planned_instance') {
        const { instance, decision, view } = act
        const moves = decision.step !== null || decision.ends !== null || decision.due_at !== null
        if (view.action !== null && !moves && !decision.wake_order)
          against(instance.id, 'has an action that waits for nothing')
      }
    }
    for (const order of world.step.orders)
      if (!isFinal(order.state) && order.due_at === null) against(order.id, `is ${order.state} and never looked at`)
  },

  /** What was decided and written down is not decided once more. */
  decided_once(world, against) {
    for (const act of world.step.acts) {
      if (act.act === 'planned_instance' && act.again.to !== null) against(act.instance.id, 'is decided upon twice')
      if (act.act !== 'planned') continue
      const { order, decision, again } = act
      const at_once = decision.due_at !== null && decision.due_at <= world.now
      if (at_once) continue
      const { attempts, undo, instances } = again
      const forgets = forgetsRefusal(act)
      const asks = { attempts, undo, instances, open: forgets ? [] : again.open }
      for (const [what, list] of Object.entries(asks))
        if (list.length) against(order.id, `asks for ${what} twice: ${JSON.stringify(list[0])}`)
      if (again.state !== decision.state && !(forgets && again.open.length))
        against(order.id, `is ${decision.state}, and ${again.state} when decided once more`)
      const keys = new Set(decision.create_batches.map(({ batch }) => batch))
      if (!again.open.length && again.create_batches.some(({ batch }) => !keys.has(batch)))
        against(order.id, 'creates more when asked again')
    }
  },

  /** Nothing is sent, asked, or opened before the moment it was put off to. */
  nothing_early(world, against) {
    for (const act of world.step.acts) {
      if (act.act === 'sent' && act.due_at !== null && act.due_at > world.now)
        against(act.attempt.id, `is sent ${act.due_at - world.now} ms before its time`)
      if (act.act === 'opened' && act.due_at !== null && act.due_at > world.now && act.item.last_error !== null)
        against(act.item.id, `has another attempt ${act.due_at - world.now} ms before its time`)
      if (
        act.act === 'planned' &&
        act.decision.rule === 'deadline_passed' &&
        (act.view.deadline_at ?? Infinity) > world.now
      )
        against(act.order.id, 'is undone before its deadline')
      if (act.act === 'planned') for (const against_what of early(act.order, world.now)) against(...against_what)
      if (
        act.act === 'planned_instance' &&
        act.decision.step === 'terminate' &&
        (act.view.next_delete_at ?? 0) > world.now
      )
        against(act.instance.id, 'is ended before its next try')
    }

    function early(order: OrderRow, now: number): [string, string][] {
      const act = world.step.acts.findLast((a) => a.act === 'planned' && a.order === order)
      if (act?.act !== 'planned') return []
      const { view, decision } = act
      const due = (attempt: { next_send_at: number | null }): boolean => (attempt.next_send_at ?? 0) <= now
      const attempts = view.items.flatMap(({ open }) => open)
      const fresh = new Set(decision.open.map(({ batch }) => batch))
      return [
        ...decision.create_batches
          .filter(({ batch }) => !fresh.has(batch) && !attempts.some((a) => a.batch === batch && due(a)))
          .map(({ batch }): [string, string] => [order.id, `sends batch ${batch} before its time`]),
        ...decision.delete_batches
          .filter(({ undo_batch }) => undo_batch < view.next_undo_batch)
          .filter(({ undo_batch }) => !attempts.some((a) => a.undo_batch === undo_batch && due(a)))
          .map(({ undo_batch }): [string, string] => [order.id, `deletes batch ${undo_batch} before its time`]),
      ]
    }
  },

  /** States follow each other as the words say. */
  states_follow(world, against) {
    for (const act of world.step.acts)
      if (act.act === 'changed' && !mayFollow(act.kind, act.from, act.to))
        against(act.noun, `goes from ${act.from} to ${act.to}`)
  },

  /** No act of a lease comes before its moment. */
  lease_in_time(world, against) {
    for (const act of world.step.acts) {
      if (act.act !== 'lease_acted') continue
      const { id, start_at, end_at, before_end_at, wish } = act.lease
      const from = {
        start: start_at,
        before_end: before_end_at ?? Number.POSITIVE_INFINITY,
        miss: end_at,
        end: end_at,
        finish: end_at,
      }
      const by_wish = wish === 'end' && (act.what === 'end' || act.what === 'finish')
      if (!by_wish && world.now < from[act.what])
        against(id, `${act.what} comes ${from[act.what] - world.now} ms early`)
    }
  },

  /** No item is asked for over and over: attempts a minute, and machines at a time. */
  no_storm(world, against) {
    for (const act of world.step.acts) {
      if (act.act !== 'opened') continue
      const { id, attempts } = act.item
      const before = attempts.at(-1 - ATTEMPTS_A_MINUTE_MAX)
      if (before && before.opened_at > world.now - 60_000)
        against(id, `had more than ${ATTEMPTS_A_MINUTE_MAX} attempts in a minute`)
      const machines = world.made.get(act.item) ?? []
      if (machines.length > MACHINES_AN_ITEM_MAX) against(id, `has ${machines.length} machines`)
    }
  },

  /** A flow does not turn round and round. */
  no_spin(world, against) {
    for (const act of world.step.acts) {
      if (act.act !== 'looked') continue
      const second = Math.floor(world.now / 1_000)
      const looks = world.looks.get(act.noun)
      if (looks?.second !== second) world.looks.set(act.noun, { second, count: 1 })
      else if (++looks.count > LOOKS_A_SECOND_MAX) against(act.noun, `was planned ${looks.count} times in a second`)
    }
  },
} satisfies Record<string, Invariant>

/**
 * Machines of a lease that are there, whatever state they are in. Not those of which their cloud said otherwise, nor what was
 * made later than can be: by a sender that stood still between writing down and sending, or a cloud that breaks its word.
 */
const machinesOf = ({ record, made }: World, { order }: LeaseRow): number =>
  (order?.items ?? [])
    .flatMap((item) => made.get(item) ?? [])
    .filter(({ attempt_id, created_at }) => {
      const attempt = record.attempts.get(attempt_id)
      if (!attempt) return true
      return attempt.gone_at === null && !attempt.denied && created_at <= (attempt.settle_at ?? created_at)
    }).length

/** A cloud that refused is passed over only for as long as the item that it refused has no other error. */
const forgetsRefusal = ({ view, decision }: Extract<Act, { act: 'planned' }>): boolean =>
  decision.items.some(({ id, error }) => error !== undefined && view.items.find((item) => item.id === id)?.last_error)

/** By when of these only one may be in use; null: not as long as something is wrong with one of their clouds. */
function twinDueAt(machines: readonly Machine[], removal_on_at: number): number | null {
  const together_since = Math.max(...machines.map(({ created_at }) => created_at), removal_on_at)
  let due_at = 0
  for (const { cloud } of machines) {
    if (cloud.fine_since === null) return null
    const { settle_ms, call_timeout_ms, list_lag_ms } = cloud.row.traits
    const seen_at = Math.max(together_since, cloud.fine_since) + settle_ms + call_timeout_ms + list_lag_ms
    due_at = Math.max(due_at, seen_at + TWIN_GRACE_MS)
  }
  return due_at
}

/** The order is judged again then, whatever happens meanwhile. */
function lookAgainAt(world: World, order: OrderRow, at: number): void {
  if ((world.watched.get(order) ?? 0) > world.now) return
  world.watched.set(order, at)
  after(world, at - world.now, () => world.step.orders.add(order))
}
