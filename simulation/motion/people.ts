/** What people do in the year: orders, leases, and the ends of both, single instances, and the operator's hand. */
import { requestAction } from '../record/actions.ts'
import { isFinal } from '../record/change.ts'
import { changeCredential, createLease, endLease, insertOrder, isFree, moveLease, wishEnd } from '../record/leases.ts'
import type { CloudRow, LeaseRow, OrderRow, OrderTemplate } from '../record/rows.ts'
import { after, type World } from '../world.ts'
import { loseEngine, wakeOpen } from './housekeeping.ts'
import { orderFlow, wake } from './wakes.ts'

const S = 1_000
const MIN = 60 * S
const H = 60 * MIN
const D = 24 * H

const ORDERS = 210
const ORDERS_OF_LEASES = 60
const LEASES_WITHOUT_ORDER = 10
const TENANTS = 10
const BUSY_TIMES = 24
const BUSY_MS = 2 * H

/** The times in which something is going on; between them the year is calm. */
export function drawBusyTimes(world: World, years: number, calm_at: number): number[] {
  const { chance } = world
  return Array.from({ length: BUSY_TIMES * years }, () => chance.whole(world.now + H, calm_at - D)).sort(
    (a, b) => a - b,
  )
}

/** Puts down what people will do. */
export function drawPeople(world: World, years: number, busy: readonly number[], calm_at: number): void {
  const { chance } = world
  const moment = (): number => chance.pick(busy) + chance.spread(1, BUSY_MS)
  for (let count = 0; count < (ORDERS - ORDERS_OF_LEASES) * years; count++)
    world.agenda.put(moment(), () => {
      const order = insertOrder(world, drawTemplate(world), null)
      if (chance.happens(0.85)) endSomeday(world, order)
      meddle(world, order)
    })
  for (let count = 0; count < (ORDERS_OF_LEASES + LEASES_WITHOUT_ORDER) * years; count++)
    world.agenda.put(moment(), () => lease(world, count < ORDERS_OF_LEASES * years, calm_at))
  for (let count = 0; count < TENANTS * years; count++) world.agenda.put(moment(), () => tenants(world))
  after(world, 12 * H, () => makeRoom(world))
  for (let count = chance.whole(0, 12 * years); count > 0; count--) world.agenda.put(moment(), () => operate(world))
  for (let count = chance.whole(0, 2 * years); count > 0; count--) world.agenda.put(moment(), () => loseEngine(world))
  if (chance.happens(0.3)) world.agenda.put(moment(), () => removalOff(world))
}

function drawTemplate(world: World): OrderTemplate {
  const { chance } = world
  const count = chance.happens(0.02) ? chance.whole(20, 60) : chance.spread(1, 8)
  const policy = chance.pick(['all', 'at_least', 'any'] as const)
  const clouds = chance.shuffled(world.record.clouds).slice(0, chance.whole(1, 4))
  const first_at = chance.happens(0.1)
    ? chance.shuffled([...clouds.keys()]).slice(0, chance.whole(1, clouds.length))
    : null
  const healing = chance.pick(['none', 'none', 'replace', 'notify'] as const)
  const deadline_ms = chance.happens(0.2) ? chance.spread(10 * S, 1 * H) : null
  return {
    count,
    policy,
    healing,
    deadline_ms,
    hold: chance.happens(0.2),
    retry_budget: chance.happens(0.2) ? { capacity: chance.whole(0, 5), boot_failed: chance.whole(0, 5) } : {},
    at_least: policy === 'at_least' ? chance.whole(1, count) : null,
    clouds,
    first_at,
  }
}

/** Its end is wished at a random moment: while it is being launched, soon, or after months. */
function endSomeday(world: World, order: OrderRow): void {
  const { chance } = world
  const in_ms = chance.happens(0.3) ? chance.spread(1, 60 * S) : chance.spread(10 * S, 90 * D)
  later(world, in_ms, () => wishEnd(world, order, true))
}

/** In calm times people ask for nothing. */
const later = (world: World, in_ms: number, run: () => void): void =>
  after(world, in_ms, () => {
    if (!world.calm) run()
  })

/** People lose patience with what does not settle, and end single instances. */
function meddle(world: World, order: OrderRow): void {
  const { chance } = world
  later(world, chance.spread(5 * MIN, 1 * H), () => {
    if (!isFinal(order.state)) wishEnd(world, order, true)
  })
  if (chance.happens(0.1)) later(world, chance.spread(1, 10 * MIN), () => wishEnd(world, order, true, true))
  if (chance.happens(0.05))
    later(world, chance.spread(1, 1 * H), () => {
      changeCredential(world, order, chance.pick(['refused', 'expired']))
      after(world, chance.spread(10 * S, 30 * MIN), () => changeCredential(world, order, 'ok'))
    })
  for (const { instance } of order.items)
    if (chance.happens(0.1)) later(world, chance.spread(1, 30 * D), () => requestAction(world, instance, 'terminate'))
}

function lease(world: World, with_order: boolean, calm_at: number): void {
  const { chance } = world
  const start_at = world.now + (chance.happens(0.3) ? 0 : chance.spread(1, 30 * D))
  const end_at = start_at + chance.spread(10 * S, 60 * D)
  const before_end_at = chance.happens(0.6) ? chance.whole(start_at, end_at - 1) : null
  const row = createLease(world, { start_at, end_at, before_end_at }, with_order ? drawTemplate(world) : null, null)
  if (chance.happens(0.3)) later(world, chance.spread(1, end_at - world.now + MIN), () => move(world, row, calm_at))
  if (chance.happens(0.2)) later(world, chance.spread(1, end_at - world.now + MIN), () => endLease(world, row))
  if (with_order) later(world, start_at - world.now + S, () => meddleOnceMade(world, row))
}

/** Leases of a host, one right behind the other, each at most an hour long; some are ended early. */
function tenants(world: World): void {
  const { chance } = world
  const host = chance.pick(world.record.hosts)
  let start_at = world.now
  for (let count = chance.whole(2, 4); count > 0; count--) {
    const end_at = start_at + chance.spread(10 * S, 1 * H)
    if (!isFree(world, host, start_at, end_at)) return
    const template = { ...drawTemplate(world), clouds: [host.cloud], first_at: null }
    const row = createLease(world, { start_at, end_at, before_end_at: null }, template, host)
    if (chance.happens(0.3)) later(world, chance.spread(1, end_at - world.now), () => endLease(world, row))
    if (chance.happens(0.2)) later(world, chance.spread(1, end_at - world.now), () => endOrderOf(world, row))
    start_at = end_at
  }
}

/** A person ends the order of a lease before its lease does. */
function endOrderOf(world: World, { order }: LeaseRow): void {
  if (order) wishEnd(world, order, true)
}

/** The order of a lease is made when its flow gets to it. */
function meddleOnceMade(world: World, row: LeaseRow): void {
  const { order, state } = row
  if (order) {
    meddle(world, order)
    if (world.chance.happens(0.1)) endSomeday(world, order)
  } else if (state === 'PENDING') later(world, MIN, () => meddleOnceMade(world, row))
}

/** Extends or shortens a lease, at the last moment as well. */
function move(world: World, row: LeaseRow, calm_at: number): void {
  const { chance } = world
  const end_at = Math.min(calm_at, world.now + chance.spread(1, 30 * D))
  const before_end_at = row.before_end_at === null ? null : chance.whole(Math.min(row.start_at, end_at - 1), end_at - 1)
  moveLease(world, row, end_at, before_end_at)
}

function changeCloud(world: World, row: CloudRow, what: Partial<Pick<CloudRow, 'enabled' | 'allocation'>>): void {
  Object.assign(row, what)
  world.say(row.name, `the operator sets ${JSON.stringify(what)}`)
  for (const order of world.record.orders)
    if ((order.state === 'queued' || order.state === 'held') && order.clouds.includes(row))
      wake(world, orderFlow(order))
}

/** The operator disables a cloud for a while, or changes what it may be used for. */
function operate(world: World): void {
  const { chance } = world
  const row = chance.pick(world.record.clouds)
  if (chance.happens(0.5)) {
    changeCloud(world, row, { enabled: false })
    after(world, chance.spread(10 * S, 30 * MIN), () => changeCloud(world, row, { enabled: true }))
  } else changeCloud(world, row, { allocation: chance.happens(0.3) ? null : row.claims.size + chance.whole(0, 20) })
}

/** Twice a day the operator makes room for what waits for some. */
function makeRoom(world: World): void {
  const waiting = world.record.orders.filter(({ blocker }) => blocker?.code === 'allocation_exhausted')
  for (const row of new Set(waiting.flatMap(({ clouds }) => clouds)))
    if (row.allocation !== null && row.claims.size >= row.allocation)
      changeCloud(world, row, { allocation: row.claims.size + world.chance.whole(1, 20) })
  after(world, 12 * H, () => makeRoom(world))
}

/** Rules may delete nothing for a while. */
function removalOff(world: World): void {
  world.record.automatic_removal = false
  world.say('installation', 'automatic removal is off')
  after(world, world.chance.spread(1 * MIN, 1 * D), () => removalOn(world))
}

export function removalOn(world: World): void {
  if (world.record.automatic_removal) return
  world.record.automatic_removal = true
  world.record.removal_on_at = world.now
  world.say('installation', 'automatic removal is on')
  wakeOpen(world)
}
