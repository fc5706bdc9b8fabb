/** Credentials that an order is given: by id, or as they are, for this order alone. */
import { z } from '@hono/zod-openapi'
import { v7 as newId } from 'uuid'
import type { Problem } from '../../domain/errors.ts'
import type { CloudNames } from '../../store/clouds.ts'
import { findCredential, type NewCredential } from '../../store/credentials.ts'
import type { ApiDeps } from '../context.ts'
import { invalid } from '../errors.ts'
import { fields, Id, Moment, Word } from '../schemas.ts'

const SECRET_LENGTH_MAX = 65_536

/** What opens an account: a key, or the JSON that the cloud's type of provider asks for. */
export const CredentialSecret = z.string().min(1).max(SECRET_LENGTH_MAX).openapi({
  description: 'Kept sealed and never shown.',
  format: 'password',
})

const ById = fields({ id: Id })
const Inline = fields({
  cloud: Word,
  secret: CredentialSecret.openapi({
    description: 'Kept sealed for this order, for as long as one of its machines lives; then erased.',
  }),
  expires_at: Moment.optional(),
})
export const OrderCredentials = z
  .array(z.union([ById, Inline]))
  .min(1)
  .max(20)
  .openapi({ description: 'Accounts to use, one a cloud at most; other clouds are used with their own.' })
export type OrderCredentials = z.infer<typeof OrderCredentials>

export interface ChosenCredentials {
  readonly credentials: Readonly<Record<string, string>>
  readonly inline_credentials: readonly NewCredential[]
}

/** Which credential goes with which cloud of an order. A 400 says which one does not fit. */
export async function chooseCredentials(
  given: OrderCredentials | undefined,
  clouds: readonly CloudNames[],
  project_id: string,
  { envelope, store }: ApiDeps,
): Promise<ChosenCredentials> {
  const credentials: Record<string, string> = {}
  const inline_credentials: NewCredential[] = []
  const problems: Problem[] = []
  for (const [i, one] of (given ?? []).entries()) {
    const path = `body.credentials[${i}]`
    const known = 'id' in one ? await findCredential(store.db, project_id, one) : undefined
    if ('id' in one && !known) {
      problems.push({ path: `${path}.id`, reason: 'is not a credential of this project' })
      continue
    }
    const cloud_name = 'cloud' in one ? one.cloud : known!.cloud
    const cloud = clouds.find(({ name }) => name === cloud_name)
    if (!cloud) {
      const reason = `is for cloud ${cloud_name}, where this order does not go`
      problems.push({ path, reason, accepted: clouds.map(({ name }) => name) })
      continue
    }
    if (credentials[cloud.id]) problems.push({ path, reason: `is the second one for cloud ${cloud_name}` })
    const id = known?.id ?? newId()
    credentials[cloud.id] = id
    if ('secret' in one)
      inline_credentials.push({
        id,
        cloud_id: cloud.id,
        name: `came with an order, ${id}`,
        sealed: envelope.seal(one.secret, id),
        expires_at: one.expires_at === undefined ? null : new Date(one.expires_at),
      })
  }
  if (problems.length) throw invalid(problems as [Problem, ...Problem[]])
  return { credentials, inline_credentials }
}
