/** A step that fails over and over: its flow says so in the Temporal UI, and tries it again. */
import { ActivityFailure, isCancellation, setCurrentDetails, sleep } from '@temporalio/workflow'

const PAUSE_MS = 3_000

/** What failed, in one sentence, for people. */
export function reasonOf(error: unknown): string {
  const cause = error instanceof ActivityFailure ? error.cause : error
  return cause instanceof Error ? cause.message : 'unknown'
}

/** A flow's details while a step of it fails. */
export const blockedDetails = (details: string, failing: string): string =>
  `${details}\n\nBlocked: \`step_failing\`, ${failing}`

/**
 * One run of an activity that stays for minutes; `details` are what its flow says meanwhile. If it fails, the flow says
 * so and pauses; `null` tells the flow to run it again.
 */
export async function stay<Result>(details: string, run: () => Promise<Result>): Promise<Result | null> {
  setCurrentDetails(details)
  try {
    return await run()
  } catch (error) {
    if (isCancellation(error)) throw error
    setCurrentDetails(blockedDetails(details, `it fails: ${reasonOf(error)}; it is tried again`))
    await sleep(PAUSE_MS, { summary: 'it failed; it is tried again after a pause' })
    return null
  }
}
