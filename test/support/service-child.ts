/** The service as a process of its own, on the record and engine of a harness; see service-process.ts. */
import { channel } from 'node:diagnostics_channel'
import { type ChildService, startChildService } from './child-service.ts'

const configuration = JSON.parse(process.env.SERVICE_CHILD!) as ChildService
const tell = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`)

// Calls of undici, which providers and hooks go by, tell of their answers.
channel('undici:request:headers').subscribe((message) => {
  const { request } = message as { request: { method: string; path: string } }
  tell({ answered: `${request.method} ${request.path}` })
})

const service = await startChildService(configuration)
tell({ url: service.url })
