/** Hosts of clouds: kept by operators, never forgotten while a lease has one. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { submitLease, untilLease } from '../support/flow.ts'
import { type Harness, type Project, startHarness } from '../support/harness.ts'

let h: Harness
let project: Project
let path: string
let cloud: string
beforeAll(async () => {
  h = await startHarness()
  project = await h.project()
  cloud = (await h.cloud(project)).name
  path = `/api/clouds/${cloud}/hosts`
})
afterAll(() => h.close())

interface Host {
  readonly name: string
  readonly properties: Record<string, unknown>
  readonly reservable: boolean
  readonly leases: readonly { readonly lease_id: string; readonly held: boolean }[]
  readonly sequence: number
}

test('a host is made known, changed and forgotten', async () => {
  const made = await h.operator.post<{ host: Host }>(path, { name: 'metal-1', properties: { gpu: 4 } })
  expect(made.status).toBe(201)
  expect(made.headers.get('location')).toBe(`${path}/metal-1`)
  expect(made.body.host).toMatchObject({ name: 'metal-1', properties: { gpu: 4 }, reservable: true, leases: [] })
  await h.operator.post(path, { name: 'metal-1' }, { expect: 409 })
  const changed = await h.operator.patch<{ host: Host }>(`${path}/metal-1`, { reservable: false })
  expect(changed.body.host).toMatchObject({ properties: { gpu: 4 }, reservable: false, sequence: 2 })
  const same = await h.operator.patch<{ host: Host }>(`${path}/metal-1`, { reservable: false })
  expect(same.body.host.sequence).toBe(2)
  await h.operator.patch(`${path}/metal-1`, { reservable: true }, { if_match: '"1"', expect: 412 })
  await h.operator.delete(`${path}/metal-1`, { expect: 204 })
  await h.operator.get(`${path}/metal-1`, { expect: 404 })
  await h.operator.delete(`${path}/metal-1`, { expect: 404 })
  // The name is free again.
  await h.operator.post(path, { name: 'metal-1', reservable: false }, { expect: 201 })
})

test('hosts are listed in the order in which they were made, by pages', async () => {
  for (const name of ['page-1', 'page-2', 'page-3']) await h.operator.post(path, { name, reservable: false })
  const names: string[] = []
  for (let next: string | null = ''; next !== null; ) {
    const page: { body: { hosts: Host[]; next: string | null } } = await h.operator.get(
      `${path}?limit=2${next && `&cursor=${next}`}`,
    )
    names.push(...page.body.hosts.map(({ name }) => name))
    next = page.body.next
  }
  expect(names.filter((name) => name.startsWith('page-'))).toEqual(['page-1', 'page-2', 'page-3'])
})

test('one that is booked, or held, is not forgotten, and one that is not reservable is not given out', async () => {
  await h.operator.post(path, { name: 'rack-1' })
  const lease = await submitLease(project, { end_in_ms: 600_000, hosts: { cloud, count: 1 } })
  expect(lease.hosts!.names).toEqual(['rack-1'])
  await untilLease(project.api, lease.id, ['ACTIVE'])
  const refused = await h.operator.delete<{ error: { message: string } }>(`${path}/rack-1`, { expect: 409 })
  expect(refused.body.error.message).toBe('host rack-1 is booked or held by 1 lease')
  await h.operator.patch(`${path}/rack-1`, { reservable: false })
  await project.api.delete(`/api/leases/${lease.id}`)
  await untilLease(project.api, lease.id, ['TERMINATED'])
  const body = { name: 'night', start_at: 'now', end_at: new Date(Date.now() + 60_000).toISOString() }
  await project.api.post('/api/leases', { ...body, hosts: { cloud, count: 1 } }, { expect: 409 })
  await h.operator.delete(`${path}/rack-1`, { expect: 204 })
})

test('they are for operators: others neither see nor change them, nor learn whether there are any', async () => {
  const outsider = await h.project()
  for (const { api } of [project, outsider]) {
    await api.get(path, { expect: 403 })
    await api.get(`${path}/metal-1`, { expect: 403 })
    await api.post(path, { name: 'mine' }, { expect: 403 })
    await api.delete(`${path}/metal-1`, { expect: 403 })
  }
  await h.operator.get('/api/clouds/nowhere/hosts', { expect: 404 })
  await h.operator.post('/api/clouds/nowhere/hosts', { name: 'metal-1' }, { expect: 404 })
})
