import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/watch-requests.ts'],
    // Temporal's native runtime is per process.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    // CI shares its machine: a test that stumbles once over somebody else's load is run again, and the output says so.
    retry: process.env.CI ? 1 : 0,
    hookTimeout: 120_000,
  },
})
