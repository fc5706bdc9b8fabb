/** The engine's floor: workflows that do nothing but what they are named after. */
import { proxyActivities, proxyLocalActivities, sleep } from '@temporalio/workflow'

const { nothing } = proxyActivities<{ nothing(): Promise<void> }>({ startToCloseTimeout: '10s' })
const local = proxyLocalActivities<{ nothing(): Promise<void> }>({ startToCloseTimeout: '4s' })

export async function noop(): Promise<void> {}

export async function oneActivity(): Promise<void> {
  await nothing()
}

export async function oneLocalActivity(): Promise<void> {
  await local.nothing()
}

/** Sleeps until a moment, ms since 1970; `0`: 50 ms. */
export async function timer(due_ms: number): Promise<void> {
  await sleep(due_ms ? Math.max(1, due_ms - Date.now()) : 50)
}
