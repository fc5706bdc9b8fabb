/**
 * The configuration directory as the rest of the program sees it: read on demand, its clouds taken over into the record
 * whenever they change. There is no watcher and no interval: each access looks.
 */
import type { Logger } from 'pino'
import type { Problem } from '../../domain/errors.ts'
import { type Attributes, type Configuration, NO_MAPS, type PcmCloud } from '../../domain/pcm/configuration.ts'
import { crossReferences, type Warning } from '../../domain/pcm/cross-references.ts'
import { nameMap, pricesOf } from '../../domain/pcm/names.ts'
import { type ConfiguredCloud, type FoundClouds, importClouds } from '../../store/cloud-files.ts'
import { isAway, type Store } from '../../store/database.ts'
import type { Envelope } from '../../store/envelope.ts'
import type { FindCloudProblems } from '../context.ts'
import { fileOf, openConfigFiles } from './config-files.ts'

export interface ConfigurationDirectory {
  /** What the files say now; the record knows their clouds. Rejects only where the record is away. */
  current(): Promise<Configuration>
}

export interface ConfigurationNeeds {
  readonly folder: string
  readonly store: Store
  readonly envelope: Envelope
  readonly findCloudProblems: FindCloudProblems
  readonly log: Logger
}

/** Opens the directory; `current()` reads it. */
export function openConfiguration(needs: ConfigurationNeeds): ConfigurationDirectory {
  const { store, envelope, log } = needs
  const warn = ({ file, reason }: Warning): void => log.warn({ file }, `configuration: ${file}: ${reason}`)
  const files = openConfigFiles(needs.folder, warn)
  let configuration: Configuration | undefined
  let is_imported = false
  let told = new Set<string>()
  let failure = ''

  /** Trouble of the files with each other and with the record is told when it is new. */
  const tellNew = (warnings: readonly Warning[]): void => {
    const before = told
    told = new Set(warnings.map(({ file, reason }) => `${file} ${reason}`))
    for (const warning of warnings) if (!before.has(`${warning.file} ${warning.reason}`)) warn(warning)
  }

  const read = async (): Promise<Configuration> => {
    const changed = await files.look()
    if (changed || !configuration) {
      configuration = combine(files)
      is_imported = false
    }
    return configuration
  }

  async function takeOver(): Promise<void> {
    let found: ReturnType<typeof cloudsOf> | undefined
    const refused = await importClouds(store, envelope, async () => {
      found = cloudsOf(files, await read(), needs.findCloudProblems)
      return found
    })
    is_imported = true
    failure = ''
    tellNew([...crossReferences(configuration!), ...found!.refused, ...refused])
  }

  async function look(): Promise<Configuration> {
    const now = await read()
    if (is_imported) return now
    try {
      await takeOver()
    } catch (error) {
      if (isAway(error)) throw error
      // A cloud that the record cannot take must not stand in the way of all others.
      const err = error instanceof Error ? error.message : String(error)
      if (failure !== err) log.error({ err }, 'configuration: its clouds could not be taken over; tried again')
      failure = err
    }
    return configuration!
  }

  /** One look at a time. One that has begun may have passed what changed just now: who comes then shares the next. */
  let last: Promise<unknown> = Promise.resolve()
  let next: Promise<Configuration> | undefined
  const begin = (): Promise<Configuration> => {
    next = undefined
    return look()
  }
  const current = (): Promise<Configuration> => {
    if (!next) {
      next = last.then(begin, begin)
      last = next
    }
    return next
  }
  return { current }
}

type Files = ReturnType<typeof openConfigFiles>

function combine(files: Files): Configuration {
  const providers = files.contents('providers')
  const clouds = [...files.contents('clouds')].map(([name, { cloud }]): [string, PcmCloud] => [
    name,
    { ...cloud, of_provider: providers.get(cloud.provider) ?? NO_MAPS },
  ])
  return {
    services: files.contents('services').get('services') ?? {},
    inventory: files.contents('inventory').get('inventory') ?? null,
    sizes: named(files, 'sizes'),
    images: named(files, 'images'),
    providers,
    clouds: new Map(clouds),
    roles: files.contents('roles'),
  }
}

/** One whose file was never understood is known by its name alone. */
function named(files: Files, kind: 'sizes' | 'images'): ReadonlyMap<string, Attributes> {
  const names = [...(files.names(kind) ?? [])].toSorted()
  return new Map([...names.map((name): [string, Attributes] => [name, {}]), ...files.contents(kind)])
}

const NAMING = ['sizes', 'images', 'providers', 'clouds'] as const

/**
 * The clouds and the inventory of the files for the record, and clouds their adapters do not take. What a broken file
 * said before is no news: it may be older than what another process took over.
 */
function cloudsOf(
  files: Files,
  configuration: Configuration,
  findCloudProblems: FindCloudProblems,
): FoundClouds & { refused: Warning[] } {
  if (NAMING.some((kind) => files.names(kind) === null)) return { clouds: [], present: null, refused: [] }
  const whole = [...files.contents('clouds')].filter(
    ([name, { cloud }]) => !files.isBroken('clouds', name) && !files.isBroken('providers', cloud.provider),
  )
  const all = whole.map(([name, { account }]): ConfiguredCloud => {
    const cloud = configuration.clouds.get(name)!
    const maps = { sizes: nameMap(configuration, cloud, 'sizes'), images: nameMap(configuration, cloud, 'images') }
    const prices = pricesOf(configuration, cloud)
    return { ...account, ...maps, prices, name, file: fileOf('clouds', name) }
  })
  const inventory = files.isBroken('inventory', 'inventory') ? {} : { inventory: configuration.inventory }
  const problems = new Map(all.map((cloud) => [cloud, findCloudProblems(cloud)]))
  const clouds = all.filter((cloud) => !problems.get(cloud)!.length)
  const refused = [...problems].flatMap(([{ file }, found]) =>
    found.map((problem) => ({ file, reason: `${sayProblem(problem)}; it is left out` })),
  )
  return { clouds, ...inventory, present: files.names('clouds'), refused }
}

function sayProblem({ path, reason, accepted }: Problem): string {
  return `${path} ${reason}${accepted ? ` (there is: ${accepted.join(', ')})` : ''}`
}
