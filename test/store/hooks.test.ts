import { v7 as newId } from 'uuid'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { write } from '../../store/database.ts'
import {
  deleteHook,
  disableHook,
  enableHook,
  findHook,
  HOOKS_PER_PROJECT_MAX,
  hookSecrets,
  insertHook,
  listHooks,
  shardOf,
  updateHook,
} from '../../store/hooks.ts'
import { CAUSE, type HookWorld, hookWorld } from '../support/hook-world.ts'

let world: HookWorld
beforeAll(async () => {
  world = await hookWorld()
})
afterAll(() => world.close())

const eventsOf = (hook_id: string) =>
  world.store.db
    .selectFrom('events')
    .select(['type', 'sequence', 'to_state', 'snapshot', 'cause'])
    .where('resource_id', '=', hook_id)
    .orderBy('sequence')
    .execute()

describe('making a hook', () => {
  test('gives a secret once, sealed in the record for this hook alone', async () => {
    const { hook, secret } = await world.addHook('https://a.example/')
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
    const [sealed] = await hookSecrets(world.store.db, hook.id)
    expect(world.envelope.open(sealed!, hook.id)).toBe(secret)
    expect(hook).toMatchObject({ state: 'active', owner: 'sender', sequence: 1, shard: shardOf(hook.id) })
    const events = await eventsOf(hook.id)
    expect(events).toMatchObject([{ type: 'hook.created', sequence: 1, cause: CAUSE }])
    expect(JSON.stringify(events)).not.toContain(secret)
  })
  test('the same again is the hook that is there, without its secret', async () => {
    const first = await world.addHook('https://twin.example/', { filter: { types: ['instance.*'] } })
    const [again, other] = await Promise.all([
      world.addHook('https://twin.example/', { filter: { types: ['instance.*'] } }),
      world.addHook('https://twin.example/', { filter: { types: ['order.*'] } }),
    ])
    expect(again).toMatchObject({ hook: { id: first.hook.id }, secret: '' })
    expect(other.hook.id).not.toBe(first.hook.id)
    expect(await eventsOf(first.hook.id)).toHaveLength(1)
  })
  test('made at the same moment twice, there is one', async () => {
    const made = await Promise.all(Array.from({ length: 5 }, () => world.addHook('https://race.example/')))
    expect(new Set(made.map((entry) => entry.hook.id)).size).toBe(1)
    expect(made.filter((entry) => entry.secret)).toHaveLength(1)
  })
  test('ends at 50 a project', async () => {
    const project_id = newId()
    await world.store.db.insertInto('projects').values({ id: project_id, name: 'full' }).execute()
    const add = (index: number) =>
      write(world.store, (trx) =>
        insertHook(
          trx,
          { project_id, user_id: world.user_id, uri: `https://h${index}.example/`, cause: CAUSE },
          world.envelope,
        ),
      )
    for (let index = 0; index < HOOKS_PER_PROJECT_MAX; index++) await add(index)
    await expect(add(HOOKS_PER_PROJECT_MAX)).rejects.toMatchObject({ code: 'limit_reached' })
    expect(await listHooks(world.store.db, project_id)).toHaveLength(HOOKS_PER_PROJECT_MAX)
    await expect(add(0)).resolves.toMatchObject({ created: false })
  })
})

describe('changing a hook', () => {
  test('raises its sequence and writes an event, only when something changes', async () => {
    const { hook } = await world.addHook('https://change.example/?token=hidden')
    const request = { project_id: world.project_id, id: hook.id, cause: CAUSE }
    const change = (changes: Parameters<typeof updateHook>[2], expected_sequence?: number) =>
      write(world.store, (trx) =>
        updateHook(trx, { ...request, ...(expected_sequence ? { expected_sequence } : {}) }, changes),
      )
    expect((await change({ uri: hook.uri, filter: { resource_type: 'instance' } })).sequence).toBe(1)
    expect((await change({ uri: 'https://changed.example/?token=hidden' }, 1)).sequence).toBe(2)
    expect((await change({ filter: { types: ['order.*'] }, description: 'x' })).filter).toEqual({ types: ['order.*'] })
    await expect(change({ description: 'y' }, 1)).rejects.toMatchObject({ code: 'version_mismatch' })
    const events = await eventsOf(hook.id)
    expect(events.map((event) => event.type)).toEqual(['hook.created', 'hook.updated', 'hook.updated'])
    expect(JSON.stringify(events)).not.toContain('hidden')
  })
  test("another project's hook is not there", async () => {
    const { hook } = await world.addHook('https://mine.example/')
    expect(await findHook(world.store.db, newId(), hook.id)).toBeUndefined()
    const foreign = { project_id: newId(), id: hook.id, cause: CAUSE }
    await expect(write(world.store, (trx) => updateHook(trx, foreign, { description: 'x' }))).rejects.toMatchObject({
      code: 'not_found',
    })
    expect(await write(world.store, (trx) => deleteHook(trx, foreign))).toBe(false)
  })
  test('disabled, its events are parked; enabled, they are to be sent in order; deleted, they are cancelled', async () => {
    const { hook } = await world.addHook('https://park.example/')
    const request = { project_id: world.project_id, id: hook.id, cause: CAUSE }
    const states = async () => (await world.deliveries()).filter((d) => d.hook_id === hook.id).map((d) => d.state)
    await world.emit(newId(), 1)
    await write(world.store, (trx) => disableHook(trx, { ...request, reason: 'by_person' }))
    await write(world.store, (trx) => disableHook(trx, { ...request, reason: 'by_person' }))
    await world.emit(newId(), 1)
    expect(await states()).toEqual(['parked', 'parked'])
    await write(world.store, (trx) => enableHook(trx, request))
    expect((await write(world.store, (trx) => enableHook(trx, request))).sequence).toBe(3)
    expect(await states()).toEqual(['pending', 'pending'])
    expect(await write(world.store, (trx) => deleteHook(trx, request))).toBe(true)
    expect(await write(world.store, (trx) => deleteHook(trx, request))).toBe(false)
    await world.emit(newId(), 1)
    expect(await states()).toEqual(['cancelled', 'cancelled'])
    expect(await findHook(world.store.db, world.project_id, hook.id)).toBeUndefined()
    expect((await eventsOf(hook.id)).map((event) => event.to_state)).toEqual([
      'active',
      'disabled',
      'active',
      'deleted',
    ])
  })
})
