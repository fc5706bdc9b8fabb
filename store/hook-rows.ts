/** What every change of a hook has in common: its row locked, its event written. */
import type { Selectable } from 'kysely'
import { DomainError } from '../domain/errors.ts'
import type { Cause } from '../domain/record.ts'
import type { Trx } from './database.ts'
import { recordEvents } from './events.ts'
import type { HooksTable } from './tables.ts'

export type Hook = Selectable<HooksTable>

/** Which hook of whose project, why, and the sequence the caller started from, if it said so. */
export interface HookRequest {
  readonly project_id: string
  readonly id: string
  readonly cause: Cause
  readonly expected_sequence?: number
}

/**
 * Locks the hook against its deliveries being made (`for update` waits for transactions that have just written some),
 * so that the statement after it sees all of them.
 */
export async function lockHook(trx: Trx, request: HookRequest): Promise<Hook> {
  const hook = await trx
    .selectFrom('hooks')
    .selectAll()
    .where('id', '=', request.id)
    .where('project_id', '=', request.project_id)
    .where('state', '<>', 'deleted')
    .forUpdate()
    .executeTakeFirst()
  if (!hook) throw new DomainError('not_found', `there is no hook ${request.id}`)
  if (request.expected_sequence !== undefined && request.expected_sequence !== hook.sequence) {
    throw new DomainError(
      'version_mismatch',
      `the hook is at version ${hook.sequence}, not ${request.expected_sequence}`,
    )
  }
  return hook
}

/** Writes the event of a hook's change; its sequence was raised before, in the same transaction. */
export async function recordHookEvent(
  trx: Trx,
  hook: Hook,
  type: string,
  from: string | null,
  cause: Cause,
): Promise<void> {
  const uri = new URL(hook.uri)
  await recordEvents(trx, [
    {
      project_id: hook.project_id,
      resource_type: 'hook',
      resource_id: hook.id,
      sequence: hook.sequence,
      type,
      from,
      to: hook.state,
      snapshot: {
        // Without the query: that is where people put tokens.
        uri: `${uri.origin}${uri.pathname}`,
        description: hook.description,
        version: hook.version,
        format: hook.format,
        filter: hook.filter,
        state: hook.state,
        state_reason: hook.state_reason,
      },
      cause,
    },
  ])
}
