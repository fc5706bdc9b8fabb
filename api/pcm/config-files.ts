/**
 * The files of the configuration directory: looked at anew at each access, read again where they changed. A file that
 * cannot be read or understood keeps what it last said; one that is gone says nothing any more.
 */
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Warning } from '../../domain/pcm/cross-references.ts'
import { type Contents, type FileKind, type ParsedFile, parseFile } from './config-schema.ts'

/** Kinds with a folder of their own, a file for each name; the others are one file. */
const FOLDERS = ['sizes', 'images', 'providers', 'clouds', 'roles'] as const
const SINGLES = ['services', 'inventory'] as const
const ENDING = '.conf'
const BYTES_MAX = 1_048_576
/** A file changed this short a time ago may change again without its times telling. */
const SETTLED_AFTER_MS = 1_000

export const fileOf = (kind: FileKind, name: string): string =>
  (SINGLES as readonly string[]).includes(kind) ? `${kind}${ENDING}` : `${kind}/${name}${ENDING}`

interface KnownFile {
  readonly kind: FileKind
  readonly name: string
  /** Its times and size when it was read; null: to be read again. */
  stamp: string | null
  text: string | null
  /** What it said when it was last understood. */
  content: Contents[FileKind] | undefined
  /** What it says now is not understood. */
  is_broken: boolean
}

export interface ConfigFiles {
  /** Looks at the files; true: what they say has changed. One look at a time. */
  look(): Promise<boolean>
  /** What the files of a kind say, by name. */
  contents<Kind extends FileKind>(kind: Kind): ReadonlyMap<string, Contents[Kind]>
  /** Names of the files of a kind that are there, understood or not; null: that cannot be told. */
  names(kind: FileKind): ReadonlySet<string> | null
  /** What it says now is not understood, or cannot be read. */
  isBroken(kind: FileKind, name: string): boolean
}

/** Opens a directory; nothing is read yet. `warn` hears of each change of a file that brings trouble, once. */
export function openConfigFiles(folder: string, warn: (warning: Warning) => void): ConfigFiles {
  const known = new Map<string, KnownFile>()
  /** Folders that could be listed at the last look. */
  const listed = new Set<FileKind>()
  /** Trouble that goes on, told once. */
  const told = new Map<string, string>()

  const complain = (file: string, reason: string): void => {
    if (told.get(file) !== reason) warn({ file, reason })
    told.set(file, reason)
  }

  /** What is there now; null: that cannot be told. */
  async function listFolder(kind: FileKind): Promise<string[] | null> {
    try {
      const names = (await readdir(join(folder, kind))).filter((name) => name.endsWith(ENDING) && !name.startsWith('.'))
      told.delete(kind)
      listed.add(kind)
      return names.map((name) => name.slice(0, -ENDING.length))
    } catch (error) {
      if (codeOf(error) === 'ENOENT') {
        listed.add(kind)
        return []
      }
      complain(kind, `cannot be listed (${codeOf(error)}); what it held is kept`)
      return null
    }
  }

  const namesOf = (kind: FileKind): string[] =>
    [...known.values()].flatMap((entry) => (entry.kind === kind ? entry.name : []))

  async function readOne(kind: FileKind, name: string): Promise<boolean> {
    const file = fileOf(kind, name)
    const entry = known.get(file) ?? { kind, name, stamp: null, text: null, content: undefined, is_broken: true }
    try {
      const looked_at = Date.now()
      const found = await stat(join(folder, file), { bigint: true })
      const stamp = `${found.ino} ${found.size} ${found.mtimeNs} ${found.ctimeNs}`
      if (entry.stamp === stamp) return false
      if (!found.isFile()) throw Object.assign(new Error(), { code: 'not a file' })
      if (found.size > BYTES_MAX) throw Object.assign(new Error(), { code: 'larger than 1 MiB' })
      const text = await readFile(join(folder, file), 'utf8')
      known.set(file, entry)
      entry.stamp = looked_at - Number(found.ctimeMs) > SETTLED_AFTER_MS ? stamp : null
      if (text === entry.text) return false
      entry.text = text
      told.delete(file)
      return takeIn(entry, file, parseFile(kind, name, text))
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return known.delete(file)
      known.set(file, Object.assign(entry, { stamp: null, text: null, is_broken: true }))
      complain(file, `cannot be read (${codeOf(error)}); what it said is kept`)
      return false
    }
  }

  function takeIn(entry: KnownFile, file: string, parsed: ParsedFile<FileKind>): boolean {
    entry.is_broken = 'broken' in parsed
    if ('broken' in parsed) {
      complain(file, `${parsed.broken}; ${entry.content ? 'what it said before is kept' : 'what it says is left out'}`)
      return false
    }
    if (parsed.unread.length) complain(file, `has fields that nobody reads: ${parsed.unread.join(', ')}`)
    entry.content = parsed.content
    return true
  }

  return {
    async look() {
      listed.clear()
      try {
        await readdir(folder)
        told.delete('.')
      } catch (error) {
        // A directory that is away as a whole was not emptied by anybody.
        complain('.', `the configuration directory cannot be listed (${codeOf(error)}); what it held is kept`)
        return false
      }
      let changed = false
      const there = new Set<string>()
      for (const kind of FOLDERS) {
        const names = await listFolder(kind)
        for (const name of names ?? namesOf(kind)) there.add(fileOf(kind, name))
        const changes = await Promise.all((names ?? []).map((name) => readOne(kind, name)))
        changed ||= changes.includes(true)
      }
      for (const kind of SINGLES) {
        there.add(fileOf(kind, kind))
        changed = (await readOne(kind, kind)) || changed
      }
      for (const file of known.keys()) if (!there.has(file)) changed = known.delete(file) || changed
      for (const file of told.keys()) if (file.endsWith(ENDING) && !known.has(file)) told.delete(file)
      return changed
    },
    contents<Kind extends FileKind>(kind: Kind) {
      const entries = [...known.values()].filter((entry) => entry.kind === kind && entry.content !== undefined)
      const sorted = entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))
      return new Map(sorted.map((entry) => [entry.name, entry.content as Contents[Kind]]))
    },
    isBroken: (kind, name) => known.get(fileOf(kind, name))?.is_broken === true,
    names: (kind) => (listed.has(kind) ? new Set(namesOf(kind)) : null),
  }
}

const codeOf = (error: unknown): string => String((error as { code?: unknown }).code ?? 'unknown')
