/** Runs vitest with the given arguments and closes with one line that programs can read: `N passed, N failed`. */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

interface Results {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly numPendingTests: number
  readonly numTodoTests: number
  readonly testResults: readonly { readonly status: string; readonly assertionResults: readonly { status: string }[] }[]
}

const folder = await mkdtemp(join(tmpdir(), 'holdfast-results-'))
try {
  const file = join(folder, 'results.json')
  const code = await run([
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    ...['--reporter=default', '--reporter=json', `--outputFile.json=${file}`],
    ...process.argv.slice(2),
  ])
  const { passed, failed, skipped } = count(await readResults(file), code)
  process.stdout.write(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`)
  process.exitCode = code !== 0 ? code : failed > 0 || passed === 0 ? 1 : 0
} finally {
  await rm(folder, { recursive: true, force: true })
}

/** Resolves with the exit code; signals go on to vitest, which ends the processes the tests share. */
async function run(args: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, args, { stdio: 'inherit' })
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => child.kill(name))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}

async function readResults(file: string): Promise<Results | null> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Results
  } catch {
    return null // ended before any result
  }
}

/** A file that does not load, or an error outside any test, is a failure too. */
function count(results: Results | null, code: number): { passed: number; failed: number; skipped: number } {
  if (!results) return { passed: 0, failed: code === 0 ? 0 : 1, skipped: 0 }
  const unloadable = results.testResults.filter(
    ({ status, assertionResults }) => status === 'failed' && !assertionResults.some((test) => test.status === 'failed'),
  ).length
  const failed = results.numFailedTests + unloadable
  return {
    passed: results.numPassedTests,
    failed: failed === 0 && code !== 0 ? 1 : failed,
    skipped: results.numPendingTests + results.numTodoTests,
  }
}
