/** All workflows; the bundle's entry. */
export { cloudWatch } from './cloud-watch.ts'
export { deployment } from './deployment.ts'
export { hookLane } from './hook-lane.ts'
export { hookSender } from './hook-sender.ts'
export { housekeeping } from './housekeeping.ts'
export { instance } from './instance.ts'
export { launchOrder } from './launch-order.ts'
export { lease } from './lease.ts'
