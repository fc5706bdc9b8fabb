/**
 * `npm start`: the way in. What was compiled is kept from one start to the next, which halves the time until a process
 * answers; it has to be asked for before anything else is loaded.
 */
import { enableCompileCache } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'

// Where that cannot be written nothing is kept.
enableCompileCache(join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'holdfast', 'compiled'))
await import('./main.ts')
