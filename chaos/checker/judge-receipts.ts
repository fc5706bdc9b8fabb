/** Receipts: what was made for an order, what of it is undone and what remains, against the clouds' own lists. */
import { type Dossier, type Machine, machineKey, ORDER_OVER, unseen } from './dossier.ts'
import { at } from './findings.ts'
import type { MachineLife, ReceiptMachine, ReceiptRow } from './ledgers.ts'

export function judgeReceipts(dossier: Dossier): void {
  if (unseen(dossier, 'receipts', 'attempts')) return
  const orderOf = ({ attempt_id }: Machine) => dossier.attempts.get(attempt_id ?? '')?.order_id ?? ''
  const made_for = Map.groupBy(dossier.machines, orderOf)
  // All there are: one that was adopted may have no tag of ours yet.
  const machines = new Map(
    dossier.ledgers.clouds.flatMap(({ name, machines: lives }) =>
      lives.map((life) => [machineKey(name, life.provider_id), life]),
    ),
  )
  for (const receipt of dossier.ledgers.record.receipts) {
    judgeSum(dossier, receipt)
    for (const told of receipt.machines) judgeTold(dossier, receipt, told, machines)
    judgeUntold(dossier, receipt, made_for.get(receipt.order_id) ?? [])
  }
}

const differs = ({ findings }: Dossier, { order_id }: ReceiptRow, what: string): void =>
  findings.note('receipts', `receipt of order ${order_id}`, what)

/** Its sums are those of its list, and nothing is unknown for ever. */
function judgeSum(dossier: Dossier, receipt: ReceiptRow): void {
  const count = (...fates: string[]) => receipt.machines.filter(({ fate }) => fates.includes(fate)).length
  const listed = {
    made: receipt.machines.length,
    undone: count('deleted', 'vanished'),
    remaining: count('remains'),
    released: count('released'),
  }
  for (const [name, number] of Object.entries(listed)) {
    const told = receipt[name as keyof typeof listed]
    if (told !== number) differs(dossier, receipt, `tells ${told} as ${name}, and lists ${number}`)
  }
  if (receipt.complete && (receipt.remaining || receipt.unknown))
    differs(dossier, receipt, `is complete, with ${receipt.remaining} remaining and ${receipt.unknown} unknown`)
  const { collected_at_ms } = dossier.ledgers
  const is_over = ORDER_OVER.has(dossier.orders.get(receipt.order_id)?.state ?? '')
  if (receipt.unknown && is_over && (receipt.unknown_until_ms ?? 0) + dossier.grace_ms < collected_at_ms)
    differs(
      dossier,
      receipt,
      `tells ${receipt.unknown} as unknown until ${at(receipt.unknown_until_ms)}, at ${at(collected_at_ms)}`,
    )
}

function judgeTold(
  dossier: Dossier,
  receipt: ReceiptRow,
  { cloud, provider_id, fate, confirmed_at_ms }: ReceiptMachine,
  machines: ReadonlyMap<string, MachineLife>,
): void {
  const { findings, grace_ms, clock_offset_ms, ledgers } = dossier
  if (fate === 'released' || !ledgers.clouds.some(({ name }) => name === cloud)) return
  const machine = machines.get(machineKey(cloud, provider_id))
  const name = `machine ${provider_id} at ${cloud}`
  if (!machine) {
    differs(dossier, receipt, `lists ${name} as ${fate}, which never was there`)
    return
  }
  const { gone_at_ms } = machine
  if (fate === 'remains') {
    if (gone_at_ms !== null && gone_at_ms + grace_ms < ledgers.collected_at_ms)
      differs(dossier, receipt, `lists ${name} as what remains, which is gone since ${at(gone_at_ms)}`)
  } else if (gone_at_ms === null)
    findings.note(
      'leaked',
      name,
      `the receipt of order ${receipt.order_id} calls it ${fate} at ${at(confirmed_at_ms)}, and it lives`,
    )
  else if (confirmed_at_ms === null || confirmed_at_ms - clock_offset_ms < gone_at_ms)
    differs(
      dossier,
      receipt,
      `has ${name} confirmed as ${fate} at ${at(confirmed_at_ms)}, it was gone at ${at(gone_at_ms)}`,
    )
}

/** Every machine that a cloud made for the order is listed. */
function judgeUntold(dossier: Dossier, receipt: ReceiptRow, made: readonly Machine[]): void {
  const listed = new Set(receipt.machines.map(({ cloud, provider_id }) => machineKey(cloud, provider_id)))
  for (const machine of made) {
    const { cloud, provider_id, created_at_ms, gone_at_ms, doomed_at_ms } = machine
    if (listed.has(machineKey(cloud.name, provider_id))) continue
    // One whose create was never answered, and that vanished by itself before anybody saw it, nobody can know of.
    if (gone_at_ms !== null && doomed_at_ms === null) continue
    // One that turned up a moment ago is told when its cloud has listed it.
    if (created_at_ms + dossier.grace_ms >= dossier.ledgers.collected_at_ms) continue
    differs(dossier, receipt, `does not list machine ${provider_id}, which ${cloud.name} made at ${at(created_at_ms)}`)
  }
}
