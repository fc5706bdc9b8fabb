/**
 * README is true: its commands are run in order, on a clean clone. Blocks marked `no-test` are left out, those marked
 * `background` go on beside the others once they have said that they are ready. Only the ports differ.
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(process.env.HOLDFAST_TEST_FOLDER ?? tmpdir(), 'readme-'))
  await chmod(folder, 0o755)
  await promisify(execFile)('git', ['clone', '--quiet', '--no-hardlinks', ROOT, join(folder, 'clone')])
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** Each job is a process group: npm does not hand signals on. */
const END_JOBS = 'for job in $(jobs -p); do kill -- -$job 2>/dev/null || true; done; wait'

interface Block {
  readonly mark: string
  readonly commands: string
}

const blocksOf = (markdown: string): Block[] =>
  [...markdown.matchAll(/^```sh ?(.*)\n([\s\S]*?)^```$/gm)].map(([, mark, commands]) => ({
    mark: mark!,
    commands: commands!,
  }))

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number }
      probe.close(() => resolve(port))
    })
  })
}

test('README`s commands run, in order, on a clean clone', async () => {
  const blocks = blocksOf(await readFile(join(ROOT, 'README.md'), 'utf8')).filter(({ mark }) => mark !== 'no-test')
  expect(blocks.length).toBeGreaterThan(4)
  const [api, cloud] = [await freePort(), await freePort()]
  const script = blocks.map(({ mark, commands }, number) => {
    const own = commands.replaceAll('8080', String(api)).replaceAll('4600', String(cloud))
    if (mark !== 'background') return own
    return `{ ${own.trim()}\n} > ${folder}/said-${number} 2>&1 &
until grep -q '"ready":true' ${folder}/said-${number}; do kill -0 $! || { cat ${folder}/said-${number}; exit 1; }; sleep 0.1; done`
  })
  const file = join(folder, 'commands.sh')
  await writeFile(file, `set -eum\ntrap '${END_JOBS}' EXIT\n${script.join('\n')}\necho all commands ran\n`)
  const bash = spawn('bash', [file], {
    cwd: join(folder, 'clone'),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: environment(),
  })
  let said = ''
  for (const stream of [bash.stdout, bash.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
  }
  const [code] = (await once(bash, 'exit')) as [number]
  expect(said).toContain('"ok":true')
  expect(`${said.slice(-3_000)}\nexit ${code}`).toMatch(/all commands ran\s+(.|\s)*exit 0$/)
}, 600_000)

/** A newcomer's: nothing of the test run's own; whom the machine trusts stays. */
function environment(): NodeJS.ProcessEnv {
  const own = /^(HOLDFAST_|VITEST|NODE_(?!EXTRA_CA_CERTS$)|npm_|DATABASE_URL|TEMPORAL_(ADDRESS|NAMESPACE))/
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !own.test(name)))
}
