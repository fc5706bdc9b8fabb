/**
 * `npm run token -- --project NAME --role ROLE [--user NAME] [--grant act] [--data DIR]`: makes a token (kept hashed),
 * and the project when it is new; prints the token.
 */
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { Command, Option } from 'commander'
import { openStore } from '../store/database.ts'
import { createToken } from '../store/projects.ts'
import { failStart } from './process.ts'

const options = new Command('holdfast token')
  .requiredOption('--project <name>', 'project, made when it is new')
  .addOption(
    new Option('--role <role>', 'what the token may do')
      .choices(['operator', 'member', 'reader', 'monitor'])
      .makeOptionMandatory(),
  )
  .option('--user <name>', 'whose token', 'default')
  .option('--grant <grant...>', 'extra rights of a monitor: act', [])
  .option('--data <folder>', 'data folder of the running server', process.env.HOLDFAST_DATA ?? '.holdfast')
  .parse()
  .opts<{
    project: string
    role: 'operator' | 'member' | 'reader' | 'monitor'
    user: string
    grant: string[]
    data: string
  }>()

const database_url = process.env.DATABASE_URL ?? (await runningRecord(resolve(options.data)))
const store = openStore(database_url, { size: 1, onError: () => {} })
try {
  const text = await createToken(store, {
    project: options.project,
    user: options.user,
    role: options.role,
    grants: options.grant,
  })
  process.stdout.write(`${text}\n`)
} catch (error) {
  failStart(`no token was made: ${error instanceof Error ? error.message : String(error)}`)
} finally {
  await store.close()
}

/** The record of the server that runs on this data folder. */
async function runningRecord(data: string): Promise<string> {
  try {
    const { database_url } = JSON.parse(await readFile(join(data, 'run', 'endpoints.json'), 'utf8')) as {
      database_url: string
    }
    return database_url
  } catch {
    failStart(`no server runs on ${data}: start one (npm start), name its folder with --data, or set DATABASE_URL`)
  }
}
