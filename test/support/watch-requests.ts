/** Looks at every request of a test: what it confides is searched for from then on, and no refusal may repeat it. */
import { inject } from 'vitest'
import { confide, requireNone, secretsOf } from './secrets.ts'

const OURS = /^\/(api|pcm_api)\//
const really = globalThis.fetch

globalThis.fetch = async (input, init) => {
  const response = await really(input, init)
  const url = new URL(input instanceof Request ? input.url : input)
  if (!OURS.test(url.pathname)) return response
  const sent = typeof init?.body === 'string' ? init.body : ''
  const secrets = secretsOf(parsed(sent))
  if (!response.ok) {
    const said = await response.clone().text()
    // What stands in another field as well may be repeated for that one's sake.
    requireNone(
      `the answer ${response.status} to ${init?.method ?? 'GET'} ${url.pathname}`,
      said,
      onlyOnce(sent, secrets),
    )
  } else confide(secrets, inject('secrets_file'))
  return response
}

const onlyOnce = (text: string, secrets: readonly string[]): string[] =>
  secrets.filter((secret) => text.split(JSON.stringify(secret).slice(1, -1)).length === 2)

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
