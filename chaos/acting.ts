/** Jobs that act on what runs: instances switched, whole deployments in waves, machines lost that are to be healed. */
import type { Chance } from './chance.ts'
import type { Client } from './client.ts'
import { DEATHS } from './clouds.ts'
import { type Desk, endOrder, type Job, membersOf, placeOrder } from './desk.ts'

/** Enough that one of them has room: what is asked for comes to run, sooner or later. */
const PLACES = [['crowded', 'tokens'], ['tokens', 'crowded'], ['tokens']]
const LOOK_MS = 400
const LOOKS_MAX = 75

/** What is asked of an instance, one after the other. */
const SCRIPTS = [
  ['stop', 'start'],
  ['soft'],
  ['hard'],
  ['stop', 'start', 'hard'],
  ['soft', 'stop', 'start'],
  ['stop'],
  ['terminate'],
  ['stop', 'terminate'],
] as const

/** Places an order that waits until clouds have room; null: it was refused, or the load was over before it ran. */
async function launch(desk: Desk, draw: Chance, client: Client, more: Readonly<Record<string, unknown>>) {
  const promised = { count: draw.pick([1, 2, 2, 3, 4]), policy: draw.pick(['all', 'any'] as const) }
  const body = { size: 'small', image: 'debian', clouds: draw.pick(PLACES), hold: true, ...promised, ...more }
  const made = await placeOrder(desk, client, body, promised)
  if (!made) return null
  for (let looks = 0; looks < LOOKS_MAX; looks++) {
    const found = await client.look(`/api/launch-orders/${made.id}`)
    if ((found?.launch_order as { state?: string } | undefined)?.state === 'running') return made
    if (!(await desk.pass(LOOK_MS))) return null
  }
  return made
}

/** Ends an order after a while, or leaves it standing. */
async function dismiss(desk: Desk, draw: Chance, client: Client, order_id: string): Promise<void> {
  const [stands, patience_ms] = [draw.next() < 0.3, draw.whole(2_000, 12_000)]
  if (stands && desk.mayStand()) return
  if (await desk.pass(patience_ms)) await endOrder(desk, client, order_id)
}

/** One or two instances of an order are switched, some requests right behind the one before. */
export const acting: Job = async (desk, draw, client) => {
  const made = await launch(desk, draw, client, {})
  if (!made) return
  const members = await membersOf(client, made.id)
  for (const { id } of draw.shuffled(members).slice(0, 2)) {
    for (const step of draw.pick(SCRIPTS)) {
      await switchInstance(desk, client, id, step)
      if (draw.next() < 0.5 && !(await desk.pass(draw.whole(100, 2_500)))) return
    }
  }
  await dismiss(desk, draw, client, made.id)
}

async function switchInstance(desk: Desk, client: Client, id: string, step: (typeof SCRIPTS)[number][number]) {
  const promised = step === 'soft' || step === 'hard' ? { action: 'reboot', reboot: step } : { action: step }
  const kind = step === 'terminate' ? 'terminate' : 'action'
  const asked = { method: 'POST', path: `/api/instances/${id}/actions`, body: promised, resource_id: id }
  // 409: it is not in a state for this.
  await desk.ask(client, { kind, ...asked, promised }, 409)
}

/** A deployment of one or two orders is stopped, started and restarted in waves; then it is ended as a whole, or not. */
export const fleet: Job = async (desk, draw, client) => {
  const deployment = desk.name('fleet')
  const first = await launch(desk, draw, client, { deployment })
  const second = draw.next() < 0.4 ? await launch(desk, draw, client, { deployment }) : null
  if (!first) return
  const wave_size = draw.pick([{}, { wave_size: 1 }, { wave_size: 2 }, { wave_size: 3 }])
  for (const action of draw.pick([['stop', 'start', 'restart'], ['restart'], ['stop', 'restart'], ['stop']])) {
    await actOnAll(desk, client, first.deployment.id, { action, ...wave_size })
    if (!(await desk.pass(draw.whole(500, 6_000)))) return
  }
  if (draw.next() < 0.6) await actOnAll(desk, client, first.deployment.id, { action: 'terminate' })
  else for (const made of [first, second]) if (made) await dismiss(desk, draw, client, made.id)
}

async function actOnAll(desk: Desk, client: Client, id: string, promised: { action: string; wave_size?: number }) {
  const kind = promised.action === 'terminate' ? 'terminate' : 'action'
  const asked = { method: 'POST', path: `/api/deployments/${id}/actions`, body: promised, resource_id: id }
  // 409: the one before is not over, or there is nothing it fits.
  await desk.ask(client, { kind, ...asked, promised }, 409)
}

/** An order that is to be healed loses machines, some of them more than once. */
export const healing: Job = async (desk, draw, client) => {
  const how = { healing: draw.pick(['replace', 'replace', 'restart']), healing_max: draw.pick([1, 2, 5]) }
  const made = await launch(desk, draw, client, how)
  if (!made) return
  for (let losses = draw.whole(1, 3); losses > 0; losses--) {
    if (!(await desk.pass(draw.whole(300, 5_000)))) return
    const [death, at] = [draw.pick(DEATHS), draw.next()]
    const members = await membersOf(client, made.id)
    const victim = members[Math.floor(at * members.length)]
    if (victim?.cloud && victim.provider_id) await desk.clouds.lose(victim.cloud, victim.provider_id, death)
  }
  await dismiss(desk, draw, client, made.id)
}
