/** The ledger of a simulated cloud, as its control API tells it (docs/simulated-cloud.md). */
import type { CloudLedger, CloudRequest, MachineLife } from './ledgers.ts'
import { type Json, numberOrNull, object, textOrNull } from './shapes.ts'

const LINES_OF_PAGE = 10_000
const ATTEMPT_TAG = 'holdfast_attempt'
const INSTALLATION_TAG = 'holdfast_installation'
const MACHINE_PATH = /\/machines\/([^/?]+)/

/** Reads one cloud: what was asked of it, and the life of every machine. */
export async function readCloud(
  simulated_url: string,
  name: string,
  get: (address: URL) => Promise<Response>,
): Promise<CloudLedger> {
  const base = new URL(`/control/clouds/${encodeURIComponent(name)}/`, simulated_url)
  const read = async (path: string): Promise<Response> => {
    const address = path ? new URL(path, base) : new URL(base.href.slice(0, -1))
    const response = await get(address)
    if (!response.ok) throw new Error(`GET ${address.pathname} answered ${response.status}`)
    return response
  }
  const { configuration } = object(await (await read('')).json())
  const requests: CloudRequest[] = []
  const lives: Lives = new Map()
  for (let after = '0', complete = false; !complete; ) {
    const page = await read(`ledger?after=${after}&limit=${LINES_OF_PAGE}`)
    for (const line of (await page.text()).split('\n')) {
      if (line) note(object(JSON.parse(line)), requests, lives)
    }
    after = page.headers.get('x-next-after') ?? after
    complete = page.headers.get('x-complete') !== 'false'
  }
  // Read after the ledger: a machine made meanwhile is then known, if not its request.
  const { machines } = object(await (await read('machines')).json())
  return {
    name,
    idempotency_tokens: object(configuration).idempotency_tokens === true,
    requests,
    machines: (Array.isArray(machines) ? machines : []).map((row) => toLife(object(row), lives)),
  }
}

/** The states of each machine. */
type Lives = Map<string, { at_ms: number; state: string }[]>

function note(line: Json, requests: CloudRequest[], lives: Lives): void {
  const at_ms = numberOrNull(line.at) ?? Number.NaN
  if (line.kind === 'request') {
    const verb = textOrNull(line.verb) ?? ''
    const body = bodyOf(line.body)
    requests.push({
      at_ms,
      verb,
      machine_id: MACHINE_PATH.exec(textOrNull(line.path) ?? '')?.[1] ?? null,
      attempt_id: textOrNull(object(body.tags)[ATTEMPT_TAG]),
      ...(verb === 'reboot' ? { reboot: textOrNull(body.kind) ?? 'soft' } : {}),
    })
  }
  if (line.kind !== 'machine' || !STATES.has(textOrNull(line.change) ?? '')) return
  const machine_id = textOrNull(line.machine_id) ?? ''
  lives.set(machine_id, [...(lives.get(machine_id) ?? []), { at_ms, state: textOrNull(line.state) ?? '' }])
}

/** Changes of a machine by which it goes into a state. */
const STATES = new Set(['created', 'state', 'gone', 'vanished'])

/** The raw body of a request. */
function bodyOf(body: unknown): Json {
  try {
    return object(typeof body === 'string' ? JSON.parse(body) : body)
  } catch {
    return {}
  }
}

/** When it failed for good; null: it runs again, or never did. */
function failedAt(states: MachineLife['states']): number | null {
  const last = states.findLast(({ state }) => state === 'failed' || state === 'running')
  return last?.state === 'failed' ? last.at_ms : null
}

function toLife(row: Json, lives: Lives): MachineLife {
  const tags = object(row.tags)
  const provider_id = textOrNull(row.id) ?? ''
  const states = lives.get(provider_id) ?? []
  return {
    provider_id,
    attempt_id: textOrNull(tags[ATTEMPT_TAG]),
    installation_id: textOrNull(tags[INSTALLATION_TAG]),
    state: textOrNull(row.state) ?? '',
    host: textOrNull(row.host),
    created_at_ms: numberOrNull(row.created_at) ?? Number.NaN,
    running_at_ms: numberOrNull(row.booted_at),
    failed_at_ms: failedAt(states),
    delete_requested_at_ms: numberOrNull(row.delete_requested_at),
    gone_at_ms: numberOrNull(row.gone_at),
    states,
  }
}
