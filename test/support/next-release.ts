/** The workflows of a release to come: those of today with a timer more in every loop, and other words. */
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker'

const ROOT = join(import.meta.dirname, '../..')

/** As such a release would make it: runs of before are kept on their way by `patched()`. */
const CHANGES = [
  ['loop.ts', '  isCancellation,\n', '  isCancellation,\n  patched,\n'],
  [
    'loop.ts',
    '    const wanted = new Set(',
    "    if (patched('pause')) await sleep(1, { summary: 'a pause' })\n    const wanted = new Set(",
  ],
  ['hook-sender.ts', 'Sending first attempts', 'Delivering first attempts'],
] as const

/** Builds its bundle; `remove()` when it is no longer needed. */
export async function bundleNextRelease(): Promise<{ workflow_bundle: string; remove(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-next-'))
  await cp(join(ROOT, 'workflows'), join(folder, 'workflows'), { recursive: true })
  for (const name of ['domain', 'node_modules']) await symlink(join(ROOT, name), join(folder, name))
  for (const [file, today, next] of CHANGES) {
    const path = join(folder, 'workflows', file)
    const text = await readFile(path, 'utf8')
    if (!text.includes(today))
      throw new Error(`${file} has no ${JSON.stringify(today)} any more: what is changed here?`)
    await writeFile(path, text.replaceAll(today, next))
  }
  const { code } = await bundleWorkflowCode({
    workflowsPath: join(folder, 'workflows/index.ts'),
    logger: new DefaultLogger('ERROR'),
  })
  const workflow_bundle = join(folder, 'workflows.cjs')
  await writeFile(workflow_bundle, code)
  return { workflow_bundle, remove: () => rm(folder, { recursive: true, force: true }) }
}
