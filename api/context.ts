/** What every route can reach: the process's parts, and who asks. */
import type { OpenAPIHono } from '@hono/zod-openapi'
import type { Context } from 'hono'
import type { Logger } from 'pino'
import type { Registry } from 'prom-client'
import type { Problem } from '../domain/errors.ts'
import type { AllowList } from '../domain/hook-address.ts'
import type { Machine } from '../domain/machine.ts'
import type { Configuration } from '../domain/pcm/configuration.ts'
import type { Role } from '../domain/record.ts'
import type { CloudFields } from '../store/clouds.ts'
import type { Store } from '../store/database.ts'
import type { Envelope } from '../store/envelope.ts'
import type { Hints } from '../store/hints.ts'
import type { AcceptedOrder, Caller } from '../store/orders.ts'
import type { ConfigurationDirectory } from './pcm/configuration.ts'

export interface Health {
  readonly postgres: boolean
  readonly temporal: boolean
  readonly draining: boolean
}

/** A machine as its cloud told it, and when it was asked; or why it did not tell. */
export type Looked = { readonly machine: Machine; readonly asked_at: Date; readonly can_adopt: boolean } | Refused

export type ConsoleLog = { readonly text: string } | Refused
type Refused = { readonly refused: string; readonly reason: string; readonly retry_after_s: number }

/** Paths are the fields' names; a type of cloud nobody speaks to is a problem as well. */
export type FindCloudProblems = (cloud: Pick<CloudFields, 'endpoint' | 'settings'> & { provider: string }) => Problem[]

/** What the composition root hands to the API. */
export interface ApiDeps {
  readonly store: Store
  /** Wakes event streams; without it they look by themselves. */
  readonly hints?: Hints
  readonly envelope: Envelope
  /** Asks a cloud for one of its machines, by the provider's id; `refused` is the class of the error. */
  readonly look?: (cloud_id: string, provider_id: string) => Promise<Looked>
  /** Asks a cloud for what a machine has written to its console; null: the cloud's own account. */
  readonly consoleLog?: (cloud_id: string, credential_id: string | null, provider_id: string) => Promise<ConsoleLog>
  /** Where a configuration directory is set. */
  readonly configuration?: ConfigurationDirectory
  readonly hook_allow: AllowList
  /** `none` (loopback only): everyone is operator of project `default`. */
  readonly auth: 'token' | 'none'
  /** What its adapter finds wrong with the description of a cloud. */
  readonly findCloudProblems: FindCloudProblems
  readonly health: () => Promise<Health>
  /** Fires when the process leaves: streams end, requests that wait are answered. */
  readonly leaving?: AbortSignal
  readonly metrics: Registry
  /** Text for Prometheus from elsewhere in the process, behind our own. */
  readonly more_metrics?: () => Promise<string>
  readonly log: Logger
  /** Called with an order just accepted here, so that its flow may be started at once. */
  readonly onAccepted?: (accepted: AcceptedOrder) => void
}

/** Who asks, as the token says. */
export interface Identity {
  readonly project_id: string
  readonly user_id: string
  readonly role: Role
  readonly grants: readonly string[]
}

export interface ApiEnv {
  Variables: {
    deps: ApiDeps
    request_id: string
    identity: Identity
    /** What the files say now; there where it matters which clouds there are, see app.ts. */
    configuration: Configuration
  }
}

export type Api = OpenAPIHono<ApiEnv>
export type ApiContext = Context<ApiEnv>

/** The asker in the words of the store. */
export function callerOf(c: ApiContext): Caller {
  const { project_id, user_id } = c.get('identity')
  return { project_id, user_id, request_id: c.get('request_id') }
}
