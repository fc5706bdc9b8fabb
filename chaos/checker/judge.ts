/** The judge: from the ledgers alone to a verdict. Pure; it knows nothing of how the service works inside. */
import { openDossier } from './dossier.ts'
import type { JudgeOptions, Verdict } from './findings.ts'
import { judgeActions } from './judge-actions.ts'
import { judgeDeployments } from './judge-deployments.ts'
import { judgeEvents } from './judge-events.ts'
import { judgeHealing } from './judge-healing.ts'
import { judgeHooks } from './judge-hooks.ts'
import { judgeHosts } from './judge-hosts.ts'
import { judgeMachines } from './judge-machines.ts'
import { judgeMoments } from './judge-moments.ts'
import { judgePromises } from './judge-promises.ts'
import { judgeReceipts } from './judge-receipts.ts'
import type { Ledgers } from './ledgers.ts'

export type { Counter, JudgeOptions, Verdict } from './findings.ts'
export { COUNTERS } from './findings.ts'

/** Judges what happened. `ok`: no counter above zero; duplicates are allowed where faults were injected. */
export function judge(ledgers: Ledgers, options: JudgeOptions): Verdict {
  const dossier = openDossier(ledgers, options)
  judgePromises(dossier)
  judgeMachines(dossier)
  judgeHosts(dossier)
  judgeMoments(dossier)
  judgeActions(dossier)
  judgeDeployments(dossier)
  judgeHealing(dossier)
  judgeReceipts(dossier)
  judgeEvents(dossier)
  judgeHooks(dossier)
  return dossier.findings.verdict(options)
}
