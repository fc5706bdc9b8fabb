/**
 * Lets the SDK download Temporal's development server into a folder: `node temporal-download.ts FOLDER`. The SDK does
 * so only on the way to a running server, so one is started and ended again.
 */
import { TestWorkflowEnvironment } from '@temporalio/testing'

try {
  const environment = await TestWorkflowEnvironment.createLocal({
    server: { executable: { type: 'cached-download', downloadDir: process.argv[2]!, ttl: '3650d' } },
  })
  await environment.teardown()
} catch (error) {
  // One line: the SDK's own names the address and each cause twice.
  process.stderr.write(`${(error instanceof Error ? error.message : String(error)).split(': ').slice(-2).join(': ')}\n`)
  process.exitCode = 1
}
