/**
 * A client that holds the API to its word: EVERY answer it sees is checked against /openapi.json, and one that does not
 * match fails the test. An error answer fails it, too, unless the test says that it expects that status.
 */
import { Ajv2020 } from 'ajv/dist/2020.js'
import formats from 'ajv-formats'

export interface RequestOptions {
  /** The status expected; default: any 2xx. */
  readonly expect?: number
  readonly key?: string
  readonly if_match?: string
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as it is, instead of the body as JSON. */
  readonly raw?: string
}

export interface Answer<Body> {
  readonly status: number
  readonly headers: Headers
  readonly body: Body
}

export interface ErrorAnswer {
  readonly error: {
    readonly code: string
    readonly message: string
    readonly request_id: string
    readonly problems?: readonly { readonly path: string; readonly reason: string; readonly accepted?: string[] }[]
  }
}

/** What answers hold is said by the test; the shape was checked against the document. */
export interface ApiClient {
  get<Body>(path: string, options?: RequestOptions): Promise<Answer<Body>>
  delete<Body>(path: string, options?: RequestOptions): Promise<Answer<Body>>
  post<Body>(path: string, body?: unknown, options?: RequestOptions): Promise<Answer<Body>>
  put<Body>(path: string, body?: unknown, options?: RequestOptions): Promise<Answer<Body>>
  patch<Body>(path: string, body?: unknown, options?: RequestOptions): Promise<Answer<Body>>
  request<Body>(method: string, path: string, body?: unknown, options?: RequestOptions): Promise<Answer<Body>>
}

export interface OpenApiDocument {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
}
export interface Operation {
  readonly security?: readonly unknown[]
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly required?: boolean }[]
  readonly requestBody?: unknown
  readonly responses: Readonly<Record<string, { readonly content?: Readonly<Record<string, unknown>> }>>
}

type Check = (method: string, path: string, answer: Answer<unknown>, type: string) => void

const checks = new Map<string, Promise<Check>>()

/** Opens a client; `url` is asked at each request, so that a service may come back at another port. */
export function openApiClient(url: string | (() => string), token: string | null): ApiClient {
  const base = typeof url === 'string' ? () => url : url
  const request = async <Body>(
    method: string,
    path: string,
    body?: unknown,
    options: RequestOptions = {},
  ): Promise<Answer<Body>> => {
    const sent = options.raw ?? (body === undefined ? undefined : JSON.stringify(body))
    const response = await fetch(base() + path, {
      method,
      headers: {
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(sent === undefined ? {} : { 'content-type': 'application/json' }),
        ...(options.key ? { 'idempotency-key': options.key } : {}),
        ...(options.if_match ? { 'if-match': options.if_match } : {}),
        ...options.headers,
      },
      ...(sent === undefined ? {} : { body: sent }),
    })
    const text = await response.text()
    const type = (response.headers.get('content-type') ?? '').split(';')[0]!
    const parsed: unknown = type === 'application/json' ? JSON.parse(text) : text
    const answer = { status: response.status, headers: response.headers, body: parsed }
    const said = `${method} ${path} answered ${response.status}: ${text.slice(0, 2_000)}`
    const check = await checkFor(base())
    check(method, path, answer, type)
    if (options.expect === undefined ? !response.ok : response.status !== options.expect)
      throw new Error(`${said}\nexpected: ${options.expect ?? '2xx'}; sent: ${sent?.slice(0, 1_000) ?? 'nothing'}`)
    return answer as Answer<Body>
  }
  return {
    request,
    get: (path, options) => request('GET', path, undefined, options),
    delete: (path, options) => request('DELETE', path, undefined, options),
    post: (path, body, options) => request('POST', path, body, options),
    put: (path, body, options) => request('PUT', path, body, options),
    patch: (path, body, options) => request('PATCH', path, body, options),
  }
}

/** The service's own description of itself. */
export async function readDocument(url: string): Promise<OpenApiDocument> {
  const response = await fetch(`${url}/openapi.json`)
  if (!response.ok) throw new Error(`/openapi.json answered ${response.status}: ${await response.text()}`)
  return (await response.json()) as OpenApiDocument
}

function checkFor(url: string): Promise<Check> {
  let check = checks.get(url)
  if (!check) {
    check = readDocument(url).then(makeCheck)
    checks.set(url, check)
    check.catch(() => checks.delete(url))
  }
  return check
}

function makeCheck(document: OpenApiDocument): Check {
  const ajv = new Ajv2020({ strict: false, allErrors: true })
  formats.default(ajv)
  ajv.addSchema(document, 'openapi')
  const routes = Object.keys(document.paths).map((template) => ({
    template,
    pattern: new RegExp(`^${template.replaceAll('.', '\\.').replaceAll(/\{[^}]+\}/g, '[^/]+')}$`),
  }))
  const pointer = (...parts: string[]) =>
    `openapi#/${parts.map((part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1'))).join('/')}`
  return function check(method, path, answer, type) {
    const pathname = path.split('?')[0]!
    const verb = method.toLowerCase()
    const route = routes.find(({ pattern, template }) => pattern.test(pathname) && document.paths[template]?.[verb])
    const said = `${method} ${path} answered ${answer.status} (${type}): ${JSON.stringify(answer.body)?.slice(0, 2_000)}`
    let reference = pointer('components', 'schemas', path.startsWith('/pcm_api') ? 'PcmError' : 'Error')
    if (route) {
      const response = document.paths[route.template]![verb]!.responses[String(answer.status)]
      if (!response) throw new Error(`${said}\nThe document has no such answer.`)
      if (!response.content) {
        if (answer.body !== '') throw new Error(`${said}\nThe document has no body for it.`)
        return
      }
      if (!response.content[type]) throw new Error(`${said}\nThe document has no such type of body.`)
      const parts = ['paths', route.template, verb, 'responses', String(answer.status), 'content', type, 'schema']
      reference = pointer(...parts)
    } else if (answer.status < 400) return // not described: the document itself
    const validate = ajv.getSchema(reference)
    if (!validate) throw new Error(`${said}\nThe document has no schema at ${reference}.`)
    if (!validate(answer.body))
      throw new Error(`${said}\nThe document says otherwise: ${ajv.errorsText(validate.errors)}`)
  }
}
