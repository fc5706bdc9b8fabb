/** Runs vitest with the given arguments and closes with one line that programs can read: `N passed, N failed`. */
import { spawn } from 'node:child_process'
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
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

/** Everything the tests write; PostgreSQL's own user must be able to enter it when we are root. */
const folder = await mkdtemp(join(tmpdir(), 'holdfast-test-'))
await chmod(folder, 0o755)
process.env.HOLDFAST_TEST_FOLDER = folder
const interrupts = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
/** Interrupted, vitest ends at once; what it has left is ended here. */
let interrupted = false
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
  if (interrupted) await run([join(root, 'test/support/clean-up.ts'), folder])
  await rm(folder, { recursive: true, force: true, maxRetries: 5 })
}

/** Resolves with the exit code; signals go on to the program. */
async function run(args: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, args, { stdio: 'inherit' })
  const forward = (name: NodeJS.Signals) => {
    interrupted = true
    child.kill(name)
  }
  for (const name of interrupts) process.on(name, forward)
  try {
    return await new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('exit', (code) => resolve(code ?? 1))
    })
  } finally {
    // Kept until the next program runs: a second Ctrl-C must not cut the clean-up short.
    for (const name of interrupts) process.on(name, ignore).removeListener(name, forward)
  }
}

function ignore(): void {}

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
