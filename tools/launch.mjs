// The one way into every script: runs on whatever Node >= 20 the machine has and hands over to the Node 24 that npm
// installs (the `node` package), which strips types by itself. Plain JavaScript, no dependencies.
//
//   node tools/launch.mjs <command> [arguments]
import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

const scripts = {
  quickstart: 'worker/quickstart.ts',
  start: 'worker/start.ts',
  token: 'worker/token.ts',
  test: 'tools/test.ts',
  check: 'tools/check.ts',
  bench: 'bench/main.ts',
  chaos: 'chaos/main.ts',
  simulate: 'simulation/main.ts',
}

/** A terminal sends Ctrl-C to the whole group and npm passes it on: one key press arrives here twice. */
const same_key_press_ms = 300
/** A child that was asked twice and still runs is killed after this. */
const patience_ms = 10_000
/** npm would undo its work first, for many seconds; the next `npm ci` starts with an empty folder anyway. */
const install_patience_ms = 500

const groups = new Set()
let interrupted = null
let interrupted_at = 0

for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => interrupt(name))
process.exitCode = await main(process.argv.slice(2))

async function main([command, ...args]) {
  const script = scripts[command]
  if (!script) return complain(`usage: launch.mjs ${Object.keys(scripts).join('|')} [arguments]`)
  if (Number(process.versions.node.split('.')[0]) < 20) return complain(`needs Node 20, this is ${process.version}`)

  const build = command === 'quickstart' ? buildTemporalEarly() : null
  if (!isInstalled()) {
    if (command !== 'quickstart') return complain('dependencies are missing: run npm ci')
    process.stderr.write('installing dependencies: npm ci\n')
    const code = await run(...npm('ci'), { stdio: ['ignore', 2, 2], cwd: root, expendable: true })
    if (interrupted) return codeOf(interrupted)
    if (code !== 0) {
      build?.stop()
      return complain(`npm ci failed with ${code}`)
    }
  }
  build?.mute()
  if (!existsSync(join(root, script))) return complain(`${script} does not exist yet`)

  const code = await run(node24(), ['--disable-warning=ExperimentalWarning', join(root, script), ...args], {
    // The channel lets the script say that the early build is not needed.
    stdio: build ? ['inherit', 'inherit', 'inherit', 'ipc'] : 'inherit',
    onMessage: (message) => message === 'temporal-build-unneeded' && build?.stop(),
  })
  build?.stop()
  await build?.ended
  return code
}

function complain(line) {
  process.stderr.write(`holdfast: ${line}\n`)
  return 1
}

/** npm writes the hidden lock file last, so an interrupted install does not count. */
function isInstalled() {
  return existsSync(join(root, 'node_modules/.package-lock.json')) && node24() !== null
}

function node24() {
  const packaged = join(root, 'node_modules/node/bin/node')
  if (existsSync(packaged)) return packaged
  // An install without scripts has no packaged Node; the host's will do if it is new enough.
  return Number(process.versions.node.split('.')[0]) >= 24 ? process.execPath : null
}

function npm(...args) {
  const from_npm = process.env.npm_execpath
  return from_npm?.endsWith('.js') ? [process.execPath, [from_npm, ...args]] : ['npm', args]
}

/**
 * Starts the build of Temporal beside everything else when none will be found: it takes minutes. The script that needs
 * the binary waits for this build through the build's own lock.
 */
function buildTemporalEarly() {
  const builder = join(root, 'tools/build-temporal.mjs')
  if (process.env.TEMPORAL_ADDRESS || process.env.TEMPORAL_CLI || isOnPath('temporal') || !isOnPath('go')) return null
  const path = spawnSync(process.execPath, [builder, '--path'], { encoding: 'utf8' }).stdout?.trim()
  if (!path || existsSync(path)) return null

  process.stderr.write('no Temporal on this machine: building one from source beside the rest\n')
  let muted = false
  const child = spawnGroup(process.execPath, [builder], { stdio: ['ignore', 'ignore', 'pipe'], cwd: root })
  createInterface({ input: child.stderr }).on('line', (line) => muted || process.stderr.write(`${line}\n`))
  return {
    mute: () => {
      muted = true
    },
    stop: () => child.exitCode ?? child.kill('SIGTERM'),
    ended: new Promise((resolve) => child.once('close', resolve)),
  }
}

function isOnPath(name) {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => folder && existsSync(join(folder, name)))
}

/**
 * Every child leads a process group of its own: the terminal's signals reach it once, through us, and whatever it
 * leaves behind can be ended.
 */
function spawnGroup(file, args, options) {
  const child = spawn(file, args, { ...options, detached: true })
  groups.add(child)
  child.once('close', () => groups.delete(child))
  child.once('error', () => groups.delete(child))
  if (interrupted) child.kill(interrupted)
  return child
}

/** Runs to the end and gives the exit code, as a shell would. */
function run(file, args, { onMessage, expendable = false, ...options }) {
  if (interrupted) return codeOf(interrupted)
  const child = Object.assign(spawnGroup(file, args, options), { expendable })
  if (onMessage) child.on('message', onMessage)
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(complain(error.message)))
    child.once('exit', (code, signal) => {
      killGroup(child) // a shell's or test runner's children that did not follow it
      resolve(code ?? codeOf(signal))
    })
  })
}

function interrupt(name) {
  const now = Date.now()
  if (interrupted && now - interrupted_at < same_key_press_ms) return
  const again = interrupted !== null
  interrupted = name
  interrupted_at = now
  for (const child of groups) {
    child.kill(name)
    if (again || child.expendable) setTimeout(() => killGroup(child), again ? patience_ms : install_patience_ms).unref()
  }
}

function killGroup(child) {
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // nobody left
  }
}

function codeOf(signal) {
  return 128 + (constants.signals[signal] ?? 0)
}
