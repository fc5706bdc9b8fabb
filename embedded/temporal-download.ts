/**
 * Lets the SDK download Temporal's development server into a folder: `node temporal-download.ts FOLDER`. The SDK does
 * so only on the way to a running server, so one is started and ended again.
 */
import { TestWorkflowEnvironment } from '@temporalio/testing'

const environment = await TestWorkflowEnvironment.createLocal({
  server: { executable: { type: 'cached-download', downloadDir: process.argv[2]!, ttl: '3650d' } },
})
await environment.teardown()
