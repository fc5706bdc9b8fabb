/** The workflow bundle of this release: built once for a data folder, since every start of a worker waits for it. */
import { createHash } from 'node:crypto'
import { access, glob, readFile, rename, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bundleWorkflowCode, DefaultLogger, type WorkflowBundleOption } from '@temporalio/worker'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const SOURCES = ['workflows/**/*.ts', 'domain/**/*.ts']

/** Builds the bundle, about a second, or takes the one that was built from the same sources before. */
export async function buildBundle(folder?: string): Promise<WorkflowBundleOption> {
  const file = folder && join(folder, `workflows-${await hashOfSources()}.js`)
  if (file && (await isThere(file))) return { codePath: file }
  const built = await bundleWorkflowCode({
    workflowsPath: join(ROOT, 'workflows/index.ts'),
    logger: new DefaultLogger('ERROR'),
  })
  if (!file) return built
  // Whole or not at all, whoever dies or does the same meanwhile.
  const half = `${file}.${process.pid}`
  await writeFile(half, built.code)
  await rename(half, file)
  return { codePath: file }
}

async function hashOfSources(): Promise<string> {
  const { version } = createRequire(import.meta.url)('@temporalio/worker/package.json') as { version: string }
  const hash = createHash('sha256').update(version)
  for (const name of (await Array.fromAsync(glob(SOURCES, { cwd: ROOT }))).toSorted())
    hash.update(`\0${name}\0`).update(await readFile(join(ROOT, name)))
  return hash.digest('hex').slice(0, 16)
}

const isThere = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  )
