/** A configuration directory that a test writes. */
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { inject } from 'vitest'
import { confide, secretsOf } from './secrets.ts'

export interface ConfigFolder {
  readonly path: string
  /** Writes a file, given without its ending: text as it is, anything else as JSON. */
  put(file: string, content: unknown): Promise<void>
  drop(file: string): Promise<void>
  /** Gives a file or folder another name; both in full. */
  move(from: string, to: string): Promise<void>
  close(): Promise<void>
}

export async function openConfigFolder(files: Readonly<Record<string, unknown>> = {}): Promise<ConfigFolder> {
  const path = await mkdtemp(join(tmpdir(), 'holdfast-config-'))
  const folder: ConfigFolder = {
    path,
    async put(file, content) {
      confide(secretsOf(content), inject('secrets_file'))
      const target = join(path, `${file}.conf`)
      await mkdir(dirname(target), { recursive: true })
      await writeFile(target, typeof content === 'string' ? content : JSON.stringify(content, null, 2))
    },
    drop: (file) => rm(join(path, `${file}.conf`)),
    move: (from, to) => rename(join(path, from), join(path, to)),
    close: () => rm(path, { recursive: true, force: true }),
  }
  for (const [file, content] of Object.entries(files)) await folder.put(file, content)
  return folder
}
