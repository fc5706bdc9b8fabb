/** An owner of an engine that can be killed: tells what runs in one line of JSON, stops on SIGTERM. */
import { startEngine } from '../../embedded/engine.ts'

const engine = await startEngine({ data: process.argv[2]!, log: (line) => process.stderr.write(`${line}\n`) })
process.stdout.write(`${JSON.stringify({ database_url: engine.database_url, processes: engine.processes() })}\n`)
process.once('SIGTERM', () => void engine.stop())
