/**
 * A receiver of hooks as a process of its own: notes when the first byte of each request came, and keeps the ledger.
 * Its parent asks for the ledger over the channel; `reset` empties it.
 */
import { createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { wallNow } from './measure.ts'
import type { Received, ReceiverOrder } from './receiver-process.ts'

let ledger: Received[] = []
/** When the bytes of a connection that wait for their request came. */
const first_byte_at = new WeakMap<Socket, number>()

const server = createServer((request, response) => {
  const at = first_byte_at.get(request.socket) ?? wallNow()
  first_byte_at.delete(request.socket)
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    response.end()
    const { data } = JSON.parse(Buffer.concat(chunks).toString()) as { data: EventData }
    ledger.push({
      at,
      resource: `${data.resource_type}/${data.resource_id}`,
      sequence: data.sequence,
      to: data.to,
      name: data.snapshot.name ?? '',
    })
  })
})
server.keepAliveTimeout = 60_000
// Behind Node's own listener: a listener for 'data' there makes it read in JavaScript, where the moment can be seen.
server.on('connection', (socket: Socket) => {
  socket.setNoDelay(true)
  socket.prependListener('data', () => {
    if (!first_byte_at.has(socket)) first_byte_at.set(socket, wallNow())
  })
})

interface EventData {
  readonly resource_type: string
  readonly resource_id: string
  readonly sequence: number
  readonly to: string | null
  readonly snapshot: { readonly name?: string }
}

process.on('message', (order: ReceiverOrder) => {
  if (order === 'reset') ledger = []
  process.send!(order === 'count' ? ledger.length : ledger)
})
process.once('disconnect', () => process.exit(0))
server.listen(0, '127.0.0.1', () => process.send!({ port: (server.address() as AddressInfo).port }))
