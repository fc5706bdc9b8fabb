/** The launcher on real processes, in a clone whose parts are stand-ins. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../../', import.meta.url))
let clone: string

beforeEach(async () => {
  clone = await mkdtemp(join(tmpdir(), 'holdfast-launch-'))
  await cp(join(root, 'tools'), join(clone, 'tools'), { recursive: true })
  await mkdir(join(clone, 'worker'))
  await writeFile(join(clone, 'package.json'), '{ "type": "module" }')
})
afterEach(() => rm(clone, { recursive: true, force: true }))

/** Makes the clone look installed: the real Node 24, and a vitest that writes the given results. */
async function install(results: object = {}): Promise<void> {
  await mkdir(join(clone, 'node_modules/vitest'), { recursive: true })
  await symlink(join(root, 'node_modules/node'), join(clone, 'node_modules/node'))
  await writeFile(join(clone, 'node_modules/.package-lock.json'), '{}')
  await writeFile(
    join(clone, 'node_modules/vitest/vitest.mjs'),
    `import { writeFileSync } from 'node:fs'
     const file = process.argv.find((argument) => argument.startsWith('--outputFile.json=')).split('=')[1]
     const results = ${JSON.stringify(results)}
     writeFileSync(file, JSON.stringify(results))
     process.exit(results.numFailedTests ? 1 : 0)`,
  )
}

function script(name: string, text: string): Promise<void> {
  return writeFile(join(clone, 'worker', name), text)
}

interface Launched {
  readonly child: ChildProcess
  readonly output: { stdout: string; stderr: string }
  /** Resolves once standard output holds the text. */
  printed(text: string): Promise<void>
  readonly ended: Promise<{ code: number | null; stdout: string; stderr: string }>
}

function launch(args: readonly string[], env: NodeJS.ProcessEnv = {}): Launched {
  const child = spawn(process.execPath, [join(clone, 'tools/launch.mjs'), ...args], {
    env: { ...process.env, TEMPORAL_CLI: '/bin/true', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    output.stderr += text
  })
  return {
    child,
    output,
    async printed(text) {
      while (!`${output.stdout}${output.stderr}`.includes(text)) {
        await Promise.race([once(child.stdout, 'data'), once(child.stderr, 'data')])
      }
    },
    ended: once(child, 'close').then(([code]) => ({ code, ...output })),
  }
}

/** A killed process stands in /proc until the kernel has come round to it. */
const gone = { timeout: 10_000 }

/** Processes whose command line names the clone. */
async function leftBehind(): Promise<string[]> {
  const found: string[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')
    if (line.includes(clone)) found.push(line.replaceAll('\0', ' '))
  }
  return found
}

/** A program text that starts a child which names the clone, tells so, and stays. */
const stays = () => `
  const { spawn } = await import('node:child_process')
  spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e6)', ${JSON.stringify(clone)}], { stdio: 'ignore' })
  console.log('staying')
  setInterval(() => {}, 1e6)`

describe('the launcher', () => {
  test('says what to do where nothing is installed', async () => {
    await script('start.ts', '')
    expect(await launch(['start']).ended).toEqual({
      code: 1,
      stdout: '',
      stderr: 'holdfast: dependencies are missing: run npm ci\n',
    })
  })

  test('takes an interrupted install for none', async () => {
    await install()
    await rm(join(clone, 'node_modules/.package-lock.json'))
    expect((await launch(['start']).ended).stderr).toContain('run npm ci')
  })

  test('names its commands', async () => {
    const { code, stderr } = await launch(['fly']).ended
    expect(code).toBe(1)
    expect(stderr).toContain('quickstart|start|token|test|check')
  })

  test('hands arguments, output and exit code through, on Node 24 without warnings', async () => {
    await install()
    await script(
      'start.ts',
      `const words: string[] = process.argv.slice(2)
       console.log(process.versions.node.split('.')[0], ...words)
       process.exit(7)`,
    )
    expect(await launch(['start', '--port', '1', 'a b']).ended).toEqual({
      code: 7,
      stdout: '24 --port 1 a b\n',
      stderr: '',
    })
  })

  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    'forwards %s once, though it may arrive twice',
    async (signal) => {
      await install()
      await script(
        'start.ts',
        `let count = 0
       process.on('${signal}', () => {
         // Late enough for a second one to be counted, were there any.
         if (++count === 1) setTimeout(() => { console.log('signals:', count); process.exit(3) }, 200)
       })
       setInterval(() => {}, 1e6)
       console.log('ready')`,
      )
      const launched = launch(['start'])
      await launched.printed('ready')
      launched.child.kill(signal)
      launched.child.kill(signal)
      expect(await launched.ended).toEqual({ code: 3, stdout: 'ready\nsignals: 1\n', stderr: '' })
    },
  )

  test('leaves nobody behind of a script that a signal ends', async () => {
    await install()
    await script('start.ts', stays())
    const launched = launch(['start'])
    await launched.printed('staying')
    launched.child.kill('SIGINT')
    expect((await launched.ended).code).toBe(130)
    await expect.poll(leftBehind, gone).toEqual([])
  })
})

describe('quickstart on a bare clone', () => {
  /** What npm is for the launcher that npm itself started. */
  async function npm(text: string): Promise<NodeJS.ProcessEnv> {
    const file = join(clone, 'npm.js')
    await writeFile(file, text)
    return { npm_execpath: file }
  }

  test('installs first, with npm on standard error', async () => {
    await install()
    await cp(join(clone, 'node_modules'), join(clone, 'installed'), { recursive: true })
    await rm(join(clone, 'node_modules'), { recursive: true })
    await script('quickstart.ts', `console.log('running')`)
    const env = await npm(
      `import { renameSync } from 'node:fs'
       console.log('npm', ...process.argv.slice(2))
       renameSync('installed', 'node_modules')`,
    )
    const { code, stdout, stderr } = await launch(['quickstart'], env).ended
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'running\n' })
    expect(stderr).toContain('npm ci\n')
  })

  test('says that the install failed', async () => {
    await script('quickstart.ts', '')
    const { code, stderr } = await launch(['quickstart'], await npm('process.exit(9)')).ended
    expect(code).toBe(1)
    expect(stderr).toContain('npm ci failed with 9')
  })

  test('can be interrupted while it installs', async () => {
    await script('quickstart.ts', `console.log('not to be reached')`)
    // npm takes its time when interrupted.
    const launched = launch(['quickstart'], await npm(`process.on('SIGINT', () => {})\n${stays()}`))
    await launched.printed('staying')
    launched.child.kill('SIGINT')
    const { code, stdout } = await launched.ended
    expect({ code, stdout }).toEqual({ code: 130, stdout: '' })
    await expect.poll(leftBehind, gone).toEqual([])
  })

  test('builds Temporal beside the install, and ends the build with it', async () => {
    await mkdir(join(clone, 'bin'))
    const go = join(clone, 'bin/go')
    // Go ends by itself when asked to, its compilers are its children.
    await writeFile(
      go,
      `#!/bin/sh\n[ "$1" = version ] && exit 0\necho compiler/one >&2\nsh -c ': ${clone}; sleep 1000' &\nwait\n`,
    )
    await chmod(go, 0o755)
    await script('quickstart.ts', '')
    const env = { ...(await npm(stays())), PATH: `${join(clone, 'bin')}:/bin`, XDG_CACHE_HOME: join(clone, 'cache') }
    const launched = launch(['quickstart'], { ...env, TEMPORAL_CLI: undefined, TEMPORAL_ADDRESS: undefined })
    await launched.printed('no Temporal on this machine: building one from source')
    await launched.printed('staying')
    await launched.printed('building Temporal from source')
    launched.child.kill('SIGINT')
    expect((await launched.ended).code).toBe(130)
    await expect.poll(leftBehind, gone).toEqual([])
    const [folder] = await readdir(join(clone, 'cache/holdfast'))
    expect(await readdir(join(clone, 'cache/holdfast', folder!))).toEqual([])
  })
})

describe('the test command', () => {
  const results = { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0, numTodoTests: 0, testResults: [] }

  test.each([
    ['all passed', { ...results, numPassedTests: 5 }, '5 passed, 0 failed', 0],
    ['some skipped', { ...results, numPassedTests: 5, numPendingTests: 1 }, '5 passed, 0 failed, 1 skipped', 0],
    ['one failed', { ...results, numPassedTests: 5, numFailedTests: 1 }, '5 passed, 1 failed', 1],
    ['none ran', results, '0 passed, 0 failed', 1],
    [
      'a file did not load',
      { ...results, numPassedTests: 2, testResults: [{ status: 'failed', assertionResults: [] }] },
      '2 passed, 1 failed',
      1,
    ],
  ])('closes with one line: %s', async (_, given, line, expected) => {
    await install(given)
    const { code, stdout } = await launch(['test']).ended
    expect({ code, last_line: stdout.trimEnd().split('\n').at(-1) }).toEqual({ code: expected, last_line: line })
  })
})
