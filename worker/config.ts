/** Configuration: environment and flags, parsed once; flags win. A wrong value is one clear line before anything starts. */
import { statSync } from 'node:fs'
import { isIP } from 'node:net'
import { resolve } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import ipaddr from 'ipaddr.js'
import { z } from 'zod'
import { parseAllowList } from '../domain/hook-address.ts'

export type ProcessRole = 'all' | 'api' | 'worker'

export interface Config {
  readonly role: ProcessRole
  /** Where an embedded Temporal keeps its state. */
  readonly engine: 'sqlite' | 'postgres'
  /** The address the API listens on. */
  readonly host: string
  readonly port: number
  /** True where the port was not asked for, so that any free one will do. */
  readonly any_port: boolean
  readonly data: string
  readonly auth: 'token' | 'none'
  readonly hook_allow: string
  /** Clouds, sizes, images and roles by file. */
  readonly config_dir: string | undefined
  readonly operator_token: string | undefined
  readonly clock_start: Date | undefined
  readonly database_url: string | undefined
  readonly temporal_address: string | undefined
  readonly temporal_namespace: string
  /** The record was put back from a backup since the last start. */
  readonly restored: boolean
  readonly log_level: string
}

/** What is wrong with the configuration, in one line. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

/** Every variable that is read here; `HOLDFAST_MASTER_KEY` is read where it is used. */
export const ENVIRONMENT = z.object({
  HOLDFAST_AUTH: z.enum(['token', 'none']).default('token'),
  HOLDFAST_HOOK_ALLOW: z.string().default(''),
  HOLDFAST_CONFIG_DIR: z
    .string()
    .refine((path) => statSync(path, { throwIfNoEntry: false })?.isDirectory(), 'is not a folder that is there')
    .optional(),
  HOLDFAST_OPERATOR_TOKEN: z.string().min(16, 'at least 16 characters').optional(),
  HOLDFAST_CLOCK_START: z.iso.datetime({ offset: true }).optional(),
  HOLDFAST_HOST: z
    .string()
    .refine((text) => isIP(text) > 0, 'must be an IP address')
    .default('127.0.0.1'),
  HOLDFAST_PORT: z.coerce.number().int().min(0).max(65_535).default(8080),
  HOLDFAST_DATA: z.string().min(1).default('.holdfast'),
  HOLDFAST_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  DATABASE_URL: z
    .url({ protocol: /^postgres(ql)?$/, error: 'must be like postgres://user:password@host:5432/database' })
    .optional(),
  TEMPORAL_ADDRESS: z
    .string()
    .regex(/^[^\s/]+:\d+$/, 'must be host:port')
    .optional(),
  TEMPORAL_NAMESPACE: z.string().min(1).default('holdfast'),
})

const port = (text: string): number => {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0 || value > 65_535)
    throw new InvalidArgumentError('a port is a number from 0 to 65535')
  return value
}

/** What commander says, on one line. */
const oneLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replace(/^error: /, '').replaceAll(/\s*\n\s*/g, ' ')

/** Reads flags and environment of `start`; a variable that is empty counts as not set. Throws ConfigError. */
export function readConfig(args: readonly string[], environment: NodeJS.ProcessEnv): Config {
  const parsed = ENVIRONMENT.safeParse(Object.fromEntries(Object.entries(environment).filter(([, value]) => value)))
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new ConfigError(`${String(issue!.path[0])}: ${issue!.message}`)
  }
  const env = parsed.data
  const flags = new Command('holdfast')
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .addOption(
      new Option('--role <role>', 'which parts this process runs').choices(['all', 'api', 'worker']).default('all'),
    )
    .addOption(
      new Option('--engine <engine>', 'what an embedded Temporal keeps its state in').choices(['sqlite', 'postgres']),
    )
    .addOption(new Option('--port <port>', 'port of the API').argParser(port))
    .addOption(new Option('--data <folder>', 'data folder'))
    .addOption(new Option('--restored', 'the record was put back from a backup; for the first start after it'))
  try {
    flags.parse([...args], { from: 'user' })
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'commander.helpDisplayed') process.exit(0)
    throw new ConfigError(oneLine(error))
  }
  const given = flags.opts<{
    role: ProcessRole
    engine?: Config['engine']
    port?: number
    data?: string
    restored?: true
  }>()
  try {
    parseAllowList(env.HOLDFAST_HOOK_ALLOW)
  } catch (error) {
    throw new ConfigError(`HOLDFAST_HOOK_ALLOW: ${error instanceof Error ? error.message : String(error)}`)
  }
  const config: Config = {
    role: given.role,
    engine: given.engine ?? 'sqlite',
    host: env.HOLDFAST_HOST,
    port: given.port ?? env.HOLDFAST_PORT,
    any_port: false,
    data: resolve(given.data ?? env.HOLDFAST_DATA),
    auth: env.HOLDFAST_AUTH,
    hook_allow: env.HOLDFAST_HOOK_ALLOW,
    config_dir: env.HOLDFAST_CONFIG_DIR && resolve(env.HOLDFAST_CONFIG_DIR),
    operator_token: env.HOLDFAST_OPERATOR_TOKEN,
    clock_start: env.HOLDFAST_CLOCK_START ? new Date(env.HOLDFAST_CLOCK_START) : undefined,
    database_url: env.DATABASE_URL,
    temporal_address: env.TEMPORAL_ADDRESS,
    temporal_namespace: env.TEMPORAL_NAMESPACE,
    restored: given.restored === true,
    log_level: env.HOLDFAST_LOG_LEVEL,
  }
  if (config.role !== 'all' && !config.database_url) {
    throw new ConfigError(`--role ${config.role} needs DATABASE_URL: only --role all brings its own PostgreSQL`)
  }
  if (config.role === 'worker' && !config.temporal_address) {
    throw new ConfigError('--role worker needs TEMPORAL_ADDRESS: only --role all brings its own Temporal')
  }
  if (given.engine && (config.role !== 'all' || config.temporal_address)) {
    throw new ConfigError('--engine says how to run a Temporal of our own: not with TEMPORAL_ADDRESS or another role')
  }
  if (config.auth === 'none' && ipaddr.process(config.host).range() !== 'loopback') {
    throw new ConfigError(`HOLDFAST_AUTH=none is for loopback only, not for HOLDFAST_HOST=${config.host}`)
  }
  return config
}
