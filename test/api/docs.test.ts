/** The reference page: there for everybody, and wholly from here. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ApiServer, startApi } from '../support/api-server.ts'

let server: ApiServer
beforeAll(async () => {
  server = await startApi()
})
afterAll(() => server.close())

const OUTSIDE = /(?:src|href|url|action)\s*[=(:]\s*["']?(?:[a-z]+:)?\/\/|@import|https?:/i

test('names no other host, and all that it names is there, public', async () => {
  const page = await fetch(`${server.url}/docs`)
  expect(page.status).toBe(200)
  expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8')
  const html = await page.text()
  expect(html).not.toMatch(OUTSIDE)
  const script = await (await fetch(`${server.url}/docs/page.js`)).text()
  expect(script).not.toMatch(OUTSIDE)
  const named = [...`${html}${script}`.matchAll(/["'](\/[^"']+)["']/g)].map(([, path]) => path!)
  expect(named).toContain('/openapi.json')
  expect(named.length).toBeGreaterThan(5)
  for (const path of named) {
    const answer = await fetch(server.url + path)
    expect(answer.status, path).toBe(200)
    expect((await answer.arrayBuffer()).byteLength, path).toBeGreaterThan(10)
  }
  const style = await (await fetch(`${server.url}/docs/swagger-ui.css`)).text()
  expect([...style.matchAll(/url\(([^)]*)\)/g)].filter(([, url]) => !/^["']?(data:|#)/.test(url!))).toEqual([])
})

test('allows the browser nothing from elsewhere, and is kept by it until it changes', async () => {
  for (const path of ['/docs', '/docs/swagger-ui-bundle.js']) {
    const first = await fetch(server.url + path)
    const policy = first.headers.get('content-security-policy')!
    expect(policy).toContain("default-src 'self'")
    expect(policy).not.toMatch(/https?:|\*|unsafe-eval|script-src/)
    expect(first.headers.get('cache-control')).toContain('no-cache')
    const again = await fetch(server.url + path, { headers: { 'if-none-match': first.headers.get('etag')! } })
    expect(again.status).toBe(304)
  }
})
