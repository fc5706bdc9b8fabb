import { resolve } from 'node:path'
import { expect, test } from 'vitest'
import { ConfigError, readConfig } from '../../worker/config.ts'

test('the configuration directory is a folder that is there, or none', () => {
  expect(readConfig([], {}).config_dir).toBe(undefined)
  expect(readConfig([], { HOLDFAST_CONFIG_DIR: '' }).config_dir).toBe(undefined)
  expect(readConfig([], { HOLDFAST_CONFIG_DIR: 'examples/pcm' }).config_dir).toBe(resolve('examples/pcm'))
  for (const path of ['examples/nowhere', 'package.json'])
    expect(() => readConfig([], { HOLDFAST_CONFIG_DIR: path })).toThrow(
      new ConfigError('HOLDFAST_CONFIG_DIR: is not a folder that is there'),
    )
})
