/** Types, lint and format, import rules: all three are run, a short summary follows, exit 1 when any fails. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const sources =
  'domain providers store workflows activities api worker embedded tools examples test bench chaos simulation'.split(
    ' ',
  )
const modules = (path: string) => join(root, 'node_modules', path)

const checks = {
  types: [modules('typescript/bin/tsc'), '--noEmit'],
  'lint and format': [modules('@biomejs/biome/bin/biome'), 'check', '--colors=off'],
  imports: [
    modules('dependency-cruiser/bin/dependency-cruiser.mjs'),
    ...['--config', '.dependency-cruiser.cjs', '--output-type', 'err'],
    ...sources.filter((folder) => existsSync(join(root, folder))),
  ],
}

const results = await Promise.all(Object.entries(checks).map(async ([name, args]) => ({ name, ...(await run(args)) })))
for (const { code, output } of results) if (code !== 0) process.stdout.write(`${output.trim()}\n\n`)
for (const { name, code } of results) process.stdout.write(`${code === 0 ? 'ok    ' : 'FAILED'}  ${name}\n`)
process.exitCode = results.some(({ code }) => code !== 0) ? 1 : 0

function run(args: readonly string[]): Promise<{ code: number; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text
      })
    }
    child.once('error', reject)
    child.once('close', (code) => resolve({ code: code ?? 1, output }))
  })
}
