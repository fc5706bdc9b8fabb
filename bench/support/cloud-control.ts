/** The simulated cloud's own side: what it is told to do, and what its books say. */

export interface CloudMachine {
  readonly id: string
  readonly gone_at: number | null
}
export interface LedgerLine {
  readonly seq: number
  /** ms since 1970. */
  readonly at: number
  readonly kind: string
  readonly status?: number
}

export interface CloudControl {
  send(method: string, path: string, body?: unknown): Promise<string>
  /** All it ever had. */
  machines(): Promise<readonly CloudMachine[]>
  ledger(): Promise<readonly LedgerLine[]>
}

const PAGE = 1_000

/** Opens the control API of one cloud. */
export function openControl(simulated_url: string, name: string): CloudControl {
  const control: CloudControl = {
    async send(method, path, body) {
      const response = await fetch(`${simulated_url}/control/clouds/${name}${path}`, {
        method,
        ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      })
      const text = await response.text()
      if (!response.ok) throw new Error(`the simulated cloud refused: ${text}`)
      return text
    },
    machines: async () => (JSON.parse(await control.send('GET', '/machines')) as { machines: CloudMachine[] }).machines,
    async ledger() {
      const lines: LedgerLine[] = []
      for (;;) {
        const text = await control.send('GET', `/ledger?after=${lines.at(-1)?.seq ?? 0}&limit=${PAGE}`)
        const page = text.split('\n').filter(Boolean)
        lines.push(...page.map((line) => JSON.parse(line) as LedgerLine))
        if (page.length < PAGE) return lines
      }
    },
  }
  return control
}
