/** Today's flows, each with a timer more before it begins: a change that no history may survive. */
import { sleep } from '@temporalio/workflow'
import * as today from '../../workflows/index.ts'

const differing =
  <Flow extends (...args: never[]) => Promise<void>>(flow: Flow) =>
  async (...args: Parameters<Flow>): Promise<void> => {
    await sleep(1)
    await flow(...args)
  }

export const cloudWatch = differing(today.cloudWatch)
export const deployment = differing(today.deployment)
export const hookLane = differing(today.hookLane)
export const hookSender = differing(today.hookSender)
export const housekeeping = differing(today.housekeeping)
export const instance = differing(today.instance)
export const launchOrder = differing(today.launchOrder)
export const lease = differing(today.lease)
