/**
 * The inventory outside: which one there is, and what each of its entries still wants of it, a name or to be told a record.
 * `instance/<id>` works that off. Every call is counted before it is made. Locks: instance, inventory.
 */
import { isDeepStrictEqual } from 'node:util'
import { type Selectable, sql } from 'kysely'
import type { ItemView } from '../domain/order/view.ts'
import type { Attributes } from '../domain/pcm/configuration.ts'
import {
  decideEntry,
  type EntryDecision,
  NO_INVENTORY,
  recordOf,
  requestOf,
  wantedOf,
} from '../domain/pcm/inventory.ts'
import type { Step } from '../domain/plan.ts'
import type { AttemptError } from '../domain/record.ts'
import { Secret } from '../domain/secret.ts'
import { orderWorkflowId } from '../domain/workflow-ids.ts'
import { leave, type Store, type Trx, write } from './database.ts'
import { type Envelope, openedOrNull } from './envelope.ts'
import { lookAgain, tellInstance } from './instances.ts'
import { MACHINE, takenMeanwhile } from './inventory.ts'
import { wake } from './outbox.ts'
import type { InstancesTable, InventoryTable } from './tables.ts'

// Which one ----------------------------------------------------------------------------------------------------------

/** Where it is and how we are let in. */
export interface ConfiguredInventory {
  readonly url: string
  readonly username: string | null
  readonly password: Secret | null
}

const SEALED_FOR = 'inventory_account'

/** Makes the record say what the file says; null: there is none. */
export async function importInventory(
  trx: Trx,
  envelope: Envelope,
  configured: ConfiguredInventory | null,
): Promise<void> {
  const row = await trx.selectFrom('inventory_account').selectAll().forUpdate().executeTakeFirst()
  if (!configured) {
    if (!row) return
    await trx.deleteFrom('inventory_account').execute()
    return wakeWaiting(trx)
  }
  const { url, username } = configured
  const password = configured.password?.reveal() ?? null
  const same = row?.url === url && row.username === username
  if (same && openedOrNull(envelope, row.sealed, SEALED_FOR) === password) return
  const account = { url, username, sealed: password === null ? null : envelope.seal(password, SEALED_FOR) }
  await trx
    .insertInto('inventory_account')
    .values(account)
    .onConflict((conflict) => conflict.column('singleton').doUpdateSet(account))
    .execute()
  await wakeWaiting(trx)
}

/** Whoever waits for an inventory tries again, or says that there is none; orders wait for names alone. */
async function wakeWaiting(trx: Trx): Promise<void> {
  await sql`
    with waiting as (
      update inventory set next_try_at = clock_timestamp() from instances
      where instances.id = instance_id and request_id is not null and due_at is not null
      returning instance_id, order_id, inventory.project_id, inventory.name)
    insert into outbox (target, project_id)
    select 'instance/' || instance_id, project_id from waiting
    union all select 'order/' || order_id, project_id from waiting where name is null`.execute(trx)
  leave(trx, 'outbox')
}

/** Whether there is one to give names. */
export async function hasInventory(trx: Trx): Promise<boolean> {
  return (await trx.selectFrom('inventory_account').select('url').executeTakeFirst()) !== undefined
}

/** The one there is; undefined: none. */
export async function findInventory(store: Store, envelope: Envelope): Promise<ConfiguredInventory | undefined> {
  const row = await store.db.selectFrom('inventory_account').selectAll().executeTakeFirst()
  return (
    row && {
      url: row.url,
      username: row.username,
      password: row.sealed && new Secret(envelope.open(row.sealed, SEALED_FOR)),
    }
  )
}

// What is wanted of it -----------------------------------------------------------------------------------------------

/** What the plan of an order is to know of an instance's name. */
export const NAMING = sql<ItemView['naming']>`(
  select jsonb_build_object('error', case when exists (select from inventory_account) then inventory.error ->> 'message'
    else ${NO_INVENTORY} end) from inventory
  where inventory.instance_id = instances.id and request_id is not null and inventory.name is null)`

type EntryRow = Selectable<InventoryTable> &
  Pick<
    Selectable<InstancesTable>,
    'order_id' | 'state' | 'size' | 'image' | 'provider_id' | 'public_addresses' | 'private_addresses' | 'wish_event'
  > & { readonly has_account: boolean }

/** The entry of a locked instance. */
const lockEntry = (trx: Trx, instance_id: string): Promise<EntryRow | undefined> =>
  trx
    .selectFrom('inventory')
    .innerJoin('instances', 'instances.id', 'inventory.instance_id')
    .selectAll('inventory')
    .select([
      ...MACHINE,
      'instances.order_id',
      'instances.wish_event',
      sql<boolean>`exists (select from inventory_account)`.as('has_account'),
    ])
    .where('instance_id', '=', instance_id)
    .where('request_id', 'is not', null)
    .forNoKeyUpdate('inventory')
    .executeTakeFirst()

/** The same, with the instance locked before. */
async function lockBoth(trx: Trx, instance_id: string): Promise<EntryRow | undefined> {
  await trx.selectFrom('instances').select('id').where('id', '=', instance_id).forNoKeyUpdate().execute()
  return lockEntry(trx, instance_id)
}

function viewOf(row: EntryRow) {
  const record = recordOf(row, row.told !== null)
  return {
    is_named: row.name !== null,
    is_over: row.state === 'terminated' || row.state === 'failed',
    was_asked: row.calls > 0,
    is_told: record === null || isDeepStrictEqual(record, row.told),
    has_account: row.has_account,
    next_try_at: row.next_try_at.getTime(),
    error: row.error?.message ?? null,
  }
}

/** Plans what a locked instance needs of the inventory. */
export async function planEntry(
  trx: Trx,
  instance_id: string,
  now: Date,
): Promise<EntryDecision & { readonly steps: Step[] }> {
  const row = await lockEntry(trx, instance_id)
  const decision = decideEntry(row ? viewOf(row) : null, now.getTime())
  const { step } = decision
  if (!row || !step) return { ...decision, steps: [] }
  const what =
    step === 'name'
      ? ({ activity: 'nameInstance', summary: `ask the inventory for a name (${row.request_id})` } as const)
      : ({ activity: 'recordInstance', summary: `tell the inventory of ${row.name}` } as const)
  return { ...decision, steps: [{ key: step, args: [instance_id], cloud: '', ...what }] }
}

/** One call of the inventory. */
export interface InventoryCall {
  /** Which of the entry's calls it is. */
  readonly number: number
  readonly request_id: string
  /** Null: it is to be given. */
  readonly name: string | null
  readonly body: Attributes
}

/** Counts a call just before it is made. Undefined: nothing of the kind is wanted (any more). */
export function beginCall(
  store: Store,
  instance_id: string,
  what: 'name' | 'record',
): Promise<InventoryCall | undefined> {
  return write(store, async (trx) => {
    const row = await lockBoth(trx, instance_id)
    if (!row || wantedOf(viewOf(row)) !== what) return
    const number = row.calls + 1
    await trx.updateTable('inventory').set({ calls: number }).where('id', '=', row.id).execute()
    const body = what === 'name' ? requestOf(row) : recordOf(row, row.told !== null)!
    return { number, request_id: row.request_id!, name: row.name, body }
  })
}

// What came of it ----------------------------------------------------------------------------------------------------

const DONE = { tries: 0, error: null }

/** Stores the name that was given, or why there is none. The first one counts, and none that another machine has. */
export async function storeNamed(
  store: Store,
  instance_id: string,
  call: InventoryCall,
  answer: { readonly name: string } | { readonly error: AttemptError },
): Promise<void> {
  await write(store, async (trx) => {
    const row = await lockBoth(trx, instance_id)
    if (!row || row.name !== null) return
    if ('error' in answer) return storeTrouble(trx, row, call, answer.error)
    const { name } = answer
    if (await isTaken(trx, row, name)) {
      const message = `it gave the name ${name}, which another machine has`
      return storeTrouble(trx, row, call, { class: 'conflict', message, at: new Date().toISOString() })
    }
    await trx
      .updateTable('inventory')
      .set({ name, ...DONE })
      .where('id', '=', row.id)
      .execute()
      .catch(takenMeanwhile)
    await trx.updateTable('instances').set({ name }).where('id', '=', instance_id).execute()
    await tellInstance(
      trx,
      instance_id,
      'instance.named',
      {},
      {
        rule: 'named',
        reason: 'the inventory named it',
        evidence: { request_id: row.request_id },
        ...(row.wish_event ? { event: row.wish_event } : {}),
      },
    )
    await wakeOrder(trx, row)
  })
}

/** Stores that the inventory took a record; null: it did. Of calls that overtook each other nobody knows which it has. */
export async function storeRecorded(
  store: Store,
  instance_id: string,
  call: InventoryCall,
  error: AttemptError | null,
): Promise<void> {
  await write(store, async (trx) => {
    const row = await lockBoth(trx, instance_id)
    if (!row) return
    if (error) return storeTrouble(trx, row, call, error)
    if (row.calls === call.number) {
      await trx
        .updateTable('inventory')
        .set({ told: JSON.stringify(call.body), ...DONE })
        .where('id', '=', row.id)
        .execute()
      return
    }
    await trx.updateTable('inventory').set({ told: null }).where('id', '=', row.id).execute()
    await lookAgain(trx, [{ id: instance_id, project_id: row.project_id }])
  })
}

/** A name is one project's, and that of an inventory outside is nobody else's in the whole installation. */
async function isTaken(trx: Trx, { id, project_id }: EntryRow, name: string): Promise<boolean> {
  const taken = await trx
    .selectFrom('inventory')
    .select('id')
    .where('id', '!=', id)
    .where(
      sql<boolean>`(project_id = ${project_id} and name = ${name} or request_id is not null and lower(name) = lower(${name}))`,
    )
    .limit(1)
    .executeTakeFirst()
  return taken !== undefined
}

/** What was not done is asked for again after this long, then after twice as long, up to the most. */
const RETRY_FIRST_MS = 1_000
const RETRY_MAX_MS = 60_000

/** Only of the last call: what an earlier one came to says nothing any more. */
async function storeTrouble(trx: Trx, row: EntryRow, call: InventoryCall, error: AttemptError): Promise<void> {
  if (row.calls !== call.number) return
  const wait_ms = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** row.tries)
  await trx
    .updateTable('inventory')
    .set({
      tries: row.tries + 1,
      error: JSON.stringify(error),
      next_try_at: sql<Date>`clock_timestamp() + ${wait_ms} * interval '1 ms'`,
    })
    .where('id', '=', row.id)
    .execute()
  if (row.name === null && row.error === null) await wakeOrder(trx, row)
}

const wakeOrder = (trx: Trx, { order_id, project_id }: EntryRow): Promise<void> =>
  wake(trx, [{ target: orderWorkflowId(order_id), project_id }])
