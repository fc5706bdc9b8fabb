/**
 * Every recorded history goes the same way on today's workflows. What to do when one does not: CONTRIBUTING.md, "Changing
 * a workflow".
 */
import { join } from 'node:path'
import { bundleWorkflowCode, DefaultLogger, Runtime, Worker, type WorkflowBundleOption } from '@temporalio/worker'
import { DeterminismViolationError } from '@temporalio/workflow'
import { expect, inject, test } from 'vitest'
import * as workflows from '../../workflows/index.ts'
import { FOLDER, fileOf, look, readHistories, WAYS } from './catalogue.ts'

// The last test is about failures: nobody needs to read of each.
Runtime.install({
  shutdownSignals: [],
  logger: new DefaultLogger('ERROR'),
  telemetryOptions: { logging: { forward: {}, filter: 'ERROR' } },
})

const histories = await readHistories()
const ways = Object.entries(WAYS).flatMap(([type, of_type]) =>
  Object.entries(of_type).map(([way, shows]) => ({ type, way, shows, file: fileOf(type, way) })),
)

/** The files whose replay fails, with how. */
async function replay(workflowBundle: WorkflowBundleOption): Promise<Map<string, Error>> {
  const named = [...histories].map(([workflowId, history]) => ({ workflowId, history }))
  const failed = new Map<string, Error>()
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle }, named))
    if (error) failed.set(workflowId, error)
  return failed
}

test('every workflow type has its ways, and every way its history', () => {
  expect(Object.keys(WAYS).toSorted()).toEqual(Object.keys(workflows).toSorted())
  expect([...histories.keys()]).toEqual(ways.map(({ file }) => file).toSorted())
})

test.each(ways)('$type: $way is what its history shows', ({ file, shows }) => {
  expect(shows(look(histories.get(file)!))).toBe(true)
})

test('every history replays on the workflows of today', async () => {
  const failed = await replay({ codePath: inject('workflow_bundle') })
  expect([...failed].map(([file, error]) => `${file}: ${error.message}`)).toEqual([])
})

test('no history replays on workflows that do something else', async () => {
  const different = await bundleWorkflowCode({
    workflowsPath: join(FOLDER, 'every-flow-differs.ts'),
    logger: new DefaultLogger('ERROR'),
  })
  const failed = await replay(different)
  expect([...failed.keys()]).toEqual([...histories.keys()])
  for (const error of failed.values()) expect(error).toBeInstanceOf(DeterminismViolationError)
})
