// Builds the Temporal server of tools/temporal: once per machine and version of its sources, whoever asks and however
// many ask at once. Plain JavaScript without dependencies, because it also runs while `npm ci` is still at work.
//
//   node tools/build-temporal.mjs           builds if needed; progress on stderr, the binary's path on stdout
//   node tools/build-temporal.mjs --path    prints where the binary is, or would be
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'

const sources = join(dirname(fileURLToPath(import.meta.url)), 'temporal')
/** Part of Go's cache key: any other setting compiles every package again. */
const build_flags = ['-trimpath', '-ldflags', '-s -w']
const line_every_ms = 5_000
const poll_every_ms = 500

/** Where the binary for these sources is kept, built or not. */
export function temporalBinaryPath() {
  const hash = createHash('sha256')
  for (const file of readdirSync(sources).sort()) {
    if (!/\.go$|^go\.(mod|sum)$/.test(file)) continue
    hash
      .update(file)
      .update('\0')
      .update(readFileSync(join(sources, file)))
      .update('\0')
  }
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache')
  return join(cache, 'holdfast', `temporal-${hash.digest('hex').slice(0, 16)}`, 'temporal')
}

/**
 * Returns the path of the binary after building it if needed. `say` gets progress, one line at a time; aborting
 * `signal` ends the compiler and rejects.
 */
export async function buildTemporal(say, signal) {
  const binary = temporalBinaryPath()
  if (existsSync(binary)) return binary
  if (spawnSync('go', ['version']).status !== 0) throw new Error('cannot build Temporal: no Go on PATH')
  mkdirSync(dirname(binary), { recursive: true })
  const progress_file = join(dirname(binary), 'progress')
  const lock = join(dirname(binary), 'lock')
  let said = ''
  while (!takeLock(lock)) {
    // The holder's end cannot be awaited: it is another process, perhaps of another user.
    const progress = readText(progress_file)
    if (progress && progress !== said) say(progress)
    said = progress
    await delay(poll_every_ms, undefined, { signal })
    if (existsSync(binary)) return binary
  }
  try {
    if (existsSync(binary)) return binary // built between the first look and the lock
    await compile(binary, progress_file, say, signal)
    return binary
  } finally {
    rmSync(progress_file, { force: true })
    rmSync(lock, { force: true })
  }
}

async function compile(binary, progress_file, say, signal) {
  signal?.throwIfAborted()
  const unfinished = `${binary}.${process.pid}`
  // An interrupted `go` may leave its work folder, some hundred megabytes.
  const work = `${unfinished}.work`
  mkdirSync(work)
  // A process group of its own, so that an end reaches the compilers that `go` starts.
  const go = spawn('go', ['build', '-v', '-mod=readonly', '-buildvcs=false', ...build_flags, '-o', unfinished, '.'], {
    cwd: sources,
    env: { ...process.env, CGO_ENABLED: '0', GOWORK: 'off', GOTMPDIR: work },
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  })
  const started_at = Date.now()
  const last_lines = []
  let downloaded = 0
  let compiled = 0
  createInterface({ input: go.stderr }).on('line', (line) => {
    if (line.startsWith('go: downloading ')) downloaded++
    else if (/^[\w.-]+(\/[\w.~-]+)*$/.test(line)) compiled++
    if (last_lines.push(line) > 20) last_lines.shift()
  })
  const tell = () => {
    const seconds = Math.round((Date.now() - started_at) / 1000)
    const last = last_lines.at(-1)?.replace('go: downloading ', '') ?? ''
    const counts = [downloaded && `${downloaded} modules downloaded`, `${compiled} packages compiled`].filter(Boolean)
    const line = `building Temporal from source, a few minutes, once per machine: ${counts.join(', ')}, ${seconds} s ${last}`
    writeFileSync(progress_file, line.trimEnd())
    say(line.trimEnd())
  }
  tell()
  const ticker = setInterval(tell, line_every_ms)
  const end = () => endGroup(go)
  signal?.addEventListener('abort', end, { once: true })
  try {
    const code = await new Promise((resolve, reject) => {
      go.once('error', reject)
      go.once('close', resolve)
    })
    signal?.throwIfAborted()
    if (code !== 0) throw new Error(`cannot build Temporal: go build exited with ${code}\n${last_lines.join('\n')}`)
    renameSync(unfinished, binary)
    say(`Temporal is built, ${Math.round((Date.now() - started_at) / 1000)} s`)
  } finally {
    clearInterval(ticker)
    signal?.removeEventListener('abort', end)
    rmSync(unfinished, { force: true })
    rmSync(work, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** What does not listen within a second is killed. */
function endGroup(child) {
  const send = (name) => {
    try {
      process.kill(-child.pid, name)
    } catch {
      // already gone
    }
  }
  send('SIGINT')
  const force = setTimeout(() => send('SIGKILL'), 1_000)
  child.once('close', () => {
    clearTimeout(force)
    send('SIGKILL')
  })
}

/**
 * Takes the lock or says that a living process has it. A lock carries pid and start time, so that one left by a killed
 * process is known even when its pid is in use again.
 */
function takeLock(lock) {
  const mine = `${lock}.${process.pid}`
  writeFileSync(mine, JSON.stringify({ pid: process.pid, start_time: startTime(process.pid) }))
  try {
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        linkSync(mine, lock) // fails when the lock exists, unlike a rename
        return true
      } catch (error) {
        if (error.code !== 'EEXIST') throw error
      }
      const held = readText(lock)
      if (!held || isHeld(held)) return false
      // Two may find the same stale lock; who moves it away makes sure that it is still that one.
      const stale = `${lock}.stale.${process.pid}`
      try {
        renameSync(lock, stale)
      } catch {
        continue
      }
      if (readText(stale) !== held) renameSync(stale, lock)
      else unlinkSync(stale)
    }
    return false
  } finally {
    rmSync(mine, { force: true })
  }
}

function isHeld(text) {
  try {
    const { pid, start_time } = JSON.parse(text)
    return startTime(pid) === start_time
  } catch {
    return false
  }
}

/** When the process started, in whatever unit the system has, or null when there is no such process. */
function startTime(pid) {
  try {
    // The second field is the name in brackets and may hold anything; the start time is the 20th after it.
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ')[19]
  } catch {
    if (existsSync('/proc/self/stat')) return null
    return spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim() || null
  }
}

function readText(file) {
  try {
    return statSync(file).isFile() ? readFileSync(file, 'utf8') : ''
  } catch {
    return ''
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  if (process.argv.includes('--path')) {
    console.log(temporalBinaryPath())
  } else {
    const abort = new AbortController()
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => abort.abort())
    try {
      console.log(await buildTemporal((line) => process.stderr.write(`${line}\n`), abort.signal))
    } catch (error) {
      if (!abort.signal.aborted) process.stderr.write(`${error.message}\n`)
      process.exitCode = abort.signal.aborted ? 130 : 1
    }
  }
}
