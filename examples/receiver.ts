/**
 * A receiver of hooks, as one would write it: verifies with the stock Standard Webhooks library, dedupes by
 * `webhook-id`, and keeps count of order and gaps by the `sequence` of each resource.
 *
 * `node examples/receiver.ts` prints `{"url": …}` when it listens. `POST /secret` gives it the hook's secret (before
 * that it answers 503 and is called again later), `GET /report` tells what it saw, `POST /` takes deliveries.
 */
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'

interface Delivery {
  readonly id: string
  readonly type: string
  readonly data: { readonly resource_type: string; readonly resource_id: string; readonly sequence: number }
}

let webhook: Webhook | undefined
const seen = new Set<string>()
const last = new Map<string, number>()
const report = { received: 0, duplicates: 0, inversions: 0, gaps: 0, refused: 0 }

/** A resource's first event seen here sets where its sequence begins; from there none may be missing. */
function note(delivery: Delivery): void {
  report.received++
  if (seen.has(delivery.id)) {
    report.duplicates++
    return
  }
  seen.add(delivery.id)
  const resource = `${delivery.data.resource_type}/${delivery.data.resource_id}`
  const before = last.get(resource)
  const { sequence } = delivery.data
  if (before !== undefined && sequence < before) report.inversions++
  if (before !== undefined && sequence > before + 1) report.gaps += sequence - before - 1
  last.set(resource, Math.max(before ?? 0, sequence))
}

const server = createServer(async (request, response) => {
  const body = await read(request)
  const answer = (status: number, text = ''): void => void response.writeHead(status).end(text)
  if (request.url === '/report') return answer(200, JSON.stringify(report))
  if (request.url === '/secret') {
    webhook = new Webhook(body)
    return answer(204)
  }
  if (!webhook) return answer(503)
  try {
    note(webhook.verify(body, request.headers as Record<string, string>) as Delivery)
    answer(204)
  } catch {
    report.refused++
    answer(401)
  }
})

async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

server.listen(0, '127.0.0.1', () => {
  process.stdout.write(`${JSON.stringify({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })}\n`)
})
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => process.exit(0))
// It belongs to the quickstart: when that goes, however it goes, it goes too.
process.stdin.on('end', () => process.exit(0)).resume()
